//! What can go wrong with words: always the file, what was expected, what was found and the mend.

use std::path::PathBuf;

/// The errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder holds no `tokenizer.json`.
    #[error(
        "no tokenizer: {dir} has no tokenizer.json; copy tokenizer.json and tokenizer_config.json from the \
         model's release into it, or work on token ids instead of text"
    )]
    NoTokenizer {
        /// The folder that was searched.
        dir: PathBuf,
    },

    /// A file could not be read.
    #[error("{file}: cannot be read: {source}; check that it exists and that you may read it")]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A file is not the JSON, or not the text, that it should be.
    #[error("{file}: {reason}; the file is damaged or not what its name says: fetch it again")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What the parser said, with line and column where it knows them.
        reason: String,
    },

    /// One field of a file has the wrong type or a value out of range.
    #[error("{file}: field `{field}`: expected {expected}, got {got}; correct the field or remove it")]
    Field {
        /// The file.
        file: PathBuf,
        /// The field, dotted for nested ones.
        field: String,
        /// The type and range that is allowed.
        expected: String,
        /// What the file says.
        got: String,
    },

    /// `tokenizer.json` is well formed but describes a kind of tokenizer that Fathom does not run.
    #[error(
        "{file}: field `{field}`: expected {expected}, got {got}; Fathom runs byte-level BPE tokenizers, \
         the kind of every DeepSeek model"
    )]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The field that says so.
        field: &'static str,
        /// What Fathom runs.
        expected: &'static str,
        /// What the file asks for.
        got: String,
    },

    /// An added token would get another id than the file states.
    #[error(
        "{file}: added token {token:?}: expected id {expected}, got {got} (added tokens must follow the \
         vocabulary without gaps); fetch the file again from the model's release"
    )]
    AddedToken {
        /// The file.
        file: PathBuf,
        /// The token's text.
        token: String,
        /// The id in the file.
        expected: u32,
        /// The id the `tokenizers` crate assigns, or "none".
        got: String,
    },

    /// The `tokenizers` crate failed on a text or on ids.
    #[error("tokenizer failed to {action}: {reason}; tokenizer.json contradicts itself: fetch it again")]
    Tokenizer {
        /// "encode" or "decode".
        action: &'static str,
        /// What it said.
        reason: String,
    },

    /// The pattern that a tokenizer to be trained is to isolate is none.
    #[error("`isolate`: expected a regular expression, got {pattern:?}: {reason}; correct the pattern")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the parser said.
        reason: String,
    },

    /// There is no chat template.
    #[error(
        "no chat template: {place} has none; use --raw to send the prompt as it is, or put a \
         chat_template.jinja beside tokenizer_config.json"
    )]
    NoChatTemplate {
        /// The folder or file that was searched.
        place: PathBuf,
    },

    /// A tool or the choice among tools is not what OpenAI's API allows.
    #[error("`{field}`: expected {expected}, got {got}; correct the request")]
    Tool {
        /// The field of the request.
        field: String,
        /// What is allowed.
        expected: &'static str,
        /// What it is.
        got: String,
    },

    /// A chat template does not compile or refused the conversation.
    #[error("{file}: chat template, line {line}: {reason}; correct the template or use --raw")]
    Template {
        /// The file that holds the template.
        file: PathBuf,
        /// The line within the template, from 1; 0 where it is unknown.
        line: usize,
        /// What was wrong.
        reason: String,
    },
}

/// A result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;
