//! What can keep a server from starting.

use std::path::PathBuf;

/// An error of this crate. What a client did wrong is none: that is an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is unknown, of the wrong type or out of range.
    #[error("{place}: {reason}; correct it or leave it out (docs/guides/serve.md lists every setting)")]
    Config {
        /// The file, the environment variable or the flag.
        place: String,
        /// The field and what is wrong with it.
        reason: String,
    },

    /// A file could not be read or written.
    #[error("{file}: cannot be {action}: {source}; check the path and your rights")]
    Io {
        /// The file.
        file: PathBuf,
        /// "read" or "written".
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A file of the state directory is not what this program wrote.
    #[error("{file}: {reason}; restore it from a backup, or move it away to begin with new keys")]
    State {
        /// The file.
        file: PathBuf,
        /// What the parser said.
        reason: String,
    },

    /// There is nowhere to keep keys.
    #[error("no state directory: neither XDG_STATE_HOME nor HOME is set; set `state_dir`")]
    NoStateDir,

    /// The engine panicked while it served.
    #[error(
        "the engine has crashed and can answer no more; start the server again and report the panic above"
    )]
    EngineCrashed,

    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; choose another with `listen` or end the program that has it"
    )]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },

    /// The certificate or its key is of no use.
    #[error("{file}: {reason}; give PEM files, the certificate chain first to last and one private key")]
    Tls {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// Traces cannot be sent.
    #[error("`otlp_endpoint` {endpoint}: {reason}; correct it, or leave it out to send no traces")]
    Traces {
        /// The collector.
        endpoint: String,
        /// What the exporter said.
        reason: String,
    },

    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}; keys cannot be made")]
    Random(getrandom::Error),
}

/// `Result` with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
