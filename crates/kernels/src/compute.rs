//! What a kernel runs on.

use crate::pool::ThreadPool;
use crate::{Error, Isa, Result};

/// Threads at most.
pub const THREADS_MAX: usize = 1024;

/// An instruction set and the threads to run it on; made once per process and shared.
#[derive(Debug)]
pub struct Compute {
    /// Available on this machine: kernels rely on it.
    pub(crate) isa: Isa,
    pub(crate) pool: ThreadPool,
}

impl Compute {
    /// The machine's best (or `FATHOM_ISA`) with `threads` threads; 0 means one per available
    /// processor. Threads that fill all processors this process may use stay on one each.
    ///
    /// # Errors
    /// As [`Isa::from_env`]; or if there are more threads than [`THREADS_MAX`] or than the
    /// operating system gives.
    pub fn new(threads: usize) -> Result<Self> {
        Self::on(Isa::from_env()?, threads, ThreadPool::pinned)
    }

    /// A given instruction set, for tests and comparisons; threads run where the system puts them.
    ///
    /// # Panics
    /// If the machine does not have it, or not as many threads.
    pub fn with_isa(isa: Isa, threads: usize) -> Self {
        assert!(isa <= Isa::best(), "{isa} is not available on this machine");
        Self::on(isa, threads, ThreadPool::new).expect("a few threads")
    }

    fn on(isa: Isa, threads: usize, pool: fn(usize) -> std::io::Result<ThreadPool>) -> Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |count| count.get()).min(THREADS_MAX),
            some => some,
        };
        if threads > THREADS_MAX {
            return Err(Error::TooManyThreads { asked: threads, max: THREADS_MAX });
        }
        let pool = pool(threads).map_err(|source| Error::NoThread { asked: threads, source })?;
        Ok(Self { isa, pool })
    }

    /// The same without the tile unit: there, sums of few rows and of many have different roundings; elsewhere a
    /// row's products are the same alone and among others.
    pub fn without_tiles(mut self) -> Self {
        self.isa = self.isa.min(Isa::Avx512);
        self
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
