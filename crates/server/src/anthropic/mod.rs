//! `/anthropic/v1/messages`: the same model in Anthropic's words.

mod request;
mod script;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api_error::{AnthropicErrorBody, ApiError, ApiResult};
use crate::app::{App, blocking};
use crate::body;
use crate::run::Run;
use crate::sse;
pub(crate) use request::{CountRequest, MessagesRequest};
pub(crate) use script::MessagesAnswer;

/// How many tokens a request would have.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenCount {
    input_tokens: usize,
}

/// Answer a conversation, in Anthropic's form.
#[utoipa::path(
    post, path = "/anthropic/v1/messages", tag = "anthropic", request_body = MessagesRequest,
    security(("bearer" = []), ("x-api-key" = [])),
    responses(
        (status = 200, description = "The answer; with `stream`, Anthropic's server-sent events", content(
            (MessagesAnswer = "application/json"), (String = "text/event-stream"))),
        (status = 400, description = "The request is wrong", body = AnthropicErrorBody),
        (status = 401, description = "No valid key", body = AnthropicErrorBody),
        (status = 413, description = "The body is too large", body = AnthropicErrorBody),
        (status = 429, description = "Too much at a time for this key", body = AnthropicErrorBody),
        (status = 500, description = "The server failed", body = AnthropicErrorBody),
        (status = 503, description = "Too many requests wait, or the server is about to end", body = AnthropicErrorBody)))]
pub(crate) async fn messages(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    answer(app, headers, body).await.unwrap_or_else(ApiError::into_anthropic)
}

async fn answer(app: Arc<App>, headers: HeaderMap, body: Body) -> ApiResult<Response> {
    let arrived = Instant::now();
    let key_id = app.authenticate(&headers)?;
    let bytes = body::read(&app, &headers, body).await?;
    let shared = app.clone();
    let prepared = blocking(move || request::prepare(&shared, key_id, &bytes, arrived)).await?;
    let every = app.limits.keep_alive;
    let run = Run::start(&app, prepared.job)?;
    if prepared.style.stream {
        return Ok(sse::stream(run, script::Events::new(prepared.style), every));
    }
    sse::whole(run, script::Message::new(prepared.style), every).await
}

/// Count the tokens of a request.
#[utoipa::path(
    post, path = "/anthropic/v1/messages/count_tokens", tag = "anthropic", request_body = CountRequest,
    security(("bearer" = []), ("x-api-key" = [])),
    responses(
        (status = 200, description = "The number", body = TokenCount),
        (status = 400, description = "The request is wrong", body = AnthropicErrorBody),
        (status = 401, description = "No valid key", body = AnthropicErrorBody),
        (status = 413, description = "The body is too large", body = AnthropicErrorBody),
        (status = 500, description = "The server failed", body = AnthropicErrorBody)))]
pub(crate) async fn count_tokens(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    count(app, headers, body).await.unwrap_or_else(ApiError::into_anthropic)
}

async fn count(app: Arc<App>, headers: HeaderMap, body: Body) -> ApiResult<Response> {
    app.authenticate(&headers)?;
    let bytes = body::read(&app, &headers, body).await?;
    let input_tokens = blocking(move || request::count(&app, &bytes)).await?;
    Ok(Json(TokenCount { input_tokens }).into_response())
}
