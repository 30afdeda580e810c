//! Buffers that are used again: what one step gives back, the next one takes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use fathom_kernels::Floats;

/// Elements by which small buffers are rounded up, so that shapes of almost equal size share buffers.
const GRAIN: usize = 1024;

/// Free buffers by capacity. Cloning gives another handle to the same arena.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arena(Rc<Shelves>);

#[derive(Debug, Default)]
struct Shelves {
    free: RefCell<BTreeMap<usize, Vec<Floats>>>,
    taken: Cell<usize>,
    peak: Cell<usize>,
    allocated: Cell<usize>,
}

impl Arena {
    /// A buffer of at least `len` elements; its contents are unspecified.
    pub(crate) fn take(&self, len: usize) -> Floats {
        let capacity = capacity(len);
        let shelves = &*self.0;
        shelves.taken.set(shelves.taken.get() + capacity);
        shelves.peak.set(shelves.peak.get().max(shelves.taken.get()));
        let found = shelves.free.borrow_mut().get_mut(&capacity).and_then(Vec::pop);
        found.unwrap_or_else(|| {
            shelves.allocated.set(shelves.allocated.get() + 1);
            Floats::zeroed(capacity)
        })
    }

    /// Takes a buffer back that was given out for `len` elements.
    pub(crate) fn give_back(&self, len: usize, floats: Floats) {
        let capacity = capacity(len);
        self.0.taken.set(self.0.taken.get() - capacity);
        self.0.free.borrow_mut().entry(capacity).or_default().push(floats);
    }

    /// Bytes given out at most at one time.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.0.peak.get() * size_of::<f32>()
    }

    /// Buffers made so far: stands still in a steady step.
    pub(crate) fn allocations(&self) -> usize {
        self.0.allocated.get()
    }

    /// Gives the free buffers back to the system.
    pub(crate) fn clear(&self) {
        self.0.free.borrow_mut().clear();
    }
}

/// Sizes in steps of an eighth, so that a buffer wastes at most that share and few sizes are in use.
fn capacity(len: usize) -> usize {
    let step = (len.max(1).next_power_of_two() / 16).max(GRAIN);
    len.max(1).next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_came_back_is_taken_again() {
        let arena = Arena::default();
        for _ in 0..3 {
            let (a, b) = (arena.take(5000), arena.take(5000));
            arena.give_back(5000, a);
            arena.give_back(5000, b);
        }
        assert_eq!(arena.allocations(), 2);
        assert_eq!(arena.peak_bytes(), 2 * capacity(5000) * 4);
    }

    #[test]
    fn capacities_hold_what_was_asked_and_waste_little() {
        for len in [0, 1, 1023, 1024, 1025, 5000, 1 << 20, (1 << 20) + 1, 3_000_000] {
            let capacity = capacity(len);
            assert!(capacity >= len && capacity <= len + (len / 8).max(GRAIN), "{len}: {capacity}");
        }
    }
}
