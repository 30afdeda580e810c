//! The admin's endpoints: on another port, with another token.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api_error::{ApiError, ApiResult};
use crate::app::{App, secret};
use crate::body;
use crate::routes::metrics_response;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyRequest {
    name: String,
}

impl App {
    /// Everything on the admin's port.
    pub fn admin_routes(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/status", get(status))
            .route("/metrics", get(async |State(app): State<Arc<App>>| metrics_response(&app)))
            .route("/drain", post(drain))
            .route("/keys", get(list_keys).post(create_key))
            .route("/keys/{id}", delete(revoke_key))
            .fallback(async || ApiError::not_found("this path"))
            .method_not_allowed_fallback(async || ApiError::method())
            .layer(middleware::from_fn_with_state(self.clone(), admit))
            .with_state(self.clone())
    }
}

/// Nothing is answered without the token, not even that a path does not exist.
async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if secret(request.headers()).is_some_and(|secret| app.keys.is_admin(secret)) {
        return next.run(request).await;
    }
    ApiError::unauthorized().into_response()
}

async fn status(State(app): State<Arc<App>>) -> Json<Value> {
    let engine = app.engine.statistics();
    Json(json!({
        "model": app.model_id,
        "context": app.engine.context(),
        "uptime_s": app.started.elapsed().as_secs(),
        "draining": app.is_draining(),
        "running": engine.running,
        "waiting": engine.waiting,
        "cache_blocks": engine.cache_blocks,
        "cache_blocks_used": engine.cache_blocks_used,
    }))
}

async fn drain(State(app): State<Arc<App>>) -> Json<Value> {
    tracing::info!("told to drain");
    app.drain();
    Json(json!({"draining": true}))
}

async fn list_keys(State(app): State<Arc<App>>) -> Json<Value> {
    let keys = app.keys.list().into_iter().map(|key| {
        json!({"id": key.id, "name": key.name, "created": key.created, "revoked": key.revoked,
               "from_config": key.created == 0})
    });
    Json(json!({"keys": keys.collect::<Vec<_>>()}))
}

async fn create_key(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> ApiResult<Response> {
    let bytes = body::read(&app, &headers, body).await?;
    let request: NewKeyRequest = body::parse(&bytes, &[])?;
    if request.name.is_empty() || request.name.len() > 100 {
        return Err(ApiError::param("name", "1 to 100 bytes"));
    }
    let key = app.keys.create(&request.name).map_err(ApiError::internal)?;
    tracing::info!(id = key.id, "made a key");
    let shown = json!({"id": key.id, "name": key.name, "key": key.secret});
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

async fn revoke_key(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    if app.keys.revoke(&id).map_err(ApiError::internal)? {
        tracing::info!(id, "revoked a key");
        return Ok(Json(json!({"id": id, "revoked": true})));
    }
    Err(ApiError::not_found("a key with this id (keys of the configuration are removed there)"))
}
