//! Independent pieces of work on a few threads that live as long as the work.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// `work` of each index below `count`, in the order of the indices; the first error found ends all of it.
///
/// The calling thread is one of `threads`. Where the system refuses threads, fewer do the same.
pub(crate) fn map<T: Send, E: Send>(
    count: usize,
    threads: NonZero<usize>,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            match work(index) {
                Ok(value) => done.push((index, value)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(done)
    };
    let mut all = Vec::with_capacity(count);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.get().min(count))
            .map_while(|_| thread::Builder::new().name("packed".to_owned()).spawn_scoped(scope, run).ok())
            .collect();
        let mut result = run().map(|done| all.extend(done));
        for other in others {
            let theirs = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(theirs.map(|done| all.extend(done)));
        }
        result
    })?;
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, value)| value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_once_and_in_order() {
        for threads in [1, 2, 7] {
            for count in [0, 1, 3, 100] {
                let got = map(count, NonZero::new(threads).unwrap(), |index| Ok::<_, ()>(index * 2));
                assert_eq!(got.unwrap(), (0..count).map(|index| index * 2).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_error_ends_the_work() {
        let seen = AtomicUsize::new(0);
        let got = map(1_000_000, NonZero::new(2).unwrap(), |index| {
            seen.fetch_add(1, Ordering::Relaxed);
            if index == 5 { Err(index) } else { Ok(()) }
        });
        assert_eq!(got.unwrap_err(), 5);
        assert!(seen.into_inner() < 1_000_000);
    }
}
