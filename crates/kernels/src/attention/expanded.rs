//! MHA mode: every head has its own keys and values, expanded from the latents (V2 eq. 10-19).
//!
//! Keys come in chunks, so that the expanded keys and values of a long context never stand in
//! memory at once: the caller expands a chunk (`[W^UK c ; W^UV c]`, an ordinary matrix product),
//! [`State::attend`] takes it in, and [`State::finish`] divides by the sums.

use std::ops::Range;

use super::{Matrix, Running, mix, scores};
use crate::Compute;
use crate::gemm::Rows;
use crate::shared::SharedSlice;

/// Queries of one unit.
const QUERIES: usize = 32;

/// Keys whose scores are held at a time.
const KEYS: usize = 64;

/// Shapes of the heads.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// `num_attention_heads`.
    pub heads: usize,
    /// `qk_nope_head_dim`.
    pub nope: usize,
    /// `qk_rope_head_dim`.
    pub rope: usize,
    /// `v_head_dim`.
    pub value: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// Some consecutive tokens of one sequence as keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Position of the first in the sequence.
    pub first: usize,
    /// Expanded, `[keys, heads, nope + value]`: a head's key, then its value.
    pub expanded: &'a [f32],
    /// Rotary keys shared by all heads, `[keys, rope]`.
    pub rope: &'a [f32],
}

/// What the queries of one sequence have seen so far.
#[derive(Debug, Default)]
pub struct State {
    /// `[heads, queries]`.
    running: Vec<Running>,
    /// `[heads, queries, value]`, unnormalised.
    sums: Vec<f32>,
}

impl State {
    /// Forgets everything; ready for `queries` queries.
    pub fn reset(&mut self, shape: Shape, queries: usize) {
        self.running.clear();
        self.running.resize(shape.heads * queries, Running::EMPTY);
        self.sums.clear();
        self.sums.resize(shape.heads * queries * shape.value, 0.0);
    }

    /// Takes in a chunk of keys. `q` has rows `[heads, nope + rope]`, one per query; query `i` is
    /// at position `first_position + i` and sees the keys up to its own position.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn attend(
        &mut self,
        compute: &Compute,
        shape: Shape,
        q: Rows<'_>,
        first_position: usize,
        keys: Keys<'_>,
    ) {
        let Shape { heads, value, .. } = shape;
        let (queries, count) = (q.rows(), keys.rope.len().checked_div(shape.rope).unwrap_or(0));
        assert!(q.cols == heads * (shape.nope + shape.rope) && self.running.len() == heads * queries);
        assert_eq!(keys.expanded.len(), count * heads * (shape.nope + value));
        let blocks = queries.div_ceil(QUERIES);
        let (running, sums) = (SharedSlice::new(&mut self.running), SharedSlice::new(&mut self.sums));
        compute.pool.run(heads * blocks, |unit, scratch| {
            // The last queries see most keys: they go first, so that threads end together.
            let (head, block) = (unit % heads, blocks - 1 - unit / heads);
            let range = block * QUERIES..queries.min((block + 1) * QUERIES);
            let first = head * queries + range.start;
            // SAFETY: units cut (head, queries) without overlap.
            let (running, sums) = unsafe {
                (running.range_mut(first, range.len()), sums.range_mut(first * value, range.len() * value))
            };
            let [weights] = scratch.floats([QUERIES * KEYS]);
            let unit = Unit { compute, shape, head, range, first_position, count };
            unit.attend(q, keys, weights, running, sums);
        });
    }

    /// Writes the attended values `[queries, heads, value]`.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn finish(&self, compute: &Compute, shape: Shape, out: &mut [f32]) {
        assert_eq!(out.len(), self.sums.len());
        let Shape { heads, value, .. } = shape;
        let queries = self.running.len() / heads;
        let out = SharedSlice::new(out);
        compute.pool.run(queries, |query, _| {
            // SAFETY: every query is one unit.
            let out = unsafe { out.range_mut(query * heads * value, heads * value) };
            for (head, out) in out.chunks_exact_mut(value).enumerate() {
                let row = head * queries + query;
                let sums = &self.sums[row * value..][..value];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum / self.running[row].sum);
            }
        });
    }
}

/// Some queries of one head.
struct Unit<'a> {
    compute: &'a Compute,
    shape: Shape,
    head: usize,
    range: Range<usize>,
    first_position: usize,
    /// Keys in the chunk.
    count: usize,
}

impl Unit<'_> {
    fn attend(
        &self,
        q: Rows<'_>,
        keys: Keys<'_>,
        weights: &mut [f32],
        running: &mut [Running],
        sums: &mut [f32],
    ) {
        let (isa, Shape { heads, nope, rope, value, scale }) = (self.compute.isa, self.shape);
        let (q_stride, key_stride) = (q.stride, heads * (nope + value));
        let q = &q.values[self.range.start * q_stride + self.head * (nope + rope)..];
        // Keys that the last of these queries sees.
        let seen = (self.first_position + self.range.end).saturating_sub(keys.first).min(self.count);
        for first in (0..seen).step_by(KEYS) {
            let len = KEYS.min(seen - first);
            let weights = &mut weights[..self.range.len() * len];
            let expanded = &keys.expanded[first * key_stride + self.head * (nope + value)..];
            let rows = self.range.len();
            let (q_nope, q_rope) = (Matrix::new(q, rows, q_stride), Matrix::new(&q[nope..], rows, q_stride));
            scores(isa, q_nope, Matrix::new(expanded, len, key_stride), nope, weights, false);
            scores(isa, q_rope, Matrix::new(&keys.rope[first * rope..], len, rope), rope, weights, true);
            let queries = weights.chunks_exact_mut(len).zip(sums.chunks_exact_mut(value));
            for (index, (weights, sums)) in queries.enumerate() {
                let position = self.first_position + self.range.start + index;
                let visible = (position + 1).saturating_sub(keys.first + first).min(len);
                weights[visible..].fill(f32::NEG_INFINITY);
                if visible > 0 {
                    running[index].absorb(isa, weights, scale, sums);
                } else {
                    weights.fill(0.0);
                }
            }
            let values = Matrix::new(&expanded[nope..], len, key_stride);
            mix(isa, Matrix::new(weights, rows, len), values, value, sums);
        }
    }
}
