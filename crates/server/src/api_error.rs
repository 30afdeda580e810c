//! Errors as the APIs write them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fathom_engine::Error as EngineError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admission::Refusal;

/// What went wrong with a request, for its sender.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field of the request that is wrong.
    pub(crate) param: Option<String>,
    pub(crate) code: &'static str,
}

/// An error in the form of the OpenAI and DeepSeek APIs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    message: String,
    r#type: &'static str,
    param: Option<String>,
    code: &'static str,
}

/// An error in the form of the Anthropic API.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnthropicErrorBody {
    r#type: &'static str,
    error: AnthropicErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnthropicErrorDetail {
    r#type: &'static str,
    message: String,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code }
    }

    /// The body is not what the API reads at all.
    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// One field is wrong.
    pub(crate) fn param(param: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_parameter", message);
        Self { param: Some(param.into()), ..error }
    }

    pub(crate) fn unauthorized() -> Self {
        let message =
            "Authentication Fails: send a valid key as `Authorization: Bearer <key>` or `x-api-key: <key>`";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("{what} does not exist"))
    }

    pub(crate) fn no_model(model: &str, known: &str) -> Self {
        let shown: String = model.chars().take(100).collect();
        let message = format!("Model Not Exist: {shown:?}; this server has {known:?}");
        Self {
            param: Some("model".to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, "model_not_found", message)
        }
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than this server reads ({limit} bytes)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    pub(crate) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not know that method")
    }

    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_overloaded", message)
    }

    /// The fault is ours; `reason` goes to the log, not to the client.
    pub(crate) fn internal(reason: impl std::fmt::Display) -> Self {
        tracing::error!(%reason, "a request failed");
        let message = "the server failed to answer; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// `type` of the OpenAI form.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            402 => "insufficient_balance_error",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500..=599 => "server_error",
            _ => "invalid_request_error",
        }
    }

    pub(crate) fn body(&self) -> ErrorBody {
        let error = ErrorDetail {
            message: self.message.clone(),
            r#type: self.kind(),
            param: self.param.clone(),
            code: self.code,
        };
        ErrorBody { error }
    }

    pub(crate) fn anthropic_body(&self) -> AnthropicErrorBody {
        let r#type = match self.status.as_u16() {
            401 => "authentication_error",
            402 => "billing_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500..=599 => "api_error",
            _ => "invalid_request_error",
        };
        AnthropicErrorBody {
            r#type: "error",
            error: AnthropicErrorDetail { r#type, message: self.message.clone() },
        }
    }

    /// The answer in the Anthropic form.
    pub(crate) fn into_anthropic(mut self) -> Response {
        if self.status == StatusCode::UNPROCESSABLE_ENTITY {
            self.status = StatusCode::BAD_REQUEST;
        }
        let body = self.anthropic_body();
        respond(self.status, &body)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        respond(self.status, &self.body())
    }
}

fn respond(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::InvalidParam { field, .. } => Self::param(field, message),
            EngineError::EmptyPrompt => Self::param("prompt", message),
            EngineError::PromptTooLong { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
            }
            EngineError::PromptToken { .. } => Self::param("prompt", message),
            EngineError::Grammar { .. } => Self::param("response_format", message),
            EngineError::QueueFull { .. } => {
                Self::overloaded("Server Overloaded: too many requests wait; try again")
            }
            EngineError::Draining => Self::overloaded("the server is about to end; try another"),
            _ => Self::internal(message),
        }
    }
}

impl From<fathom_text::Error> for ApiError {
    fn from(error: fathom_text::Error) -> Self {
        match error {
            // The template refuses conversations that it was not made for.
            fathom_text::Error::Template { reason, .. } => Self::param(
                "messages",
                format!("the model's chat template refuses the conversation: {reason}"),
            ),
            error => Self::internal(error),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooMany { limit } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_reached",
                format!("Rate Limit Reached: at most {limit} answers at a time for one key"),
            ),
            Refusal::NoBalance => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "insufficient_balance", "Insufficient Balance")
            }
        }
    }
}
