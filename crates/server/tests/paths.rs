//! The other paths: completions, models, Anthropic's, operation.

mod stage;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use stage::{ADMIN, KEY, Stage, request, stage, stage_with, text};
use tower::ServiceExt as _;

async fn get(stage: &Stage, path: &str) -> (u16, String, axum::http::HeaderMap) {
    let response = stage.call(request("GET", path, KEY, "")).await;
    let headers = response.headers().clone();
    let (status, text) = text(response).await;
    (status.as_u16(), text, headers)
}

#[tokio::test]
async fn texts_go_on() {
    let stage = stage(|_| {});
    let body = |extra: Value| {
        let mut body = json!({"model": "tiny", "prompt": "once upon a time", "max_tokens": 6});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    for path in ["/v1/completions", "/completions", "/beta/completions"] {
        let (status, answer) = stage.post(path, &body(json!({}))).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            (&answer["object"], &answer["usage"]["completion_tokens"]),
            (&json!("text_completion"), &json!(6))
        );
    }
    let path = "/v1/completions";
    let (_, plain) = stage.post(path, &body(json!({}))).await;
    let plain = plain["choices"][0]["text"].as_str().unwrap().to_owned();
    let (_, echoed) = stage.post(path, &body(json!({"echo": true, "logprobs": 2}))).await;
    assert_eq!(echoed["choices"][0]["text"], format!("once upon a time{plain}"));
    let logprobs = &echoed["choices"][0]["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), 6, "{list}");
    }
    let (_, two) = stage.post(path, &body(json!({"prompt": ["once upon a time", "b"], "n": 2}))).await;
    assert_eq!(two["choices"].as_array().unwrap().len(), 4);
    assert_eq!(two["choices"][0]["text"], *plain);
    let events =
        stage.events(path, &body(json!({"stream": true, "stream_options": {"include_usage": true}}))).await;
    let streamed: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, plain);
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 6);
    let (status, _) = stage.post(path, &body(json!({"prompt": [5, 6, 7]}))).await;
    assert_eq!(status, 200);
    for (extra, param) in [
        (json!({"prompt": [511, 600]}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": {"a": 1}}), "prompt"),
        (json!({"suffix": "end"}), "suffix"),
        (json!({"best_of": 3}), "best_of"),
        (json!({"logprobs": 21}), "logprobs"),
    ] {
        let (status, answer) = stage.post(path, &body(extra)).await;
        assert_eq!((status.as_u16(), &answer["error"]["param"]), (422, &json!(param)), "{answer}");
    }
}

#[tokio::test]
async fn models_and_keys() {
    let stage = stage(|_| {});
    for path in ["/models", "/v1/models"] {
        let (status, text, _) = get(&stage, path).await;
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &list["data"][0]["id"], &list["object"]), (200, &json!("tiny"), &json!("list")));
    }
    assert_eq!(get(&stage, "/v1/models/deepseek-chat").await.0, 200);
    assert_eq!(get(&stage, "/v1/models/none").await.0, 404);
    assert_eq!(get(&stage, "/v1/models/%ff").await.0, 400);
    assert_eq!(get(&stage, "/v1/models/..%2f..%2fetc%2fpasswd").await.0, 404);
    assert_eq!(get(&stage, "/v1/nothing").await.0, 404);
    assert_eq!(get(&stage, "/v1/chat/completions").await.0, 405);
    for wrong in ["", "sk-wrong", &KEY[1..]] {
        let response = stage.call(request("GET", "/v1/models", wrong, "")).await;
        let (status, text) = text(response).await;
        assert_eq!(status, 401);
        assert!(text.contains("authentication_error"), "{text}");
    }
    let with_header = Request::get("/v1/models").header("x-api-key", KEY).body(Body::empty()).unwrap();
    assert_eq!(stage.call(with_header).await.status(), 200);
}

fn message(extra: Value) -> Value {
    let mut body =
        json!({"model": "claude-x", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn the_words_of_anthropic() {
    let stage = stage(|_| {});
    let path = "/anthropic/v1/messages";
    let (status, whole) = stage.post(path, &message(json!({"system": "be kind"}))).await;
    assert_eq!(status, 200, "{whole}");
    assert_eq!((&whole["type"], &whole["stop_reason"]), (&json!("message"), &json!("max_tokens")));
    assert_eq!(whole["usage"]["output_tokens"], 8);
    let (_, count) = stage
        .post(&format!("{path}/count_tokens"), &{
            let mut body = message(json!({"system": "be kind"}));
            body.as_object_mut().unwrap().shift_remove("max_tokens");
            body
        })
        .await;
    let usage = &whole["usage"];
    let input = usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(count["input_tokens"], input);

    let events = stage.events(path, &message(json!({"system": "be kind", "stream": true}))).await;
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1]), ("message_start", "content_block_start"));
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().unwrap());

    for (extra, status, kind) in [
        (json!({"temperature": 9}), 400, "invalid_request_error"),
        (json!({"nonsense": 9}), 400, "invalid_request_error"),
        (json!({"model": "gpt"}), 400, "invalid_request_error"),
        (json!({"messages": []}), 400, "invalid_request_error"),
    ] {
        let (got, answer) = stage.post(path, &message(extra)).await;
        assert_eq!((got.as_u16(), &answer["error"]["type"]), (status, &json!(kind)), "{answer}");
        assert_eq!(answer["type"], "error");
    }
    let (status, answer) = stage.post_as("wrong", path, &message(json!({}))).await;
    assert_eq!((status.as_u16(), &answer["error"]["type"]), (401, &json!("authentication_error")));
}

#[tokio::test]
async fn tools_in_the_words_of_anthropic() {
    let stage = stage_with("tiny-v3", Some("deepseek-v3-tokenizer"), |_| {});
    let schema = json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}},
                        "required": ["city"], "additionalProperties": false,
                        "x-guidance": {"whitespace_flexible": false}});
    let asked = message(json!({"max_tokens": 300, "tool_choice": {"type": "tool", "name": "weather"},
        "tools": [{"name": "weather", "input_schema": schema}]}));
    let (status, answer) = stage.post("/anthropic/v1/messages", &asked).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["stop_reason"], "tool_use");
    let block = &answer["content"][0];
    assert_eq!((&block["type"], &block["name"]), (&json!("tool_use"), &json!("weather")));
    assert!(["Paris", "Rome"].contains(&block["input"]["city"].as_str().unwrap()));
    let mut asked = asked;
    asked["stream"] = true.into();
    let events = stage.events("/anthropic/v1/messages", &asked).await;
    let input: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&input).unwrap(), block["input"]);
}

#[tokio::test]
async fn operation() {
    let stage = stage(|_| {});
    let (_, _) =
        stage.post("/v1/completions", &json!({"model": "tiny", "prompt": "a", "max_tokens": 3})).await;
    assert_eq!(get(&stage, "/health").await.0, 200);
    assert_eq!(get(&stage, "/ready").await.0, 200);
    let (status, metrics, headers) = get(&stage, "/metrics").await;
    assert_eq!(status, 200);
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(metrics.contains("fathom_requests_total{route=\"/v1/completions\",code=\"200\"} 1"), "{metrics}");
    assert!(metrics.contains("fathom_time_to_first_token_seconds_count 1"));
    let (_, description, _) = get(&stage, "/openapi.json").await;
    assert!(
        serde_json::from_str::<Value>(&description).unwrap()["paths"]["/v1/chat/completions"].is_object()
    );

    let (status, page, headers) = get(&stage, "/").await;
    assert_eq!(status, 200);
    assert!(page.starts_with("<!doctype html>"));
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn metrics_of_a_public_address_need_the_admin() {
    let stage = stage(|config| config.public_metrics = Some(false));
    assert_eq!(get(&stage, "/metrics").await.0, 401);
    assert_eq!(stage.call(request("GET", "/metrics", ADMIN, "")).await.status(), 200);
}

#[tokio::test]
async fn the_admin() {
    let stage = stage(|_| {});
    let call = async |method: &str, path: &str, key: &str, body: &str| {
        let request = request(method, path, key, body.to_owned());
        let (status, text) = text(stage.app.admin_routes().oneshot(request).await.unwrap()).await;
        (status.as_u16(), serde_json::from_str::<Value>(&text).unwrap_or(Value::Null))
    };
    for path in ["/status", "/keys", "/nothing", "/metrics"] {
        assert_eq!(call("GET", path, KEY, "").await.0, 401, "{path}");
    }
    assert_eq!(call("GET", "/status", ADMIN, "").await.1["model"], "tiny");
    let (status, made) = call("POST", "/keys", ADMIN, "{\"name\": \"new\"}").await;
    assert_eq!(status, 201);
    let secret = made["key"].as_str().unwrap();
    assert_eq!(stage.call(request("GET", "/v1/models", secret, "")).await.status(), 200);
    let listed = call("GET", "/keys", ADMIN, "").await.1;
    assert!(!listed.to_string().contains(secret));
    let path = format!("/keys/{}", made["id"].as_str().unwrap());
    assert_eq!(call("DELETE", &path, ADMIN, "").await.0, 200);
    assert_eq!(stage.call(request("GET", "/v1/models", secret, "")).await.status(), 401);
    assert_eq!(call("POST", "/drain", ADMIN, "").await.0, 200);
    assert_eq!(get(&stage, "/ready").await.0, 503);
    let (status, answer) =
        stage.post("/v1/completions", &json!({"model": "tiny", "prompt": "a", "max_tokens": 3})).await;
    assert_eq!((status.as_u16(), &answer["error"]["type"]), (503, &json!("overloaded_error")));
}
