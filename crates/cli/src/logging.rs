//! Logs: to stderr, as `FATHOM_LOG` says.

use tracing_subscriber::EnvFilter;

/// From now on logs are written: what `FATHOM_LOG` lets through, else `default` and worse; as text or JSON.
pub(crate) fn start(default: &str, json: bool) {
    let filter = EnvFilter::try_from_env("FATHOM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { logs.json().init() } else { logs.init() }
}
