//! What can go wrong between logits and text.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A sampling parameter lies outside its range.
    #[error("sampling parameter `{field}` is {value}; allowed: {allowed}")]
    InvalidParam {
        /// The field of [`SamplingParams`](crate::SamplingParams), with the index of the element in a list.
        field: String,
        /// The value given.
        value: String,
        /// The allowed range, and how to switch the parameter off where that is possible.
        allowed: String,
    },

    /// A prompt token does not exist in the model's vocabulary.
    #[error(
        "prompt token {position} has id {id}, but the model's vocabulary has {vocab_size} entries; \
         tokenize the prompt with the tokenizer of this model"
    )]
    PromptToken {
        /// Index into the prompt.
        position: usize,
        /// The offending id.
        id: u32,
        /// Number of vocabulary entries.
        vocab_size: usize,
    },

    /// A row of logits has the wrong length.
    #[error("a row of logits has {got} entries, the sampler was made for a vocabulary of {expected}")]
    LogitsLength {
        /// The vocabulary size given to the sampler.
        expected: usize,
        /// The length of the row.
        got: usize,
    },

    /// A logit is NaN or +inf. (−inf is allowed: it marks a token as impossible.)
    #[error(
        "the logit of token {token} is {value}; the weights or an activation are not finite: \
         check the checkpoint for NaN, and try `f32` instead of a narrower compute type"
    )]
    NonFiniteLogits {
        /// The first such token.
        token: u32,
        /// NaN or +inf.
        value: f32,
    },

    /// Every logit is −inf.
    #[error("all {vocab_size} logits are -inf, so no token is possible; loosen the mask that forbids them")]
    NoPossibleToken {
        /// Number of vocabulary entries.
        vocab_size: usize,
    },

    /// There is nothing to answer.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,

    /// No token of an answer would fit.
    #[error(
        "the prompt has {prompt} tokens, but prompt and answer together may have {context} (the model's own limit, \
         max_position_embeddings, is {model}); shorten the prompt{}",
        if context < model { " or raise the context" } else { "" }
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// The limit in force.
        context: usize,
        /// The model's limit.
        model: usize,
    },

    /// A context was asked for that the model does not have.
    #[error("a context of {asked} tokens was asked for; allowed: 1 to {model} (max_position_embeddings)")]
    Context {
        /// Tokens asked for.
        asked: usize,
        /// The model's limit.
        model: usize,
    },

    /// A grammar cannot be followed.
    #[error("the grammar cannot be used: {message}")]
    Grammar {
        /// What is wrong with it.
        message: String,
    },

    /// As many requests wait as may.
    #[error("{waiting} requests wait already, as many as may; try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },

    /// The engine is about to stop.
    #[error("the engine is shutting down and takes no more requests")]
    Draining,

    /// The engine's thread has panicked.
    #[error("the engine has crashed; start the program again and report what it wrote to stderr")]
    Crashed,

    /// A limit of [`EngineOptions`](crate::EngineOptions) is no use.
    #[error("engine option `{field}` is {value}; allowed: {allowed}")]
    EngineOption {
        /// The field.
        field: &'static str,
        /// The value given.
        value: usize,
        /// What would do.
        allowed: String,
    },

    /// The operating system gave no thread, or no directory.
    #[error("{what}: {source}")]
    Io {
        /// What was wanted.
        what: String,
        /// What the operating system says.
        source: std::io::Error,
    },

    /// Stop strings were given, but ids cannot become text.
    #[error("stop strings need a tokenizer, and there is none; stop at token ids instead")]
    StopWithoutTokenizer,

    /// A GGUF file's words cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] fathom_checkpoint::Error),

    /// The model refused.
    #[error(transparent)]
    Model(#[from] fathom_model::Error),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
