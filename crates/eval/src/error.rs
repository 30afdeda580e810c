//! What can go wrong while scoring.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "every message states what its fields are")]
pub enum Error {
    #[error(
        "the text has {tokens} tokens, at least {needed} are needed to predict one from another; give more text"
    )]
    TooShort { tokens: usize, needed: usize },

    #[error("a window of {window} tokens was asked for; allowed: 2 to the model's context of {context}")]
    Window { window: usize, context: usize },

    #[error("a stride of {stride} was asked for; allowed: 1 to the window of {window} tokens")]
    Stride { stride: usize, window: usize },

    #[error(
        "token {position} of the text has id {token}, but the model's vocabulary has {vocab_size} entries; \
             is the tokenizer of this model?"
    )]
    Token { position: usize, token: u32, vocab_size: usize },

    #[error(
        "list {sequence} has {got} tokens, the first has {expected}; give lists of one length: they are one batch"
    )]
    UnequalLengths { sequence: usize, expected: usize, got: usize },

    #[error(
        "prompt {number} has {tokens} tokens; allowed: 1 to the context of {context} less the answer's first"
    )]
    Prompt { number: usize, tokens: usize, context: usize },

    #[error("sequence {sequence}: {source}")]
    Sequence { sequence: usize, source: fathom_model::Error },

    #[error(transparent)]
    Checkpoint(#[from] fathom_checkpoint::Error),

    #[error(transparent)]
    Logits(#[from] fathom_engine::Error),

    #[error(transparent)]
    Model(#[from] fathom_model::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
