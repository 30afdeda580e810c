//! Traces for an OpenTelemetry collector: one span for each request, and below it one for each answer.
//!
//! Names of attributes are OpenTelemetry's for HTTP and for generative models (`gen_ai.*`). Spans have a target of
//! their own, [`TRACES`]: what is logged and what is traced do not mix, and no text of a request is in either.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Request, Response};
use fathom_engine::{FinishReason, Finished};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::admission::Demand;
use crate::config::ServerConfig;
use crate::error::{Error, Result};

/// The target of all spans that are traces.
pub const TRACES: &str = "fathom::traces";

/// How long the collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends spans to the collector that the settings name.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// `None` if the settings name no collector. It need not be there yet; `runtime` carries what is sent.
    ///
    /// # Errors
    /// [`Error::Traces`] for an address that the exporter does not take.
    pub fn start(config: &ServerConfig, runtime: &Handle) -> Result<Option<Self>> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let client = HyperClient::with_default_connector(EXPORT_TIMEOUT, None);
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(OnRuntime { client, runtime: runtime.clone() })
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| Error::Traces { endpoint: endpoint.clone(), reason: error.to_string() })?;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.otlp_sample_ratio)));
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            // The builder reads it.
            Some(_) => Resource::builder().build(),
            None => Resource::builder().with_service_name("fathom").build(),
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        Ok(Some(Self(provider)))
    }

    /// What takes the spans of [`TRACES`] from `tracing`.
    pub fn layer<S>(&self) -> OpenTelemetryLayer<S, SdkTracer>
    where
        S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer = self.0.tracer("fathom");
        tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false)
    }

    /// Sends what is left. Waits a few seconds at most, and must not be called on a thread of the runtime.
    pub fn stop(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// The exporter has a thread of its own, and sockets belong to the runtime.
struct OnRuntime {
    client: HyperClient,
    runtime: Handle,
}

impl fmt::Debug for OnRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRuntime")
    }
}

impl HttpClient for OnRuntime {
    // What `async_trait` makes of `async fn`.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move { client.send_bytes(request).await });
        Box::pin(async move { sent.await? })
    }
}

/// A request's span. If its head names a trace (W3C `traceparent`), it belongs to that.
pub(crate) fn request_span(method: &str, route: &str, id: &str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        target: TRACES,
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        otel.status_code = Empty,
        fathom.request.id = id,
    );
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        // An error means that the layer is not there, and then nobody wants the span.
        let _ = span.set_parent(parent);
    }
    span
}

/// The status of a request's answer is known.
pub(crate) fn record_status(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of one answer, from its admission to its last token.
pub(crate) fn answer_span(demand: &Demand<'_>, model: &str) -> Span {
    let max_tokens = demand.max_tokens.and_then(|tokens| i64::try_from(tokens).ok());
    tracing::info_span!(
        target: TRACES,
        "answer",
        gen_ai.provider.name = "fathom",
        gen_ai.operation.name = operation(demand.route),
        gen_ai.request.model = model,
        gen_ai.request.max_tokens = max_tokens,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        gen_ai.usage.cache_read.input_tokens = Empty,
        gen_ai.response.finish_reasons = Empty,
        fathom.queued_ms = Empty,
        fathom.prefill_ms = Empty,
        fathom.decode_ms = Empty,
        otel.status_code = Empty,
    )
}

fn operation(route: &str) -> &'static str {
    if route.ends_with("completions") && !route.contains("chat") { "text_completion" } else { "chat" }
}

/// What became of an answer.
pub(crate) fn record_answer(span: &Span, finished: &Finished) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    span.record("gen_ai.usage.input_tokens", finished.prompt_tokens as i64);
    span.record("gen_ai.usage.output_tokens", finished.completion_tokens as i64);
    span.record("gen_ai.usage.cache_read.input_tokens", finished.cached_tokens as i64);
    span.record("gen_ai.response.finish_reasons", tracing::field::debug(finished.finish_reason));
    span.record("fathom.queued_ms", ms(finished.queued));
    span.record("fathom.prefill_ms", ms(finished.prefill));
    span.record("fathom.decode_ms", ms(finished.decode));
    if finished.finish_reason == FinishReason::Failed {
        span.record("otel.status_code", "ERROR");
    }
}
