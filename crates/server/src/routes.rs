//! Which path is answered by what.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api_error::{ApiError, ApiResult, ErrorBody};
use crate::app::App;
use crate::{anthropic, chat, completions, observe, openapi, web};

/// The models that are here.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    object: &'static str,
    data: Vec<ModelEntry>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelEntry {
    id: String,
    /// `model`.
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`, `draining`, or `crashed`.
    status: &'static str,
}

impl App {
    /// Everything on the API's port. To call it without a socket, hand it requests.
    pub fn routes(self: &Arc<Self>) -> Router {
        let mut router = Router::new()
            .route("/health", get(health))
            .route("/ready", get(ready))
            .route("/openapi.json", get(openapi::serve))
            .route("/metrics", get(metrics))
            .route("/anthropic/v1/messages", post(anthropic::messages))
            .route("/anthropic/v1/messages/count_tokens", post(anthropic::count_tokens));
        for base in ["", "/v1", "/beta", "/beta/v1"] {
            router = router
                .route(&format!("{base}/chat/completions"), post(chat::complete))
                .route(&format!("{base}/completions"), post(completions::complete))
                .route(&format!("{base}/models"), get(models))
                .route(&format!("{base}/models/{{id}}"), get(model));
        }
        if self.config.web {
            router = router.merge(web::routes());
        }
        router
            .fallback(no_path)
            .method_not_allowed_fallback(no_method)
            .layer(middleware::from_fn_with_state(self.clone(), observe::observe))
            .with_state(self.clone())
    }

    fn entry(&self, id: &str) -> ModelEntry {
        ModelEntry { id: id.to_owned(), object: "model", created: self.created, owned_by: "fathom" }
    }
}

async fn no_path(uri: Uri) -> Response {
    let error = ApiError::not_found("this path");
    if uri.path().starts_with("/anthropic/") { error.into_anthropic() } else { error.into_response() }
}

async fn no_method(uri: Uri) -> Response {
    let error = ApiError::method();
    if uri.path().starts_with("/anthropic/") { error.into_anthropic() } else { error.into_response() }
}

/// List the models.
#[utoipa::path(get, path = "/v1/models", tag = "models", security(("bearer" = [])), responses(
    (status = 200, description = "The model and the names under which it is also known", body = ModelList),
    (status = 401, description = "No valid key", body = ErrorBody)))]
pub(crate) async fn models(State(app): State<Arc<App>>, headers: HeaderMap) -> ApiResult<Json<ModelList>> {
    app.authenticate(&headers)?;
    let ids = std::iter::once(&app.model_id).chain(&app.config.aliases);
    Ok(Json(ModelList { object: "list", data: ids.map(|id| app.entry(id)).collect() }))
}

/// Describe one model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models", security(("bearer" = [])),
    params(("id" = String, Path, description = "The model's id")), responses(
    (status = 200, description = "It is here", body = ModelEntry),
    (status = 400, description = "The path is not UTF-8", body = ErrorBody),
    (status = 401, description = "No valid key", body = ErrorBody),
    (status = 404, description = "It is not here", body = ErrorBody)))]
pub(crate) async fn model(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> ApiResult<Json<ModelEntry>> {
    app.authenticate(&headers)?;
    let Path(id) = path.map_err(|_| ApiError::format("the path is not UTF-8"))?;
    app.check_model(&id).map_err(|_| ApiError::not_found("this model"))?;
    Ok(Json(app.entry(&id)))
}

/// Whether the process lives, and with it the engine.
#[utoipa::path(get, path = "/health", tag = "operation", responses(
    (status = 200, description = "It does", body = Health),
    (status = 503, description = "The engine has crashed: start the server again", body = Health)))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    if app.engine.has_crashed() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "crashed" })).into_response();
    }
    Json(Health { status: "ok" }).into_response()
}

/// Whether requests are let in.
#[utoipa::path(get, path = "/ready", tag = "operation", responses(
    (status = 200, description = "They are", body = Health),
    (status = 503, description = "The server is about to end, or the engine has crashed", body = Health)))]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.engine.has_crashed() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "crashed" })).into_response();
    }
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "draining" })).into_response();
    }
    Json(Health { status: "ok" }).into_response()
}

/// On a public address these numbers would tell one client of the others, so they need the admin's token there.
async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> ApiResult<Response> {
    let admin = || crate::app::secret(&headers).is_some_and(|secret| app.keys.is_admin(secret));
    if !app.config.metrics_are_public() && !admin() {
        return Err(ApiError::unauthorized());
    }
    Ok(metrics_response(&app))
}

/// The numbers in Prometheus' format.
pub(crate) fn metrics_response(app: &App) -> Response {
    let text = app.metrics.render(&app.engine.statistics());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
