//! Rotary position embedding on adjacent pairs, the layout the weights are stored for.
//!
//! Pair `i` of a row at position `p` is turned by the angle `p · frequency_i`; its result is
//! written back in pair order, as DeepSeek's own code does. (transformers writes all even
//! outputs before all odd ones; queries and keys get the same permutation, so scores agree.)

use crate::gemm::Output;

/// Cosines and sines of every position up to a limit.
#[derive(Debug)]
pub struct RopeTable {
    half: usize,
    /// `[positions, half]` pairs of (cos, sin).
    turns: Vec<(f32, f32)>,
}

impl RopeTable {
    /// A table for positions `0..positions`; pair `i` turns by `frequencies[i]` radians per
    /// position, and results are multiplied by `scale`.
    pub fn new(frequencies: &[f64], scale: f64, positions: usize) -> Self {
        let turns = (0..positions)
            .flat_map(|position| {
                frequencies.iter().map(move |frequency| {
                    // The angle is rounded to f32 before cos and sin, as the references do.
                    let angle = (position as f32) * (*frequency as f32);
                    ((f64::from(angle).cos() * scale) as f32, (f64::from(angle).sin() * scale) as f32)
                })
            })
            .collect();
        Self { half: frequencies.len(), turns }
    }

    /// Positions the table covers.
    pub fn positions(&self) -> usize {
        self.turns.len().checked_div(self.half).unwrap_or(usize::MAX)
    }

    /// Rotates `heads` slices of each row, in place: slice `h` of row `r` is
    /// `rows[r · stride + first + h · head_stride ..][.. 2 · half]`, at `positions[r]`.
    ///
    /// # Panics
    /// If a slice leaves `rows` or a position the table.
    pub fn rotate(&self, rows: Output<'_>, heads: Heads, positions: &[usize]) {
        for (row, &position) in positions.iter().enumerate() {
            let turns = &self.turns[position * self.half..][..self.half];
            for head in 0..heads.count {
                let first = row * rows.stride + heads.first + head * heads.stride;
                let (pairs, _) = rows.values[first..first + 2 * self.half].as_chunks_mut::<2>();
                for ([even, odd], (cos, sin)) in pairs.iter_mut().zip(turns) {
                    (*even, *odd) = (*even * cos - *odd * sin, *even * sin + *odd * cos);
                }
            }
        }
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
        let table = RopeTable::new(&[1.0, 0.25], 1.0, 10);
        assert_eq!(table.positions(), 10);
        let mut rows = vec![9.0, 1.0, 0.0, 0.0, 1.0, 9.0, 1.0, 0.0, 0.0, 1.0];
        let heads = Heads { count: 2, first: 1, stride: 5 };
        table.rotate(Output { values: &mut rows, stride: 10 }, heads, &[3]);
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
        let table = RopeTable::new(&[0.7, 0.01], 1.0, 200);
        let score = |p: usize, q: usize| {
            let (mut a, mut b) = ([0.3f32, -1.0, 2.0, 0.5], [1.0f32, 0.2, -0.7, 0.9]);
            let heads = Heads { count: 1, first: 0, stride: 4 };
            table.rotate(Output { values: &mut a, stride: 4 }, heads, &[p]);
            table.rotate(Output { values: &mut b, stride: 4 }, heads, &[q]);
            a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>()
        };
        assert!((score(5, 3) - score(150, 148)).abs() < 1e-5);
    }
}
