//! A server on a tiny model, called without a socket.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use fathom_engine::{Engine, Request as EngineRequest, SamplingParams};
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{LoadOptions, Model};
use fathom_server::{App, KeyConfig, Keys, ServerConfig, Words};
use fathom_text::{ChatTemplate, GenerationConfig, Tokenizer};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) const KEY: &str = "sk-test-0123456789abcdef";
pub(crate) const OTHER_KEY: &str = "sk-test-fedcba9876543210";
pub(crate) const ADMIN: &str = "admin-test-0123456789";

pub(crate) struct Stage {
    pub(crate) app: Arc<App>,
    pub(crate) engine: Engine,
    _state: tempfile::TempDir,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// With tiny-v3, and settings as `change` makes them.
pub(crate) fn stage(change: impl FnOnce(&mut ServerConfig)) -> Stage {
    stage_with("tiny-v3", None, change)
}

/// With another model, or with the chat template of another folder.
pub(crate) fn stage_with(
    name: &str,
    template: Option<&str>,
    change: impl FnOnce(&mut ServerConfig),
) -> Stage {
    let dir = fixture(name);
    let options = LoadOptions::new(WeightFormat::F32);
    let model = Model::load(&dir, Compute::new(1).unwrap(), options, &mut |_, _| {}).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_dir(&dir).unwrap());
    let template = ChatTemplate::from_dir(&template.map_or(dir, fixture)).unwrap();
    let state = tempfile::tempdir().unwrap();
    let key = |name: &str, key: &str| KeyConfig { name: name.into(), key: Some(key.into()), sha256: None };
    let mut config = ServerConfig {
        state_dir: Some(state.path().to_owned()),
        keys: vec![key("test", KEY), key("other", OTHER_KEY)],
        admin_token: Some(ADMIN.to_owned()),
        listen: "127.0.0.1:0".parse().unwrap(),
        cache_tokens: Some(8192),
        ..ServerConfig::default()
    };
    change(&mut config);
    let (keys, made, _) = Keys::open(&config).unwrap();
    assert_eq!(made, None, "there are keys already");
    let engine = Engine::start(model, tokenizer.clone(), vec![1], config.engine_options()).unwrap();
    let recommendation = GenerationConfig { temperature: Some(0.0), ..GenerationConfig::default() };
    let words = Words { tokenizer, template: Some(template), recommendation };
    Stage { app: App::new(engine.clone(), words, config, keys, "tiny"), engine, _state: state }
}

pub(crate) fn request(method: &str, path: &str, key: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

impl Stage {
    /// Makes the engine's thread panic.
    pub(crate) async fn crash(&self) {
        let (tenant, namespace) = ("somebody".to_owned(), String::new());
        let params = SamplingParams { max_tokens: Some(2), ..SamplingParams::default() };
        let sink = Box::new(|_| panic!("on purpose: the engine's thread ends"));
        let request = EngineRequest { prompt: vec![5], params, tenant, namespace, constraint: None, sink };
        self.engine.submit(request).unwrap();
        while !self.engine.has_crashed() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        self.app.routes().oneshot(request).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.post_as(KEY, path, body).await
    }

    pub(crate) async fn post_as(&self, key: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let (status, text) = text(self.call(request("POST", path, key, body.to_string())).await).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text:?}")))
    }

    /// The data of server-sent events, but for `[DONE]`, which must be the last.
    pub(crate) async fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.call(request("POST", path, KEY, body.to_string())).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (status, text) = text(response).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let mut data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        if !path.starts_with("/anthropic") {
            assert_eq!(data.pop(), Some("[DONE]"));
        }
        data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}
