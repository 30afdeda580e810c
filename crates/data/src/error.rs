//! What can be wrong with a dataset, or go wrong while one is made.

use std::io;
use std::path::{Path, PathBuf};

/// `std::result::Result` with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, where, what was expected, what was found, and the mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "every message states what its fields are")]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },

    #[error("{} holds no dataset: there is no dataset.json; prepare one with `fathom data prepare`", dir.display())]
    NoDataset { dir: PathBuf },

    #[error("{}: {reason}; prepare the data again", path.display())]
    BadManifest { path: PathBuf, reason: String },

    #[error(
        "the shard {} of {} is missing; copy it there again, or prepare the data again",
        file, dir.display()
    )]
    MissingShard { dir: PathBuf, file: String },

    #[error(
        "{}: expected {expected} bytes, got {got}: the file was cut or is still being copied; copy it again",
        path.display()
    )]
    WrongLength { path: PathBuf, expected: u64, got: u64 },

    #[error("{} is no token shard: {reason}; copy it again, or prepare the data again", path.display())]
    BadShard { path: PathBuf, reason: String },

    #[error(
        "{}: {what} should have the checksum {expected:032x}, got {got:032x}: the file is damaged; copy it again, or \
         prepare the data again", path.display()
    )]
    WrongChecksum { path: PathBuf, what: &'static str, expected: u128, got: u128 },

    #[error(
        "{}: `{field}` is {got}, but dataset.json says {expected}: shard and manifest are of different datasets",
        path.display()
    )]
    OtherShard { path: PathBuf, field: &'static str, expected: String, got: String },

    #[error(
        "{} holds the token {token}, but the vocabulary has {vocab_size}: the file is damaged; copy it again, or \
         prepare the data again", path.display()
    )]
    TokenOutOfRange { path: PathBuf, token: u32, vocab_size: u32 },

    #[error(
        "{} is not the tokenizer of the data in {}: its hash is {got}, dataset.json says {expected}; train with the \
         tokenizer in the data's directory, or prepare the data with this one", tokenizer.display(), dir.display()
    )]
    OtherTokenizer { dir: PathBuf, tokenizer: PathBuf, expected: String, got: String },

    #[error(
        "the {split} split of {} has {got} tokens, but one row takes {expected}; prepare more data, or take a smaller \
         sequence length", dir.display()
    )]
    TooFewTokens { dir: PathBuf, split: &'static str, expected: u64, got: u64 },

    #[error("`{field}`: expected {expected}, got {got}")]
    BadOption { field: &'static str, expected: &'static str, got: String },

    #[error(
        "the saved position is one of another run: its `{field}` is {saved}, this run's is {current}; resume with the \
         data and options that the checkpoint was made with"
    )]
    OtherPosition { field: &'static str, saved: String, current: String },

    #[error("{} already exists; choose another directory, or remove it", path.display())]
    AlreadyExists { path: PathBuf },

    #[error(
        "{}:{line}: no conversation to learn from: {reason}; a line is {{\"messages\": [{{\"role\": \"user\", \"content\": …}}, \
         {{\"role\": \"assistant\", \"content\": …}}]}}", file.display()
    )]
    BadConversation { file: PathBuf, line: u64, reason: String },

    #[error(
        "the tokenizer in {} has no eos token, so no answer could end; name one as eos_token in tokenizer_config.json",
        directory.display()
    )]
    NoEndOfAnswer { directory: PathBuf },

    #[error("stopped; no dataset was made")]
    Stopped,

    #[error("{}: not valid TOML: {reason}", file.display())]
    Syntax { file: PathBuf, reason: String },

    #[error("{}: {field}: {problem}", file.display())]
    Config { file: PathBuf, field: String, problem: String },

    #[error("--set {given:?} should look like pack.validation=0.01 or source.0.epochs=2: {reason}")]
    Override { given: String, reason: String },

    #[error(
        "{name:?}: the pattern {pattern:?} gives no file: {reason}; correct `paths`, which start at the configuration's folder"
    )]
    NoFiles { name: String, pattern: String, reason: String },

    #[error(
        "{}: the name does not say how the file is written; set the source's `format` to jsonl, txt or parquet",
        path.display()
    )]
    UnknownFormat { path: PathBuf },

    #[error("{}: {reason}; fetch or make the file again, or correct the source", path.display())]
    BadInput { path: PathBuf, reason: String },

    #[error(
        "{}, {place}: no document: {reason}; correct the file or the source's fields, or leave such records out with \
         on_invalid = \"skip\"", path.display()
    )]
    BadRecord { path: PathBuf, place: String, reason: String },

    #[error(
        "{}, {place}: longer than {limit} bytes; if that is right, raise the source's `max_record_bytes`",
        path.display()
    )]
    RecordTooLong { path: PathBuf, place: String, limit: u64 },

    #[error(
        "the tokenizer in {} has no eos token, so no document could end; name one as eos_token in tokenizer_config.json",
        directory.display()
    )]
    NoEndOfDocument { directory: PathBuf },

    #[error(
        "the tokenizer in {} has no {token}, which fill_in_the_middle writes; set the rate to 0, or take another tokenizer",
        directory.display()
    )]
    NoFillInTheMiddle { directory: PathBuf, token: &'static str },

    #[error(
        "the tokenizer is not trained yet ({} is missing); run `fathom data prepare` with --only-tokenizer first, once, \
         then the tasks", directory.display()
    )]
    NoTokenizerYet { directory: PathBuf },

    #[error(
        "{missing} of {files} input files are not prepared as this configuration wants it, the first is {} (number \
         {index}: of n tasks, task {index} modulo n makes it); run its task, or all of it without --finish", first.display()
    )]
    MissingStages { missing: usize, files: usize, first: PathBuf, index: usize },

    #[error(
        "nothing is left of {read} documents to train on, so there is nothing to put into {}; look at the filters and at \
         pack.validation", out.display()
    )]
    NoDocuments { out: PathBuf, read: u64 },

    #[error(
        "nothing is left of the {read} documents of the source {name:?}, so it can have no weight; look at its filters, or \
         leave it out"
    )]
    EmptySource { name: String, read: u64 },

    #[error(transparent)]
    Text(#[from] fathom_text::Error),
}

impl Error {
    pub(crate) fn config(file: &Path, field: &str, problem: String) -> Self {
        Self::Config { file: file.to_owned(), field: field.to_owned(), problem }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
