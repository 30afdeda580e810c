//! Logs: to stderr, as `FATHOM_LOG` says. Traces: to a collector, if the server's settings name one.

use fathom_server::{TRACES, Traces};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// From now on logs are written: what `FATHOM_LOG` lets through, else `default` and worse; as text or JSON.
pub(crate) fn start(default: &str, json: bool, traces: Option<&Traces>) {
    let filter = EnvFilter::try_from_env("FATHOM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let logged = filter.and(filter_fn(|metadata| metadata.target() != TRACES));
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if json { logs.json().boxed() } else { logs.boxed() };
    let traced = filter_fn(|metadata| metadata.target() == TRACES);
    tracing_subscriber::registry()
        .with(logs.with_filter(logged))
        .with(traces.map(|traces| traces.layer().with_filter(traced)))
        .init();
}
