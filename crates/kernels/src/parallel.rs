//! Parallel loops for callers without `unsafe`: slices cut into pieces, each written by one thread.

use crate::Compute;
use crate::shared::SharedSlice;

/// Elements that a piece of a plain elementwise loop should have: enough to be worth a turn of the pool's counter,
/// few enough that pieces of several operands stay in the first-level cache.
pub const PIECE: usize = 4096;

/// Turns that a thread has at least before pieces are taken together.
const TURNS: usize = 16;

impl Compute {
    /// Calls `work(unit)` once for every unit in `0..units`, on all threads.
    ///
    /// # Panics
    /// If a unit panicked, or `work` starts another parallel loop.
    pub fn for_each(&self, units: usize, work: impl Fn(usize) + Sync) {
        self.pool.run(units, |unit, _| work(unit));
    }

    /// Calls `work(i, piece)` for the pieces of `len` elements that `values` is cut into (the last may be shorter).
    ///
    /// # Panics
    /// If `len` is 0, or as [`Compute::for_each`].
    pub fn for_pieces<T: Send>(&self, values: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        let cut = Cut::new(values, len);
        // Several small pieces take one turn of the counter, as long as every thread has many turns.
        let together = (cut.pieces / (self.threads() * TURNS)).clamp(1, PIECE.div_ceil(len));
        self.pool.run(cut.pieces.div_ceil(together), |unit, _| {
            for piece in unit * together..cut.pieces.min((unit + 1) * together) {
                work(piece, cut.piece(piece));
            }
        });
    }

    /// The same with two slices that are cut into equally many pieces, each by its own length.
    ///
    /// # Panics
    /// If the numbers of pieces differ, or as [`Compute::for_pieces`].
    pub fn for_pieces2<A: Send, B: Send>(
        &self,
        (a, a_len): (&mut [A], usize),
        (b, b_len): (&mut [B], usize),
        work: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let (a, b) = (Cut::new(a, a_len), Cut::new(b, b_len));
        assert_eq!(a.pieces, b.pieces, "both slices have the same number of pieces");
        self.pool.run(a.pieces, |unit, _| work(unit, a.piece(unit), b.piece(unit)));
    }
}

/// A slice cut into pieces that the units of one region take, each its own.
struct Cut<'a, T> {
    values: SharedSlice<'a, T>,
    total: usize,
    len: usize,
    pieces: usize,
}

impl<'a, T> Cut<'a, T> {
    fn new(values: &'a mut [T], len: usize) -> Self {
        assert!(len > 0, "a piece has elements");
        let total = values.len();
        Self { values: SharedSlice::new(values), total, len, pieces: total.div_ceil(len) }
    }

    /// Called once per piece of a region: the pool hands out every unit once.
    fn piece(&self, unit: usize) -> &'a mut [T] {
        let start = unit * self.len;
        // SAFETY: pieces of different units do not overlap, and the pool hands out every unit once.
        unsafe { self.values.range_mut(start, self.len.min(self.total - start)) }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Compute, Isa};

    #[test]
    fn every_piece_is_written_once() {
        for threads in [1, 3] {
            let compute = Compute::with_isa(Isa::Scalar, threads);
            for (total, len) in [(0, 4), (1, 4), (8, 4), (9, 4), (1000, 7)] {
                let mut values = vec![0usize; total];
                compute.for_pieces(&mut values, len, |piece, values| {
                    values.iter_mut().enumerate().for_each(|(i, value)| *value += piece * len + i + 1);
                });
                assert!(values.iter().enumerate().all(|(i, &value)| value == i + 1));
            }
        }
    }

    #[test]
    fn two_slices_are_cut_side_by_side() {
        let compute = Compute::with_isa(Isa::Scalar, 2);
        let (mut rows, mut sums) = (vec![1.0f32; 30], vec![0.0f32; 10]);
        compute.for_pieces2((&mut rows, 3), (&mut sums, 1), |row, values, sum| {
            values.iter_mut().for_each(|value| *value *= row as f32);
            sum[0] = values.iter().sum();
        });
        assert!(sums.iter().enumerate().all(|(row, &sum)| sum == 3.0 * row as f32));
    }
}
