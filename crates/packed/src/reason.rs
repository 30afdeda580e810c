//! Why a packed file is not used.

use crate::Error;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// Why the cache has to be made (again): a sentence for people, never an error that ends a program.
///
/// Names that come out of a file are printed with `{:?}`: a hostile name cannot send control sequences to a
/// terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "every message states what its fields are")]
pub enum Reason {
    #[error("there is no packed cache yet")]
    Missing,

    #[error("the packed cache cannot be read: {source}")]
    Unreadable { source: io::Error },

    #[error("the file in the place of the packed cache is something else")]
    NotPacked,

    #[error("the packed cache is of format version {got}, this program uses {expected}")]
    Version { expected: u32, got: u32 },

    #[error("the packed cache should have {expected} bytes and has {got}")]
    Truncated { expected: u64, got: u64 },

    #[error("the packed cache is damaged: its {part}, bytes {} to {}, is not what was written", range.start, range.end)]
    Damaged { part: &'static str, range: Range<u64> },

    #[error("the packed cache is malformed: {problem}")]
    Malformed { problem: String },

    #[error("the packed cache has the kernel layout {got:?}, this program uses {expected:?}")]
    Layout { expected: String, got: String },

    #[error("the packed cache was made with the options {got:?}, now they are {expected:?}")]
    Options { expected: String, got: String },

    #[error("the checkpoint has other files than when the packed cache was made")]
    OtherFiles,

    #[error("{} was changed since the packed cache was made", file.display())]
    SourceChanged { file: PathBuf },

    #[error("whether the packed cache is of this checkpoint cannot be told: {source}")]
    Source { source: Error },

    #[error("the entry {name:?} of the packed cache is not usable: {problem}")]
    Entry { name: String, problem: String },
}
