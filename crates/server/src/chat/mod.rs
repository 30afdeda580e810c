//! `/chat/completions`, as DeepSeek and OpenAI have it.

mod message;
mod request;
mod response;
mod script;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

pub(crate) use request::{ChatRequest, Stop, StreamOptions, choices, logit_bias, stops, user_id};
pub(crate) use response::{ChatChunk, ChatCompletion, Usage, finish_reason, token_text};

use crate::api_error::{ApiResult, ErrorBody};
use crate::app::{App, blocking};
use crate::body;
use crate::run::Run;
use crate::sse;
use script::{Chunks, Message};

/// Answer a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "chat", request_body = ChatRequest, security(("bearer" = [])),
    responses(
        (status = 200, description = "The answer; with `stream`, `ChatChunk`s as server-sent events", content(
            (ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"))),
        (status = 400, description = "No JSON, an unknown model, or a prompt beyond the context", body = ErrorBody),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 422, description = "A field is wrong; `param` names it", body = ErrorBody),
        (status = 429, description = "Too much at a time for this key", body = ErrorBody),
        (status = 500, description = "The server failed", body = ErrorBody),
        (status = 503, description = "Too many requests wait, or the server is about to end", body = ErrorBody)))]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let arrived = Instant::now();
    let key_id = app.authenticate(&headers)?;
    let bytes = body::read(&app, &headers, body).await?;
    let shared = app.clone();
    let prepared = blocking(move || request::prepare(&shared, key_id, &bytes, arrived)).await?;
    let (every, words) = (app.limits.keep_alive, app.words.tokenizer.clone());
    let run = Run::start(&app, prepared.job)?;
    if prepared.style.stream {
        return Ok(sse::stream(run, Chunks::new(prepared.style, words), every));
    }
    sse::whole(run, Message::new(prepared.style, words), every).await
}
