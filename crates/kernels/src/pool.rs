//! Threads that live as long as the process and meet in parallel regions.
//!
//! A decode step has a dozen regions per layer of some tens of microseconds each, so a worker
//! spins for a while before it sleeps, and a region costs a few atomics per thread. Each thread takes
//! the units of a range of its own, one after the other, and then what is left of the others': what
//! consecutive units read lies one behind the other, and a core fetches ahead of itself across the end
//! of a unit. Since a unit owns its outputs and computes them alone, the result is the same for any
//! number of threads.
//!
//! A pool that fills the machine (or the process's share of it) keeps each worker on a processor of
//! its own. The calling thread is never pinned: threads that it starts would inherit that.

mod affinity;

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

use crate::memory::Scratch;

/// Turns of the spin loop before a waiting worker parks (about a millisecond where `pause` takes 140 cycles).
const SPINS: usize = 20_000;

/// Ranges of units at most: a thread looks through all of them before it leaves a region.
const RANGES: usize = 8;

/// A thread that takes several units at a time takes this part of what is left of a range: many while there are many,
/// and single ones at the end, when threads must end together.
const PARTS_OF_THE_REST: usize = 8;

type Work<'a> = dyn Fn(Range<usize>, &mut Scratch) + Sync + 'a;

/// A fixed set of threads (the caller is one of them) for parallel regions.
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    /// Held during a region: regions of one pool never overlap. Holds the caller's scratch.
    caller: Mutex<Scratch>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts regions; a worker waits for it to change.
    region: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// The next unit of each range; more threads than ranges share them.
    next_units: Vec<Counter>,
    /// Workers that have not left the current region yet.
    inside: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

/// In cache lines of its own: one core counts in it nearly all the time.
#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicUsize);

#[derive(Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    units: usize,
    /// Units are taken in parts of a range by this number, and one by one where less is left.
    parts: usize,
}

// SAFETY: `job` is written only by the thread that holds `caller`, while no worker is inside a
// region, and read by workers after they saw `region` change (release/acquire).
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed inside a region, during which it is alive.
unsafe impl Send for Shared {}

impl ThreadPool {
    /// A pool of `threads` threads, the calling one included.
    ///
    /// # Errors
    /// If the operating system refuses a thread; those that were started end again.
    ///
    /// # Panics
    /// If `threads` is 0.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        Self::on(threads, &[])
    }

    /// The same, workers pinned if the threads fill all processors that this process may use.
    ///
    /// # Errors
    /// As [`ThreadPool::new`].
    pub(crate) fn pinned(threads: usize) -> std::io::Result<Self> {
        Self::on(threads, &affinity::of_workers(threads, &affinity::allowed(), affinity::current()))
    }

    /// Workers on the given processors, if any are given.
    fn on(threads: usize, processors: &[usize]) -> std::io::Result<Self> {
        assert!(threads > 0, "a pool needs at least the calling thread");
        let shared = Arc::new(Shared {
            region: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            next_units: (0..threads.min(RANGES)).map(|_| Counter::default()).collect(),
            inside: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut pool = Self { shared, caller: Mutex::default(), workers: Vec::with_capacity(threads - 1) };
        for index in 0..threads - 1 {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("fathom-{}", index + 1));
            let processor = processors.get(index).copied();
            let work = move || {
                processor.into_iter().for_each(affinity::pin);
                shared.worker(index);
            };
            pool.workers.push(builder.spawn(work)?);
        }
        Ok(pool)
    }

    /// Threads that take part in a region.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work(unit, scratch)` once for every unit in `0..units`, on all threads, and returns
    /// when all are done. `work` must not start another region of the same pool.
    ///
    /// # Panics
    /// If a unit panicked.
    pub(crate) fn run(&self, units: usize, work: impl Fn(usize, &mut Scratch) + Sync) {
        self.region(units, units, &|span: Range<usize>, scratch: &mut Scratch| {
            span.for_each(|unit| work(unit, scratch));
        });
    }

    /// As [`run`](Self::run), for small units: `work` gets several at a time, one after the other.
    pub(crate) fn run_spans(&self, units: usize, work: impl Fn(Range<usize>, &mut Scratch) + Sync) {
        self.region(units, PARTS_OF_THE_REST, &work);
    }

    fn region(&self, units: usize, parts: usize, work: &Work<'_>) {
        let mut scratch = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        if units <= 1 || self.workers.is_empty() {
            if units > 0 {
                work(0..units, &mut scratch);
            }
            return;
        }
        // SAFETY: only the lifetime is widened; workers drop the pointer before `inside` reaches
        // 0, and this function does not return (or unwind) before that.
        let work: *const Work<'static> = unsafe { std::mem::transmute(work) };
        let shared = &*self.shared;
        // SAFETY: no worker is inside a region (the last `run` waited), and `caller` is held.
        unsafe { *shared.job.get() = Some(Job { work, units, parts }) };
        for (range, Counter(next)) in shared.next_units.iter().enumerate() {
            next.store(shared.first_unit(range, units), Ordering::Relaxed);
        }
        shared.inside.store(self.workers.len(), Ordering::Relaxed);
        shared.region.fetch_add(1, Ordering::SeqCst);
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| shared.take_units(0, &mut scratch)));
        shared.wait_until_empty();
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
        assert!(!panicked, "a unit of a parallel region panicked");
    }
}

impl Shared {
    fn worker(&self, index: usize) {
        let mut scratch = Scratch::default();
        let mut seen = 0;
        loop {
            seen = self.wait_for_region(index, seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| self.take_units(index + 1, &mut scratch))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.inside.fetch_sub(1, Ordering::Release);
        }
    }

    fn wait_for_region(&self, index: usize, seen: usize) -> usize {
        for _ in 0..SPINS {
            let region = self.region.load(Ordering::Acquire);
            if region != seen {
                return region;
            }
            std::hint::spin_loop();
        }
        // Announce first, look again, then sleep: a region that starts in between sees the flag.
        self.parked[index].store(true, Ordering::SeqCst);
        loop {
            let region = self.region.load(Ordering::SeqCst);
            if region != seen {
                self.parked[index].store(false, Ordering::Relaxed);
                return region;
            }
            std::thread::park();
        }
    }

    /// Where a range begins, or the one before it ends.
    fn first_unit(&self, range: usize, units: usize) -> usize {
        // Not a product with `units`, which may be near the largest number.
        let (each, rest) = (units / self.next_units.len(), units % self.next_units.len());
        range * each + range.min(rest)
    }

    fn take_units(&self, thread: usize, scratch: &mut Scratch) {
        // SAFETY: written before `region` changed; not written again while anybody is inside.
        let Some(job) = (unsafe { *self.job.get() }) else { return };
        let ranges = self.next_units.len();
        for range in (thread..thread + ranges).map(|range| range % ranges) {
            let (Counter(next), end) = (&self.next_units[range], self.first_unit(range + 1, job.units));
            loop {
                let left = end.saturating_sub(next.load(Ordering::Relaxed));
                if left == 0 {
                    break;
                }
                let count = (left / job.parts).max(1);
                let first = next.fetch_add(count, Ordering::Relaxed);
                if first >= end {
                    break;
                }
                // SAFETY: `region` keeps the closure alive until every thread has left it.
                unsafe { (*job.work)(first..end.min(first.saturating_add(count)), scratch) };
            }
        }
    }

    fn wait_until_empty(&self) {
        let mut turns = 0usize;
        while self.inside.load(Ordering::Acquire) != 0 {
            turns += 1;
            if turns.is_multiple_of(SPINS) {
                // More runnable threads than processors: let the straggler have this one.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.region.fetch_add(1, Ordering::SeqCst);
        self.workers.iter().map(JoinHandle::thread).for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // A worker catches its panics, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThreadPool({} threads)", self.threads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_unit_runs_once_in_every_region() {
        for threads in [1, 2, 5, 11] {
            let pool = ThreadPool::pinned(threads).expect("a few threads");
            for units in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicU32> = (0..units).map(|_| AtomicU32::new(0)).collect();
                for _ in 0..50 {
                    pool.run(units, |unit, _| {
                        counts[unit].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn spans_hold_every_unit_once_and_a_part_of_a_range_at_most() {
        for threads in [1, 2, 5, 11] {
            let pool = ThreadPool::new(threads).expect("a few threads");
            for units in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicU32> = (0..units).map(|_| AtomicU32::new(0)).collect();
                let largest = AtomicUsize::new(0);
                pool.run_spans(units, |span, _| {
                    assert!(!span.is_empty());
                    largest.fetch_max(span.len(), Ordering::Relaxed);
                    span.for_each(|unit| _ = counts[unit].fetch_add(1, Ordering::Relaxed));
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                let range = units.div_ceil(threads.min(RANGES));
                let most = if threads == 1 { units } else { (range / PARTS_OF_THE_REST).max(1) };
                assert!(largest.into_inner() <= most, "{units} units for {threads} threads");
            }
        }
    }

    #[test]
    fn a_parked_worker_wakes_up() {
        let pool = ThreadPool::new(2).expect("a few threads");
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let seen = AtomicU32::new(0);
            pool.run(64, |_, _| {
                seen.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(seen.into_inner(), 64);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(3).expect("a few threads");
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(100, |unit, _| assert_ne!(unit, 57))));
        assert!(result.is_err());
        let seen = AtomicU32::new(0);
        pool.run(10, |_, _| {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(seen.into_inner(), 10);
    }
}
