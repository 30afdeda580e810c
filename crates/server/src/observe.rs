//! Around every request: an id, a line in the log, a count, and the headers that keep browsers strict.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use crate::app::App;
use crate::identity::random_id;
use crate::traces;

pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = random_id();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    // Where a head states chunks and a length, proxies and servers may disagree about where the next request begins.
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let span = traces::request_span(method.as_str(), &route, &id, request.headers());
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    traces::record_status(&span, status);
    app.metrics.request(&route, status);
    let ms = begun.elapsed().as_millis() as u64;
    // The end of an answer that streams is later; the metrics know of it.
    tracing::info!(id, %method, route, status, ms, "request");
    let headers = response.headers_mut();
    if chunked {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
