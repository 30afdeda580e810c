//! What can go wrong with a run.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, where, what was expected, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "every message states what its fields are")]
pub enum Error {
    #[error("{}: not valid TOML: {reason}", file.display())]
    Syntax { file: PathBuf, reason: String },

    #[error("{}: {field}: {problem}", file.display())]
    Config { file: PathBuf, field: String, problem: String },

    #[error("--set {given:?} should look like optimizer.weight_decay=0.1: {reason}")]
    Override { given: String, reason: String },

    #[error("cannot {action} {}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    #[error(
        "{}: {needed} bytes are needed for a checkpoint and {available} are free; make room, give another --out, or \
         keep fewer (checkpoint.keep_last)", path.display()
    )]
    NoSpace { path: PathBuf, needed: u64, available: u64 },

    #[error("{} already holds a run: give --resume to go on with it, or another --out", path.display())]
    AlreadyARun { path: PathBuf },

    #[error("{} is in use by another process; wait for its end, or stop it", path.display())]
    Busy { path: PathBuf },

    #[error("{} holds no complete checkpoint to resume from; leave --resume out to begin", path.display())]
    NothingToResume { path: PathBuf },

    #[error("{}: this checkpoint is damaged: {reason}; {mend}", path.display())]
    Damaged { path: PathBuf, reason: String, mend: String },

    #[error(
        "{} was trained with another value of {field} ({was}, now {now}), and cannot be continued with it; change it \
         back, or begin a new run from these weights with model.from", path.display()
    )]
    OtherRun { path: PathBuf, field: String, was: String, now: String },

    #[error("step {step}: {what} in {place}; {after}")]
    NotFinite { step: u64, what: &'static str, place: String, after: String },

    #[error("step {step}: the loss jumped to {loss:.4} from {usual:.4}; {after}")]
    Spike { step: u64, loss: f64, usual: f64, after: String },

    #[error("{}: the state of {tensor:?} is {got}, expected {expected}", file.display())]
    State { file: PathBuf, tensor: String, expected: String, got: String },

    #[error("{}: these are no adapters to merge: {reason}", path.display())]
    Adapter { path: PathBuf, reason: String },

    #[error(transparent)]
    Data(#[from] fathom_data::Error),

    #[error(transparent)]
    Metrics(#[from] crate::metrics::Error),

    #[error(transparent)]
    Checkpoint(#[from] fathom_checkpoint::Error),

    #[error(transparent)]
    Model(#[from] fathom_model::Error),

    #[error(transparent)]
    Kernels(#[from] fathom_kernels::Error),
}

impl Error {
    /// For `map_err`: the error of a failed `action` on `path`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// A field of a run's configuration that cannot be.
    pub(crate) fn config(file: &Path, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { file: file.to_owned(), field: field.into(), problem: problem.into() }
    }
}
