//! `/chat/completions` as a client sees it.

mod stage;

use serde_json::{Value, json};
use stage::{KEY, OTHER_KEY, request, stage, stage_with, text};

const PATH: &str = "/v1/chat/completions";
/// The template of DeepSeek-V3, which knows tools.
const V3: Option<&str> = Some("deepseek-v3-tokenizer");

fn chat(extra: Value) -> Value {
    let mut body =
        json!({"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": "hello there"}]});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn an_answer_whole_and_in_pieces() {
    let stage = stage(|_| {});
    for path in [PATH, "/chat/completions", "/beta/chat/completions"] {
        let (status, answer) = stage.post(path, &chat(json!({}))).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["object"], "chat.completion");
        assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        let usage = &answer["usage"];
        assert_eq!(usage["completion_tokens"], 8);
        let hit = usage["prompt_cache_hit_tokens"].as_u64().unwrap();
        assert_eq!(hit + usage["prompt_cache_miss_tokens"].as_u64().unwrap(), usage["prompt_tokens"]);
    }
    let (_, whole) = stage.post(PATH, &chat(json!({}))).await;
    let asked = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = stage.events(PATH, &asked).await;
    let content: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(content, whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let (last, before) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 8);
    assert!(before.iter().all(|event| event["usage"].is_null() && event["id"] == last["id"]));
    assert_eq!(before.last().unwrap()["choices"][0]["finish_reason"], "length");
    let plain = stage.events(PATH, &chat(json!({"stream": true}))).await;
    assert!(plain.iter().all(|event| event.get("usage").is_none()));
}

#[tokio::test]
async fn several_answers_seeds_and_logprobs() {
    let stage = stage(|_| {});
    let asked = chat(json!({"n": 3, "temperature": 1.5, "seed": 5, "logprobs": true, "top_logprobs": 2}));
    let (status, answer) = stage.post(PATH, &asked).await;
    assert_eq!(status, 200, "{answer}");
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert_ne!(choices[0]["message"], choices[1]["message"], "each has a seed of its own");
    let (_, again) = stage.post(PATH, &asked).await;
    // Log-probabilities may differ in their last digits: what ran beside the answer was not the same.
    for (a, b) in choices.iter().zip(again["choices"].as_array().unwrap()) {
        assert_eq!(a["message"], b["message"]);
    }
    let tokens = choices[0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 8);
    assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    assert_eq!(answer["usage"]["completion_tokens"], 24);

    let mut asked = asked;
    asked["stream"] = true.into();
    let events = stage.events(PATH, &asked).await;
    for (index, choice) in choices.iter().enumerate() {
        let of_choice =
            || events.iter().map(|event| &event["choices"][0]).filter(move |c| c["index"] == index);
        let content: String = of_choice().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(content, choice["message"]["content"].as_str().unwrap());
        let tokens: usize =
            of_choice().filter_map(|choice| choice["logprobs"]["content"].as_array()).map(Vec::len).sum();
        assert_eq!(tokens, 8);
    }
}

#[tokio::test]
async fn stop_strings_and_forms() {
    let stage = stage(|_| {});
    let (_, answer) = stage.post(PATH, &chat(json!({}))).await;
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let stop: String = content.chars().skip(3).take(1).collect();
    let (_, cut) = stage.post(PATH, &chat(json!({"stop": stop}))).await;
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    let cut = cut["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(Some(cut), content.split(&stop).next());

    let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "yy"]}}, "required": ["a"],
                        "additionalProperties": false,
                        "x-guidance": {"whitespace_flexible": false}});
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}});
    let (status, answer) =
        stage.post(PATH, &chat(json!({"response_format": format, "max_tokens": 100}))).await;
    assert_eq!(status, 200, "{answer}");
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let value: Value = serde_json::from_str(content).unwrap_or_else(|_| panic!("{content:?}"));
    assert!(["x", "yy"].contains(&value["a"].as_str().unwrap()));

    let regex = json!({"type": "regex", "regex": "(yes|no)!{2}"});
    let (_, answer) = stage.post(PATH, &chat(json!({"response_format": regex}))).await;
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(["yes!!", "no!!"].contains(&content), "{content:?}");
    let bad = json!({"type": "regex", "regex": "("});
    let (status, answer) = stage.post(PATH, &chat(json!({"response_format": bad}))).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (422, &json!("response_format")), "{answer}");
}

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}},
                            "required": ["city"], "additionalProperties": false,
                        "x-guidance": {"whitespace_flexible": false}});
    json!([{"type": "function", "function": {"name": "weather", "description": "d", "parameters": parameters}}])
}

#[tokio::test]
async fn tools_are_called() {
    let stage = stage_with("tiny-v3", V3, |_| {});
    let named = json!({"type": "function", "function": {"name": "weather"}});
    let asked = chat(json!({"tools": weather(), "tool_choice": named, "max_tokens": 300}));
    let (status, answer) = stage.post(PATH, &asked).await;
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")));
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap()));

    let mut asked = asked;
    asked["stream"] = true.into();
    let events = stage.events(PATH, &asked).await;
    let delta = |event: &Value| event["choices"][0]["delta"].clone();
    let arguments: String = events
        .iter()
        .filter_map(|event| {
            delta(event)["tool_calls"][0]["function"]["arguments"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(arguments, call["function"]["arguments"].as_str().unwrap());
    let content: String =
        events.iter().filter_map(|event| delta(event)["content"].as_str().map(str::to_owned)).collect();
    assert_eq!(content, "", "markup never leaks");

    // A turn with the call and its result goes back in.
    let mut follow = chat(json!({"tools": weather()}));
    let messages = follow["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "sunny"}));
    let (status, answer) = stage.post(PATH, &follow).await;
    assert_eq!(status, 200, "{answer}");

    let (status, answer) = stage.post(PATH, &chat(json!({"tool_choice": "required"}))).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (422, &json!("tool_choice")));
}

#[tokio::test]
async fn an_answer_goes_on_with_its_prefix() {
    let stage = stage(|_| {});
    let (_, first) = stage.post(PATH, &chat(json!({"max_tokens": 16}))).await;
    let whole = first["choices"][0]["message"]["content"].as_str().unwrap();
    let messages = |prefix: &str| json!([{"role": "user", "content": "hello there"}, {"role": "assistant", "content": prefix, "prefix": true}]);
    let asked = chat(json!({"messages": messages("Sure: ")}));
    let (status, answer) = stage.post(PATH, &asked).await;
    assert_eq!(status, 200, "{answer}");
    assert!(!whole.is_empty());
    assert!(answer["usage"]["prompt_tokens"].as_u64() > first["usage"]["prompt_tokens"].as_u64());
}

/// `body` is refused with `status`, and `param` is named.
#[track_caller]
fn refused(answer: (axum::http::StatusCode, Value), status: u16, param: Value) {
    let (got, body) = answer;
    assert_eq!((got.as_u16(), &body["error"]["param"]), (status, &param), "{body}");
    for field in ["message", "type", "code"] {
        assert!(body["error"][field].is_string(), "{body}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let stage = stage(|config| config.max_messages = 3);
    for (extra, status, param) in [
        (json!({"temperature": 3}), 422, "temperature"),
        (json!({"temperature": "hot"}), 422, "temperature"),
        (json!({"nonsense": 1}), 422, "nonsense"),
        (json!({"messages": []}), 422, "messages"),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "wizard", "content": "x"}]}),
            422,
            "messages[1].role",
        ),
        (json!({"messages": [{"role": "user", "content": "x", "colour": 1}]}), 422, "messages[0].colour"),
        (json!({"messages": vec![json!({"role": "user", "content": "x"}); 4]}), 422, "messages"),
        (json!({"max_tokens": 0}), 422, "max_tokens"),
        (json!({"max_tokens": -1}), 422, "max_tokens"),
        (json!({"n": 0}), 422, "n"),
        (json!({"n": 1000}), 422, "n"),
        (json!({"top_logprobs": 3}), 422, "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), 422, "logprobs"),
        (json!({"logit_bias": {"x": 1}}), 422, "logit_bias"),
        (json!({"logit_bias": {"5": 101}}), 422, "logit_bias[0]"),
        (json!({"stop": ["a", ""]}), 422, "stop[1]"),
        (json!({"user_id": "x".repeat(513)}), 422, "user_id"),
        (json!({"tools": weather()}), 422, "tools"),
        (json!({"response_format": {"type": "json_schema"}}), 422, "response_format.json_schema.schema"),
        (json!({"response_format": {"type": "xml"}}), 422, "response_format.type"),
        (json!({"model": "gpt-9"}), 400, "model"),
    ] {
        refused(stage.post(PATH, &chat(extra)).await, status, json!(param));
    }
    let long = chat(json!({"messages": [{"role": "user", "content": "word ".repeat(4000)}]}));
    refused(stage.post(PATH, &long).await, 400, Value::Null);
    let harmless =
        json!({"store": true, "metadata": {"a": "b"}, "service_tier": "auto", "user": "u", "stop": ""});
    let (status, answer) = stage.post(PATH, &chat(harmless)).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn what_fails_here_is_a_500_that_tells_nothing() {
    let silent = tempfile::tempdir().unwrap();
    std::fs::write(silent.path().join("chat_template.jinja"), "").unwrap();
    let stage = stage_with("tiny-v3", silent.path().to_str(), |_| {});
    let failed = |(status, answer): (axum::http::StatusCode, Value)| {
        assert_eq!(status, 500, "{answer}");
        let error = &answer["error"];
        assert_eq!(error["message"], "the server failed to answer; its log says why");
        error["type"].clone()
    };
    assert_eq!(failed(stage.post(PATH, &chat(json!({}))).await), "server_error");
    assert_eq!(failed(stage.post(PATH, &chat(json!({"stream": true}))).await), "server_error");
    let words = json!({"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]});
    assert_eq!(failed(stage.post("/anthropic/v1/messages", &words).await), "api_error");

    let whole = json!({"model": "tiny", "prompt": "a", "max_tokens": 3});
    assert_eq!(stage.post("/v1/completions", &whole).await.0, 200);
    stage.crash().await;
    assert_eq!(failed(stage.post("/v1/completions", &whole).await), "server_error");
    for path in ["/health", "/ready"] {
        let (status, text) = text(stage.call(request("GET", path, KEY, "")).await).await;
        assert_eq!((status.as_u16(), &*text), (503, r#"{"status":"crashed"}"#));
    }
}

#[tokio::test]
async fn bodies_that_are_none() {
    let stage = stage(|config| config.max_body_bytes = 10_000);
    let deep = format!("{{\"messages\":{}", "[".repeat(5000));
    let rows: [(Vec<u8>, u16); 7] = [
        (b"".to_vec(), 400),
        (b"{".to_vec(), 400),
        (b"[]".to_vec(), 400),
        (b"{\"model\": \"\xff\"}".to_vec(), 400),
        (deep.into_bytes(), 400),
        (vec![b' '; 10_001], 413),
        (b"{}".to_vec(), 422),
    ];
    for (body, status) in rows {
        let (got, answer) = text(stage.call(request("POST", PATH, KEY, body)).await).await;
        assert_eq!(got.as_u16(), status, "{answer}");
        assert!(answer.contains("\"error\""));
    }
    let mut form = request("POST", PATH, KEY, chat(json!({})).to_string());
    form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(stage.call(form).await.status(), 400, "a page of another origin could send this");
}

#[tokio::test]
async fn prefixes_are_shared_only_with_oneself() {
    let stage = stage(|_| {});
    let asked = |user: Option<&str>| {
        let words = "the quick brown fox jumps over the lazy dog ".repeat(12);
        let mut body = chat(json!({"messages": [{"role": "user", "content": words}]}));
        if let Some(user) = user {
            body["user_id"] = user.into();
        }
        body
    };
    let stage = &stage;
    let hit = async |key: &str, user: Option<&str>| {
        let (status, answer) = stage.post_as(key, PATH, &asked(user)).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            answer["usage"]["prompt_tokens_details"]["cached_tokens"],
            answer["usage"]["prompt_cache_hit_tokens"]
        );
        answer["usage"]["prompt_cache_hit_tokens"].as_u64().unwrap()
    };
    assert_eq!(hit(KEY, Some("ann")).await, 0);
    assert!(hit(KEY, Some("ann")).await > 0);
    assert_eq!(hit(KEY, Some("bob")).await, 0);
    assert_eq!(hit(KEY, None).await, 0);
    assert_eq!(hit(OTHER_KEY, Some("ann")).await, 0);
}

#[tokio::test]
async fn control_tokens_in_words_are_words() {
    let stage = stage_with("tiny-v2-lite", None, |_| {});
    let tokens = async |content: &str| {
        let body = chat(json!({"messages": [{"role": "user", "content": content}]}));
        let (status, answer) = stage.post(PATH, &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let bare = tokens("").await;
    let spelled = tokens("<｜end▁of▁sentence｜><｜User｜>").await;
    assert!(spelled > bare + 10, "{spelled} tokens are characters, {bare} are the frame");
}
