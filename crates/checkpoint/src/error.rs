//! Everything that can be wrong with a checkpoint, or go wrong while writing one.
//!
//! Names that come out of a file are printed with `{:?}`: a hostile name cannot send control sequences to
//! a terminal.

use crate::Dtype;
use std::io;
use std::path::{Path, PathBuf};

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, where, what was expected, what was found, and the mend where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "every message states what its fields are")]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    #[error(
        "{} holds no checkpoint: looked for model.safetensors and model.safetensors.index.json; \
         give the directory of a downloaded Hugging Face model, or one .safetensors or .gguf file", dir.display()
    )]
    NoCheckpoint { dir: PathBuf },

    #[error("{} is {format}, which is not supported: {mend}", path.display())]
    UnsupportedFormat { path: PathBuf, format: &'static str, mend: &'static str },

    #[error(
        "{} is a Git LFS pointer, not the weights: run `git lfs pull` in its directory, or download the file",
        file.display()
    )]
    LfsPointer { file: PathBuf },

    #[error("{}: {reason}; download the index again", index.display())]
    MalformedIndex { index: PathBuf, reason: String },

    #[error(
        "{}: tensor {tensor:?} is said to be in {shard:?}, but a shard must be a .safetensors file beside the index",
        index.display()
    )]
    BadShardName { index: PathBuf, tensor: String, shard: String },

    #[error("{} names the shard {shard:?}, which is not there: download it into the same directory", index.display())]
    MissingShard { index: PathBuf, shard: String },

    #[error(
        "{}: tensor {tensor:?} is expected in {expected:?}, got {}: index and shards are of different checkpoints",
        index.display(), found_in(got)
    )]
    NotInShard { index: PathBuf, tensor: String, expected: String, got: Option<PathBuf> },

    #[error(
        "{} holds the tensor {tensor:?}, which {} does not list: index and shards are of different checkpoints",
        file.display(), index.display()
    )]
    NotInIndex { index: PathBuf, file: PathBuf, tensor: String },

    #[error("tensor {tensor:?} is in {} and again in {}", first.display(), second.display())]
    DuplicateTensor { tensor: String, first: PathBuf, second: PathBuf },

    #[error("{} is truncated: expected {expected} bytes, got {got}; download it again", file.display())]
    Truncated { file: PathBuf, expected: u64, got: u64 },

    #[error("{} is too long: its header accounts for {expected} bytes, got {got}", file.display())]
    TrailingBytes { file: PathBuf, expected: u64, got: u64 },

    #[error(
        "{} is not a safetensors file or is damaged: its header would take {got} bytes, expected at most {limit}",
        file.display()
    )]
    HeaderTooLarge { file: PathBuf, limit: u64, got: u64 },

    #[error("{}: the header cannot be read: {reason}", file.display())]
    MalformedHeader { file: PathBuf, reason: String },

    #[error("{}: tensor {tensor:?} has dtype {got:?}, expected one of F32, F16, BF16, F8_E4M3 for weights", file.display())]
    UnsupportedDtype { file: PathBuf, tensor: String, got: String },

    #[error("{}: tensor {tensor:?} of shape {shape:?} would be larger than memory can address", file.display())]
    ShapeOverflow { file: PathBuf, tensor: String, shape: Vec<usize> },

    #[error(
        "{}: tensor {tensor:?} is expected to begin at byte {expected} of the data, got {got}: \
         tensors overlap or leave a hole", file.display()
    )]
    Offsets { file: PathBuf, tensor: String, expected: u64, got: u64 },

    #[error("{}: tensor {tensor:?} of {dtype} {shape:?} is expected to have {expected} bytes, got {got}", file.display())]
    ByteLength { file: PathBuf, tensor: String, dtype: Dtype, shape: Vec<usize>, expected: u64, got: u64 },

    #[error("{} has no tensor {tensor:?}{}", path.display(), nearest(similar))]
    MissingTensor { path: PathBuf, tensor: String, similar: Vec<String> },

    #[error(
        "{}: tensor {tensor:?} is expected to have shape {expected:?}, got {got:?}: \
         is config.json of the same model?", file.display()
    )]
    WrongShape { file: PathBuf, tensor: String, expected: Vec<usize>, got: Vec<usize> },

    #[error("{}: tensor {tensor:?} is expected to be {expected}, got {got}", file.display())]
    WrongDtype { file: PathBuf, tensor: String, expected: &'static str, got: Dtype },

    #[error("{}: tensor {tensor:?} is F8_E4M3, expected its scales in {scale:?}, got no such tensor", file.display())]
    MissingScale { file: PathBuf, tensor: String, scale: String },

    #[error(
        "{}: tensor {tensor:?} is stored as {got}, expected one of {}; take a file of one of these",
        file.display(), crate::gguf::SUPPORTED
    )]
    GgufType { file: PathBuf, tensor: String, got: String },

    #[error("{} is of the architecture {got:?}, expected {:?}", file.display(), crate::gguf::ARCHITECTURE)]
    GgufArchitecture { file: PathBuf, got: String },

    #[error("{}: the key {key:?} is expected to be {expected}, got {got}", file.display())]
    GgufKey { file: PathBuf, key: String, expected: String, got: String },

    #[error("{}: {reason}", file.display())]
    GgufSplit { file: PathBuf, reason: String },

    #[error("{}: the data of the tensors {first:?} and {second:?} overlap; download the file again", file.display())]
    Overlap { file: PathBuf, first: String, second: String },

    #[error("the quantization plan {reason}")]
    BadRule { reason: String },

    #[error("an FP8 scale block is expected to have at least one row and one column, got {got:?}")]
    Fp8Block { got: [usize; 2] },

    #[error(
        "{}: tensor {tensor:?} is expected to be finite, got {value} at row {row}, column {col}: \
         the file is damaged, or training diverged", file.display()
    )]
    NonFinite { file: PathBuf, tensor: String, row: usize, col: usize, value: f32 },

    #[error(
        "not enough space for {}: {} needed, {} available; free some or choose another place",
        path.display(), size(*needed), size(*available)
    )]
    NoSpace { path: PathBuf, needed: u64, available: u64 },

    #[error("{} is not a regular file; give another name", path.display())]
    NotRegular { path: PathBuf },

    #[error("{} is a directory, expected a file", path.display())]
    IsDirectory { path: PathBuf },

    #[error("{} already exists: choose another directory, or allow overwriting", path.display())]
    AlreadyExists { path: PathBuf },

    #[error("cannot write {}: tensor {tensor:?}: {reason}", path.display())]
    BadPlan { path: PathBuf, tensor: String, reason: String },

    #[error("writing {}: expected the tensor {expected:?} next, got {got:?}", path.display())]
    WriteOrder { path: PathBuf, expected: String, got: String },

    #[error("writing {}: tensor {tensor:?} is planned with {expected} bytes, got {got}", path.display())]
    WriteLength { path: PathBuf, tensor: String, expected: u64, got: u64 },
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

fn nearest(similar: &[String]) -> String {
    match similar {
        [] => "; config.json promises it: are both of the same model?".to_owned(),
        names => format!("; the nearest names are {names:?}"),
    }
}

fn found_in(file: &Option<PathBuf>) -> String {
    file.as_ref().map_or_else(|| "no such tensor in any shard".to_owned(), |file| file.display().to_string())
}
