//! Rotary position embedding on adjacent pairs, the layout the weights are stored for.
//!
//! Pair `i` of a row at position `p` is turned by the angle `p · frequency_i`; its result is
//! written back in pair order, as DeepSeek's own code does. (transformers writes all even
//! outputs before all odd ones; queries and keys get the same permutation, so scores agree.)

use crate::Compute;
use crate::gemm::Output;
use crate::shared::SharedSlice;

/// Rows handed to one unit.
const UNIT_ROWS: usize = 16;

/// The angles of a model: radians per position of every pair.
#[derive(Clone, Debug)]
pub struct Rope {
    frequencies: Vec<f32>,
    scale: f64,
}

impl Rope {
    /// Pair `i` turns by `frequencies[i]` radians per position; results are multiplied by `scale`.
    pub fn new(frequencies: &[f64], scale: f64) -> Self {
        Self { frequencies: frequencies.iter().map(|&frequency| frequency as f32).collect(), scale }
    }

    /// Cosines and sines for some rows at `positions`: computed once per step, used by all layers.
    pub fn turns(&self, positions: &[usize]) -> Turns {
        let turn = |position: usize, frequency: f32| {
            // The angle is rounded to f32 before cos and sin, as the references do.
            let angle = f64::from(position as f32 * frequency);
            ((angle.cos() * self.scale) as f32, (angle.sin() * self.scale) as f32)
        };
        let rows = positions.iter();
        let turns =
            rows.flat_map(|&position| self.frequencies.iter().map(move |&f| turn(position, f))).collect();
        Turns { half: self.frequencies.len(), turns }
    }
}

/// The rotation of every row of a step.
#[derive(Clone, Debug)]
pub struct Turns {
    half: usize,
    /// `[rows, half]` pairs of (cos, sin).
    turns: Vec<(f32, f32)>,
}

impl Turns {
    /// Rotates `heads` slices of each row, in place: slice `h` of row `r` is
    /// `rows[r · stride + first + h · head_stride ..][.. 2 · half]`.
    ///
    /// # Panics
    /// If a slice leaves `rows`.
    pub fn rotate(&self, compute: &Compute, rows: Output<'_>, heads: Heads) {
        let Output { values, stride } = rows;
        let count = self.turns.len() / self.half;
        let len = values.len();
        let values = SharedSlice::new(values);
        compute.pool.run(count.div_ceil(UNIT_ROWS), |unit, _| {
            for row in unit * UNIT_ROWS..count.min((unit + 1) * UNIT_ROWS) {
                // SAFETY: every row belongs to one unit.
                let values = unsafe { values.range_mut(row * stride, stride.min(len - row * stride)) };
                let turns = &self.turns[row * self.half..][..self.half];
                for head in 0..heads.count {
                    let first = heads.first + head * heads.stride;
                    let (pairs, _) = values[first..first + 2 * self.half].as_chunks_mut::<2>();
                    for ([even, odd], (cos, sin)) in pairs.iter_mut().zip(turns) {
                        (*even, *odd) = (*even * cos - *odd * sin, *even * sin + *odd * cos);
                    }
                }
            }
        });
    }
}

/// Where the rotary slices of a row are.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Slices per row.
    pub count: usize,
    /// Column of the first.
    pub first: usize,
    /// Columns from one to the next.
    pub stride: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        let compute = Compute::with_isa(crate::Isa::best(), 2);
        let rope = Rope::new(&[1.0, 0.25], 1.0);
        let mut rows = vec![9.0, 1.0, 0.0, 0.0, 1.0, 9.0, 1.0, 0.0, 0.0, 1.0];
        let heads = Heads { count: 2, first: 1, stride: 5 };
        rope.turns(&[3]).rotate(&compute, Output { values: &mut rows, stride: 10 }, heads);
        let expected = [3f32.cos(), 3f32.sin(), -(0.75f32.sin()), 0.75f32.cos()];
        for head in 0..2 {
            assert_eq!(rows[head * 5], 9.0, "columns outside the slices stay");
            for (a, e) in rows[head * 5 + 1..][..4].iter().zip(expected) {
                assert!((a - e).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn scores_depend_on_distance_only() {
        let compute = Compute::with_isa(crate::Isa::best(), 2);
        let rope = Rope::new(&[0.7, 0.01], 1.0);
        let score = |p: usize, q: usize| {
            let (mut a, mut b) = ([0.3f32, -1.0, 2.0, 0.5], [1.0f32, 0.2, -0.7, 0.9]);
            let heads = Heads { count: 1, first: 0, stride: 4 };
            rope.turns(&[p]).rotate(&compute, Output { values: &mut a, stride: 4 }, heads);
            rope.turns(&[q]).rotate(&compute, Output { values: &mut b, stride: 4 }, heads);
            a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>()
        };
        assert!((score(5, 3) - score(150, 148)).abs() < 1e-5);
    }
}
