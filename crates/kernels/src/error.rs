//! What can be wrong with a machine or with how it was asked for.

use crate::Isa;

/// Why the kernels cannot start as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `FATHOM_ISA` or `FATHOM_REQUIRE_ISA` holds a word that is no ISA.
    #[error("{variable}={value}: unknown ISA; use one of scalar, avx2, avx512, amx")]
    UnknownIsa {
        /// The environment variable.
        variable: &'static str,
        /// What it holds.
        value: String,
    },
    /// The ISA asked for is not available on this machine.
    #[error(
        "{variable} asks for {wanted}, but this machine's best is {best}; unset it or run on another machine"
    )]
    MissingIsa {
        /// The environment variable.
        variable: &'static str,
        /// The ISA it names.
        wanted: Isa,
        /// The best that was detected.
        best: Isa,
    },
    /// More threads than any machine has processors.
    #[error(
        "{asked} threads were asked for, at most {max} are allowed; give --threads a smaller number, or 0 for one per processor"
    )]
    TooManyThreads {
        /// Threads asked for.
        asked: usize,
        /// Threads allowed.
        max: usize,
    },
    /// The operating system refused to start a thread.
    #[error("cannot start {asked} threads: {source}; give --threads a smaller number")]
    NoThread {
        /// Threads asked for.
        asked: usize,
        /// Its reason.
        source: std::io::Error,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
