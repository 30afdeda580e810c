//! What can be wrong with a plan.

/// Why a benchmark cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Text that is no list of counts.
    #[error("{text:?} is no list of counts: {reason}; write numbers with commas between, such as 512,2048")]
    BadCounts {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A number that must be at least 1 is 0.
    #[error("{what} is 0; give at least 1")]
    Zero {
        /// What it is.
        what: &'static str,
    },
    /// Neither prefill nor decode is asked for.
    #[error("nothing to measure: give prompt lengths, or decode tokens with contexts and batch sizes")]
    NothingToMeasure,
    /// A case is longer than the model's context.
    #[error(
        "{what} needs {wanted} tokens, the model's context holds {context} (max_position_embeddings); ask for \
         a shorter one"
    )]
    ContextTooLong {
        /// Which case.
        what: String,
        /// Its tokens.
        wanted: usize,
        /// `max_position_embeddings`.
        context: usize,
    },
    /// The latent cache of the largest case does not fit.
    #[error(
        "the latent cache of {what} needs {wanted} bytes and {available} are free; ask for a smaller batch or a \
         shorter context"
    )]
    CacheTooLarge {
        /// Which case.
        what: String,
        /// Bytes of its cache.
        wanted: u128,
        /// Bytes of free memory.
        available: u64,
    },
    /// The forward pass refused its input.
    #[error(transparent)]
    Model(#[from] fathom_model::Error),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
