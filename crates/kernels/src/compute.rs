//! What a kernel runs on.

use crate::pool::ThreadPool;
use crate::{Isa, Result};

/// An instruction set and the threads to run it on; made once per process and shared.
#[derive(Debug)]
pub struct Compute {
    /// Available on this machine: kernels rely on it.
    pub(crate) isa: Isa,
    pub(crate) pool: ThreadPool,
}

impl Compute {
    /// The machine's best (or `FATHOM_ISA`) with `threads` threads; 0 means one per available
    /// processor.
    ///
    /// # Errors
    /// As [`Isa::from_env`].
    pub fn new(threads: usize) -> Result<Self> {
        Ok(Self::with_isa(Isa::from_env()?, threads))
    }

    /// A given instruction set, for tests and comparisons.
    ///
    /// # Panics
    /// If the machine does not have it.
    pub fn with_isa(isa: Isa, threads: usize) -> Self {
        assert!(isa <= Isa::best(), "{isa} is not available on this machine");
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |count| count.get()),
            some => some,
        };
        Self { isa, pool: ThreadPool::new(threads) }
    }

    /// The instruction set all kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that compute, the calling one included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}
