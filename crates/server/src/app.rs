//! Everything that requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use fathom_engine::Engine;
use fathom_text::{ChatTemplate, GenerationConfig, Tokenizer, ToolCallFormat};
use tokio::sync::Semaphore;

use crate::admission::{Admission, PerKeyLimit};
use crate::api_error::{ApiError, ApiResult};
use crate::config::ServerConfig;
use crate::identity::now;
use crate::keys::Keys;
use crate::metrics::Metrics;

/// What a model says beside its weights.
#[derive(Clone, Debug)]
pub struct Words {
    /// Words to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Writes conversations down. Without one there is no chat, only completions.
    pub template: Option<ChatTemplate>,
    /// The sampling that holds where a request does not say.
    pub recommendation: GenerationConfig,
}

/// The limits that are times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) header_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) queue_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) drain_timeout: Duration,
}

/// A model behind an API: engine, words, keys and settings.
pub struct App {
    pub(crate) engine: Engine,
    pub(crate) words: Words,
    pub(crate) tool_format: Option<ToolCallFormat>,
    pub(crate) config: ServerConfig,
    pub(crate) limits: Limits,
    pub(crate) keys: Keys,
    pub(crate) admission: Box<dyn Admission>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) model_id: String,
    /// Kibibytes of bodies that may still be read.
    pub(crate) bodies: Arc<Semaphore>,
    pub(crate) draining: AtomicBool,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) started: Instant,
}

impl App {
    /// Puts an API before an engine. `name` is the model's, where the configuration gives none.
    pub fn new(engine: Engine, words: Words, config: ServerConfig, keys: Keys, name: &str) -> Arc<Self> {
        let seconds = Duration::from_secs_f64;
        Arc::new(Self {
            tool_format: words
                .template
                .as_ref()
                .and_then(|template| ToolCallFormat::detect(template.source())),
            limits: Limits {
                header_timeout: seconds(config.header_timeout_s),
                body_timeout: seconds(config.body_timeout_s),
                write_timeout: seconds(config.write_timeout_s),
                queue_timeout: seconds(config.queue_timeout_s),
                keep_alive: seconds(config.keep_alive_s),
                drain_timeout: seconds(config.drain_timeout_s),
            },
            admission: Box::new(PerKeyLimit::new(config.max_requests_per_key)),
            metrics: Arc::default(),
            model_id: config.model_id.clone().unwrap_or_else(|| name.to_owned()),
            bodies: Arc::new(Semaphore::new(config.max_bodies_bytes.div_ceil(1024))),
            draining: AtomicBool::new(false),
            created: now(),
            started: Instant::now(),
            engine,
            words,
            config,
            keys,
        })
    }

    /// The model's name in the API.
    pub fn model_id(&self) -> &str {
        &self.model_id
    }

    /// What the operator set.
    pub fn settings(&self) -> &ServerConfig {
        &self.config
    }

    /// The id of the key that a request came with.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> ApiResult<String> {
        let found = secret(headers).and_then(|secret| self.keys.find(secret));
        match found {
            Some(key) => Ok(key.id),
            None if !self.config.require_key => Ok("anyone".to_owned()),
            None => Err(ApiError::unauthorized()),
        }
    }

    /// Whether `model` names the model that is here.
    pub(crate) fn check_model(&self, model: &str) -> ApiResult<()> {
        if model == self.model_id || self.config.aliases.iter().any(|alias| alias == model) {
            return Ok(());
        }
        Err(ApiError::no_model(model, &self.model_id))
    }

    /// Whether a model that can do both thinks, if the request does not say: by DeepSeek's old names, else by the
    /// configuration.
    pub(crate) fn default_thinking(&self, model: &str) -> Option<bool> {
        match model {
            "deepseek-reasoner" => Some(true),
            "deepseek-chat" => Some(false),
            _ => self.config.thinking,
        }
    }

    /// From now on nobody is let in.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.engine.drain();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}

/// The key in a request's head: `Authorization: Bearer …`, or Anthropic's `x-api-key`.
pub(crate) fn secret(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())
}

/// Runs work that takes a while (encoding, grammars) off the threads that serve connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(ApiError::internal(error)))
}
