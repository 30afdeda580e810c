//! What can be wrong with a model or with what is asked of it.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, where, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "every message states what its fields are")]
pub enum Error {
    #[error("cannot read {}: {source}; give the directory of a Hugging Face model", file.display())]
    ReadConfig { file: PathBuf, source: std::io::Error },

    #[error("{}: not valid JSON: {reason}; download the file again", file.display())]
    ConfigSyntax { file: PathBuf, reason: String },

    #[error("{}: the field {field} is missing; it should be {expected}", file.display())]
    MissingField { file: PathBuf, field: &'static str, expected: &'static str },

    #[error("{}: {field} is {got}, but it should be {expected}", file.display())]
    BadField { file: PathBuf, field: &'static str, expected: String, got: String },

    #[error(
        "{}: model_type {got:?} is not supported; Fathom runs deepseek_v2 (V2, V2-Lite, V2.5, Coder-V2) and \
         deepseek_v3 (V3, R1, V3.1)", file.display()
    )]
    UnsupportedModelType { file: PathBuf, got: String },

    #[error(
        "{}: model_type \"deepseek\" (MHA, GQA or MQA) can be trained and saved, but Fathom does not run it; it runs \
         deepseek_v2 and deepseek_v3", file.display()
    )]
    NotServed { file: PathBuf },

    #[error(
        "{}: {count} tensors that this configuration does not have, the first is {first:?}: is config.json of the \
         same model?", path.display()
    )]
    UnexpectedTensors { path: PathBuf, count: usize, first: String },

    #[error("{} is no GGUF file, so it has no configuration in it", path.display())]
    NoGguf { path: PathBuf },

    #[error(
        "this configuration cannot be written as GGUF: {field} is {got}, and llama.cpp computes only {expected}; \
         write safetensors instead"
    )]
    NotInGguf { field: &'static str, got: String, expected: &'static str },

    #[error(
        "{tensor} is to be stored as {format}, which GGUF does not have; the nearest that it has is {nearest}, or \
         write a directory"
    )]
    FormatNotInGguf { tensor: String, format: &'static str, nearest: &'static str },

    #[error("{}: {name} is not what calibration wrote: {reason}; run it again", file.display())]
    BadImportance { file: PathBuf, name: String, reason: &'static str },

    #[error("cancelled; nothing was written")]
    Cancelled,

    #[error(
        "no linear map of this model is named {module:?}, so it can have no adapter; choose from {}", known.join(", ")
    )]
    NoSuchModule { module: String, known: Vec<String> },

    #[error(transparent)]
    Checkpoint(#[from] fathom_checkpoint::Error),

    #[error("{0:?} is neither a known configuration (v2-lite, v2, v3) nor a file")]
    UnknownPreset(String),

    #[error("this checkpoint has {available} MTP layers, module {wanted} was asked for")]
    NoSuchMtpModule { wanted: usize, available: usize },

    #[error("token id {token} at position {position} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange { token: u32, position: usize, vocab_size: usize },

    #[error(
        "{wanted} tokens do not fit the model's context of {context} (max_position_embeddings); shorten the input or \
         ask for fewer tokens"
    )]
    ContextTooLong { wanted: usize, context: usize },

    #[error(
        "the latent cache is full: {wanted} more tokens asked for, room for {available}; make the cache larger"
    )]
    CacheFull { wanted: usize, available: usize },

    #[error(
        "a latent cache for {tokens} tokens needs {:.1} GB, which this machine does not have; ask for fewer tokens or a \
         smaller context", *bytes as f64 / 1e9
    )]
    CacheTooLarge { tokens: usize, bytes: u64 },

    #[error("nothing to run: the prompt has no tokens")]
    NoTokens,
}
