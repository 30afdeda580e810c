//! What can go wrong with the record of a run.

use std::io;
use std::path::{Path, PathBuf};

/// Result of the record and of the report.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "every message states what its fields are")]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    #[error(
        "{}, line {line}: not a record of a training run: {reason}; only a last line may be broken off, so the file \
         was changed or damaged: remove the line, or take the file from a copy", file.display()
    )]
    Line { file: PathBuf, line: usize, reason: String },

    #[error("{} holds no metrics.jsonl; give the folder that a training run writes to", dir.display())]
    NotARun { dir: PathBuf },
}

impl Error {
    /// For `map_err`: the error of a failed `action` on `path`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
