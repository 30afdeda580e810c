//! Which processors a thread runs on.

#[cfg(target_os = "linux")]
mod linux {
    /// The processors that the calling thread may run on, in rising order.
    pub(in super::super) fn allowed() -> Vec<usize> {
        let mut set = empty();
        // SAFETY: 0 means the calling thread; the set is as large as it is said to be.
        let status = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
        // A machine with more processors than the set holds refuses, and nothing is pinned there.
        if status != 0 {
            return Vec::new();
        }
        // SAFETY: every number is below the set's size.
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
    }

    /// The processor that the calling thread is running on.
    pub(in super::super) fn current() -> Option<usize> {
        // SAFETY: takes nothing and touches nothing.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    /// Keeps the calling thread on one processor. A refusal leaves it where it was.
    pub(in super::super) fn pin(cpu: usize) {
        let mut set = empty();
        if cpu < libc::CPU_SETSIZE as usize {
            // SAFETY: the number is below the set's size.
            unsafe { libc::CPU_SET(cpu, &mut set) };
            // SAFETY: 0 means the calling thread; the set is as large as it is said to be.
            let _ = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
        }
    }

    fn empty() -> libc::cpu_set_t {
        // SAFETY: all zeroes is the empty set.
        unsafe { std::mem::zeroed() }
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    pub(in super::super) fn allowed() -> Vec<usize> {
        Vec::new()
    }

    pub(in super::super) fn current() -> Option<usize> {
        None
    }

    pub(in super::super) fn pin(_: usize) {}
}

pub(super) use linux::{allowed, current, pin};

/// The processors of a pool's workers, if `threads` threads fill all of `allowed`: the calling thread
/// keeps the one it is on. A pool that leaves processors free is not pinned: which ones are idle is
/// something the scheduler knows, and a second program that pins itself likewise would choose the same.
pub(super) fn of_workers(threads: usize, allowed: &[usize], current: Option<usize>) -> Vec<usize> {
    if threads < 2 || threads != allowed.len() {
        return Vec::new();
    }
    let own = current.filter(|cpu| allowed.contains(cpu)).unwrap_or(allowed[0]);
    allowed.iter().copied().filter(|&cpu| cpu != own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_what_the_caller_leaves() {
        assert_eq!(of_workers(3, &[0, 2, 5], Some(2)), [0, 5]);
        assert_eq!(of_workers(3, &[0, 2, 5], Some(7)), [2, 5]);
        assert_eq!(of_workers(2, &[0, 2, 5], Some(2)), [0; 0], "processors left free");
        assert_eq!(of_workers(4, &[0, 2, 5], Some(2)), [0; 0], "more threads than processors");
        assert_eq!(of_workers(1, &[3], Some(3)), [0; 0]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_stays() {
        let all = allowed();
        assert!(current().is_some_and(|cpu| all.contains(&cpu)));
        let last = all[all.len() - 1];
        let seen = std::thread::spawn(move || {
            pin(last);
            (allowed(), current())
        });
        assert_eq!(seen.join().expect("does not panic"), (vec![last], Some(last)));
        assert_eq!(allowed(), all, "other threads are free");
    }
}
