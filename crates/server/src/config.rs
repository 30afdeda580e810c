//! What an operator can set.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::Uri;
use fathom_engine::{DiskCache, EngineOptions};
use serde::Deserialize;

use crate::error::{Error, Result};

/// The names under which existing clients know DeepSeek's models.
const ALIASES: [&str; 4] = ["deepseek-chat", "deepseek-reasoner", "deepseek-flash", "deepseek-v4-pro"];

/// Everything that can be set, with its default. [`ServerConfig::read`] puts the layers together.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the API and the web page. Default 127.0.0.1:8000; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address of the admin endpoints. Default none.
    pub admin_listen: Option<SocketAddr>,
    /// Token of the admin endpoints; if none is given, one is made and printed at the first start.
    pub admin_token: Option<String>,
    /// Where keys are kept. Default `fathom` below `$XDG_STATE_HOME` or `~/.local/state`.
    pub state_dir: Option<PathBuf>,
    /// Whether the API wants a key. Default true.
    pub require_key: bool,
    /// Keys from the configuration, beside those in the state directory.
    pub keys: Vec<KeyConfig>,
    /// The model's name in the API. Default: the name of its directory or file.
    pub model_id: Option<String>,
    /// Further names by which it is found. Default: those of DeepSeek's own models.
    pub aliases: Vec<String>,
    /// Whether models that can do both think when a request does not say. Default: as the chat template does.
    pub thinking: Option<bool>,
    /// Who may profit from whose cached prefixes. Default: `user`.
    pub isolation: Isolation,
    /// Whether `/metrics` is on the API's port without a key. Default: if that is a loopback address.
    pub public_metrics: Option<bool>,
    /// Whether the chat page is served at `/`. Default true.
    pub web: bool,

    /// Largest body of a request. Default 16 MiB.
    pub max_body_bytes: usize,
    /// All bodies that are read at a time. Default 256 MiB.
    pub max_bodies_bytes: usize,
    /// Largest head of a request. Default 32 KiB.
    pub max_header_bytes: usize,
    /// Most headers. Default 64.
    pub max_headers: usize,
    /// Most connections; one more is answered with 503 and closed. Default 4096.
    pub max_connections: usize,
    /// Most answers (`n`, times prompts) to one request. Default 16.
    pub max_choices: usize,
    /// Most messages of a conversation. Default 4096.
    pub max_messages: usize,
    /// Most answers in work for one key; one more request is refused with 429. Default 512.
    pub max_requests_per_key: usize,

    /// Seconds for the head of a request, and between requests of a connection. Default 30.
    pub header_timeout_s: f64,
    /// Seconds for the body of a request. Default 60.
    pub body_timeout_s: f64,
    /// Seconds for which a client may take nothing of its answer. Default 60.
    pub write_timeout_s: f64,
    /// Seconds after which a request that has not begun is given up. Default 600.
    pub queue_timeout_s: f64,
    /// Seconds between signs of life while nothing else is sent. Default 10.
    pub keep_alive_s: f64,
    /// Seconds that running answers get when the server is told to end. Default 30.
    pub drain_timeout_s: f64,

    /// Most tokens of prompt and answer. Default: the model's.
    pub context: Option<usize>,
    /// Tokens of all sequences and cached prefixes in memory. Default: the engine's.
    pub cache_tokens: Option<usize>,
    /// Sequences side by side at most. Default: the engine's.
    pub sequences: Option<usize>,
    /// Tokens of one step at most. Default: the engine's.
    pub step_tokens: Option<usize>,
    /// How long a step may take beside running answers, in milliseconds. Default: the engine's, 500.
    /// A step reads at least 4 tokens of prompts.
    pub inter_token_latency_ms: Option<f64>,
    /// Requests that may wait; one more is refused with 503. Default: the engine's.
    pub waiting: Option<usize>,
    /// Sequences beside which the MTP layer still drafts; 0 turns it off. Default: the engine's.
    pub speculation: Option<usize>,
    /// Directory in which prefixes outlive a restart. Default none.
    pub disk_cache: Option<PathBuf>,
    /// Its size at most. Default 8 GiB.
    pub disk_cache_bytes: u64,

    /// PEM file of the certificate chain; with `tls_key` the API speaks TLS only.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub tls_key: Option<PathBuf>,
    /// Collector that traces are sent to by OTLP over HTTP, such as `http://127.0.0.1:4318`. Default none.
    pub otlp_endpoint: Option<String>,
    /// Share of requests that are traced, unless the client's `traceparent` decides. Default 1.
    pub otlp_sample_ratio: f64,
    /// How logs are written. Default `text`.
    pub log_format: LogFormat,
    /// Whether prompts are logged. Default false.
    pub log_prompts: bool,
}

/// A key in the configuration: its text, or the SHA-256 of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// A word for people.
    pub name: String,
    /// The key itself.
    pub key: Option<String>,
    /// SHA-256 of the key, 64 hexadecimal digits.
    pub sha256: Option<String>,
}

/// Who may profit from whose cached prefixes: a hit is faster, and so tells that somebody sent the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Requests of the same key and the same `user_id`.
    User,
    /// Requests of the same key.
    Key,
    /// Everybody: for one household.
    None,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            admin_listen: None,
            admin_token: None,
            state_dir: None,
            require_key: true,
            keys: Vec::new(),
            model_id: None,
            aliases: ALIASES.map(str::to_owned).to_vec(),
            thinking: None,
            isolation: Isolation::User,
            public_metrics: None,
            web: true,
            max_body_bytes: 16 << 20,
            max_bodies_bytes: 256 << 20,
            max_header_bytes: 32 << 10,
            max_headers: 64,
            max_connections: 4096,
            max_choices: 16,
            max_messages: 4096,
            max_requests_per_key: 512,
            header_timeout_s: 30.0,
            body_timeout_s: 60.0,
            write_timeout_s: 60.0,
            queue_timeout_s: 600.0,
            keep_alive_s: 10.0,
            drain_timeout_s: 30.0,
            context: None,
            cache_tokens: None,
            sequences: None,
            step_tokens: None,
            inter_token_latency_ms: None,
            waiting: None,
            speculation: None,
            disk_cache: None,
            disk_cache_bytes: 8 << 30,
            tls_certificate: None,
            tls_key: None,
            otlp_endpoint: None,
            otlp_sample_ratio: 1.0,
            log_format: LogFormat::Text,
            log_prompts: false,
        }
    }
}

impl ServerConfig {
    /// Checks every value that its type does not.
    pub(crate) fn validate(&self) -> std::result::Result<(), String> {
        let seconds = [
            ("header_timeout_s", self.header_timeout_s),
            ("body_timeout_s", self.body_timeout_s),
            ("write_timeout_s", self.write_timeout_s),
            ("queue_timeout_s", self.queue_timeout_s),
            ("keep_alive_s", self.keep_alive_s),
            ("drain_timeout_s", self.drain_timeout_s),
        ];
        for (field, value) in seconds {
            if !(value > 0.0 && value <= 86_400.0) {
                return Err(format!("`{field}` is {value}; allowed: above 0, up to 86400 seconds"));
            }
        }
        let counts = [
            ("max_body_bytes", self.max_body_bytes, 1, u32::MAX as usize),
            ("max_bodies_bytes", self.max_bodies_bytes, self.max_body_bytes, u32::MAX as usize),
            ("max_header_bytes", self.max_header_bytes, 8192, 1 << 20),
            ("max_headers", self.max_headers, 16, 1024),
            ("max_connections", self.max_connections, 1, 1 << 20),
            ("max_choices", self.max_choices, 1, 128),
            ("max_messages", self.max_messages, 1, 1 << 20),
            ("max_requests_per_key", self.max_requests_per_key, 1, usize::MAX),
        ];
        for (field, value, least, most) in counts {
            if !(least..=most).contains(&value) {
                return Err(format!("`{field}` is {value}; allowed: {least} to {most}"));
            }
        }
        if let Some(ms) = self.inter_token_latency_ms.filter(|ms| !(*ms > 0.0 && *ms <= 60_000.0)) {
            return Err(format!("`inter_token_latency_ms` is {ms}; allowed: above 0, up to 60000"));
        }
        if let Some(endpoint) = self.otlp_endpoint.as_ref().filter(|endpoint| !is_http(endpoint)) {
            return Err(format!(
                "`otlp_endpoint` is {endpoint:?}; give http://HOST:PORT, the base of a collector"
            ));
        }
        if !(0.0..=1.0).contains(&self.otlp_sample_ratio) {
            return Err(format!("`otlp_sample_ratio` is {}; allowed: 0 to 1", self.otlp_sample_ratio));
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return Err("`tls_certificate` and `tls_key` belong together, and only one is set".to_owned());
        }
        for (index, key) in self.keys.iter().enumerate() {
            key.validate().map_err(|reason| format!("`keys[{index}]` {reason}"))?;
        }
        Ok(())
    }

    /// What the engine is started with.
    pub fn engine_options(&self) -> EngineOptions {
        let default = EngineOptions::default();
        EngineOptions {
            context: self.context.or(default.context),
            cache_tokens: self.cache_tokens.unwrap_or(default.cache_tokens),
            sequences: self.sequences.unwrap_or(default.sequences),
            step_tokens: self.step_tokens.unwrap_or(default.step_tokens),
            inter_token_latency: self
                .inter_token_latency_ms
                .map_or(default.inter_token_latency, |ms| Duration::from_secs_f64(ms / 1e3)),
            waiting: self.waiting.unwrap_or(default.waiting),
            speculation: self.speculation.unwrap_or(default.speculation),
            disk_cache: self
                .disk_cache
                .clone()
                .map(|directory| DiskCache { directory, bytes: self.disk_cache_bytes }),
        }
    }

    /// Where keys are kept.
    ///
    /// # Errors
    /// [`Error::NoStateDir`] if neither the setting nor the environment names a place.
    pub fn state_dir(&self) -> Result<PathBuf> {
        if let Some(dir) = &self.state_dir {
            return Ok(dir.clone());
        }
        let place = |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let state = place("XDG_STATE_HOME").or_else(|| Some(place("HOME")?.join(".local/state")));
        state.map(|dir| dir.join("fathom")).ok_or(Error::NoStateDir)
    }

    /// Whether `/metrics` needs no key on the API's port.
    pub(crate) fn metrics_are_public(&self) -> bool {
        self.public_metrics.unwrap_or(self.listen.ip().is_loopback())
    }
}

/// Whether a text is an address without TLS: what the exporter can reach.
fn is_http(endpoint: &str) -> bool {
    let uri: Option<Uri> = endpoint.parse().ok();
    uri.is_some_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some() && uri.query().is_none())
}

impl KeyConfig {
    fn validate(&self) -> std::result::Result<(), String> {
        let hash_ok = |hash: &String| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        match (&self.key, &self.sha256) {
            (Some(key), None) if key.len() < 16 => Err("has a `key` of less than 16 characters".to_owned()),
            (Some(_), None) => Ok(()),
            (None, Some(hash)) if hash_ok(hash) => Ok(()),
            (None, Some(_)) => Err("has a `sha256` that is not 64 hexadecimal digits".to_owned()),
            _ => Err("needs either `key` or `sha256`".to_owned()),
        }
    }
}
