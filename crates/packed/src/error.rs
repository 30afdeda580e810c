//! What can go wrong while a packed file is written or its source is read.
//!
//! None of it concerns the weights that are already in memory: a caller who loads a model reports the error
//! as a warning ("starts will be slow: …") and goes on.

use std::io;
use std::path::{Path, PathBuf};

/// `std::result::Result` with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, where, what was expected, what was found, and the mend where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "every message states what its fields are")]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    #[error(
        "not enough space for the packed cache {}: {} needed, {} available; free some, or name another \
         directory in FATHOM_CACHE_DIR",
        path.display(), size(*needed), size(*available)
    )]
    NoSpace { path: PathBuf, needed: u64, available: u64 },

    #[error(
        "the packed cache {} may take {}, but needs {} and more; allow more, or go without it",
        path.display(), size(*limit), size(*needed)
    )]
    OverLimit { path: PathBuf, limit: u64, needed: u64 },

    #[error(
        "the packed cache can be written nowhere: {}; name another directory in FATHOM_CACHE_DIR",
        list(tried)
    )]
    NoPlace { tried: Vec<Error> },

    #[error("writing {}: the entry {name:?} is there already", path.display())]
    DuplicateEntry { path: PathBuf, name: String },

    #[error("writing {}: bytes came before the first entry was begun", path.display())]
    NoEntry { path: PathBuf },

    #[error("writing {}: what is said about the entry {name:?} is no JSON: {source}", path.display())]
    Meta { path: PathBuf, name: String, source: serde_json::Error },

    #[error(
        "writing {}: its table would take {}, expected at most {}; make larger entries",
        path.display(), size(*got), size(*limit)
    )]
    TableTooLarge { path: PathBuf, limit: u64, got: u64 },

    #[error("a checkpoint of no files was to be packed")]
    NoFiles,

    #[error("{} was given up after an earlier error", path.display())]
    GivenUp { path: PathBuf },

    #[error("{} is not a regular file", path.display())]
    NotRegular { path: PathBuf },

    #[error("{} was changed while it was being read; load it again once nobody writes to it", path.display())]
    SourceChanged { path: PathBuf },
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

/// Bytes for people: `12.3 GB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn list(errors: &[Error]) -> String {
    match errors {
        [] => "there is no directory for it (HOME and XDG_CACHE_HOME are not set)".to_owned(),
        _ => errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; "),
    }
}
