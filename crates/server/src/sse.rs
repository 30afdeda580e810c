//! Answers on their way to the socket: as server-sent events, or whole with signs of life before.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use fathom_engine::{FinishReason, Update};
use http_body::Frame;
use tokio::time::{Instant, Sleep};

use crate::api_error::{ApiError, ApiResult};
use crate::run::{Heard, Run};

/// Bytes after which a piece is handed on even if more is ready.
const PIECE: usize = 32 << 10;

/// How the engine's errors about grammars begin.
const GRAMMAR: &str = "the grammar cannot be used";

/// Writes down what a run tells.
pub(crate) trait Script: Send + Unpin + 'static {
    const CONTENT_TYPE: &'static str;
    /// What is sent while nothing else is.
    const KEEP_ALIVE: &'static str;

    /// Takes one update of the answer `index`.
    fn hear(&mut self, index: usize, update: Update, out: &mut String) -> ApiResult<()>;

    /// All answers have ended.
    fn end(&mut self, out: &mut String);

    /// It went wrong after the beginning was sent.
    fn fail(&mut self, error: &ApiError, out: &mut String);
}

fn tell<S: Script>(script: &mut S, heard: Heard, out: &mut String) -> ApiResult<()> {
    match heard {
        Heard::NotStarted => {
            Err(ApiError::overloaded("Server Overloaded: the answer could not begin in time"))
        }
        Heard::Lost => Err(ApiError::internal("the engine has ended")),
        Heard::Update(_, Update::Finished(finished)) if finished.finish_reason == FinishReason::Failed => {
            let reason = finished.error.unwrap_or_default();
            // Some grammars turn out to need too much work only when they are followed.
            if reason.starts_with(GRAMMAR) {
                return Err(ApiError::param("response_format", reason));
            }
            Err(ApiError::internal(reason))
        }
        Heard::Update(index, update) => script.hear(index, update, out),
    }
}

/// The response that streams.
pub(crate) fn stream<S: Script>(run: Run, script: S, every: Duration) -> Response {
    let body = Telling { run, script, every, tick: Box::pin(tokio::time::sleep(every)), over: false };
    response(StatusCode::OK, S::CONTENT_TYPE, Body::new(body))
}

/// The response that comes whole. If it takes long, its head and empty lines come first.
pub(crate) async fn whole<S: Script>(mut run: Run, mut script: S, every: Duration) -> ApiResult<Response> {
    let mut out = String::new();
    let drive = async {
        while let Some(heard) = run.next().await {
            tell(&mut script, heard, &mut out)?;
        }
        ApiResult::Ok(())
    };
    match tokio::time::timeout(every, drive).await {
        Ok(ended) => {
            ended?;
            script.end(&mut out);
            Ok(response(StatusCode::OK, S::CONTENT_TYPE, Body::from(out)))
        }
        Err(_) => Ok(stream(run, script, every)),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body that is written as the run tells. When the client leaves it is dropped, and the run with it.
struct Telling<S> {
    run: Run,
    script: S,
    every: Duration,
    tick: Pin<Box<Sleep>>,
    over: bool,
}

impl<S: Script> HttpBody for Telling<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let mut out = String::new();
        while !this.over && out.len() < PIECE {
            match this.run.poll_next(context) {
                Poll::Ready(Some(heard)) => {
                    if let Err(error) = tell(&mut this.script, heard, &mut out) {
                        this.script.fail(&error, &mut out);
                        this.over = true;
                    }
                }
                Poll::Ready(None) => {
                    this.script.end(&mut out);
                    this.over = true;
                }
                Poll::Pending => break,
            }
        }
        if out.is_empty() {
            if this.over {
                return Poll::Ready(None);
            }
            if this.tick.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            out.push_str(S::KEEP_ALIVE);
        }
        this.tick.as_mut().reset(Instant::now() + this.every);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(out)))))
    }
}

/// Appends one server-sent event.
pub(crate) fn event(out: &mut String, name: Option<&str>, data: &impl serde::Serialize) {
    if let Some(name) = name {
        out.push_str("event: ");
        out.push_str(name);
        out.push('\n');
    }
    out.push_str("data: ");
    // JSON has no line breaks but escaped ones.
    out.push_str(&json(data));
    out.push_str("\n\n");
}

/// The JSON of a type that has one.
pub(crate) fn json(data: &impl serde::Serialize) -> String {
    serde_json::to_string(data).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer has no JSON");
        "{}".to_owned()
    })
}
