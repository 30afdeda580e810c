//! MHA mode: every head has its own keys and values, expanded from the latents (V2 eq. 10-19).
//!
//! Keys come in chunks, so that the expanded keys and values of a long context never stand in
//! memory at once: the caller expands a chunk (`[W^UK c ; W^UV c]`, an ordinary matrix product),
//! [`State::attend`] takes it in, and [`State::finish`] divides by the sums.
//!
//! A unit is 256 queries of one head against all keys of the chunk that they see. It copies blocks
//! of 64 keys and values side by side first: where they come from, rows of one head are as far
//! apart as all heads are wide, usually a power of two, and a cache would hold eight of them.

#[cfg(vector_kernels)]
mod halves;

use std::ops::Range;

use super::softmax::{self, LOG2_E, Running};
use super::{Ahead, KEYS, LANES, Mix, PIECE, STAGED, STRIDE, Scores, mix, pieces, scores};
use crate::Compute;
use crate::gemm::Rows;
use crate::math::{multiply_by, per_isa};
use crate::memory::{AlignedBuffer, Scratch};
use crate::shared::SharedSlice;

/// Queries of one unit.
const QUERIES: usize = 256;

/// Vectors of queries of one unit.
const VECTORS: usize = QUERIES / LANES;

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
    /// Products of f32 numbers even where those of bf16 are faster: for models whose weights are f32.
    pub exact: bool,
}

impl Shape {
    fn query(&self) -> usize {
        self.nope + self.rope
    }

    /// Columns of sums: the value's, in whole registers.
    fn cols(&self) -> usize {
        self.value.next_multiple_of(LANES)
    }
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

/// Memory for expanded keys and values, kept from call to call. Rows of one head are as far apart as
/// all heads are wide, so walking down them is easier on huge pages.
#[derive(Debug, Default)]
pub struct Expansion(AlignedBuffer<f32>);

impl Expansion {
    /// Room for `len` numbers, whose contents are unspecified.
    pub fn room(&mut self, len: usize) -> &mut [f32] {
        self.0.reserve(len);
        &mut self.0.as_mut_slice()[..len]
    }
}

/// What the queries of one sequence have seen so far.
#[derive(Debug, Default)]
pub struct State {
    queries: usize,
    /// `[heads, queries / 16]`, a head's rounded up to whole units.
    running: Vec<Running>,
    /// `[heads, queries, cols]`, unnormalised, rounded up likewise.
    sums: AlignedBuffer<f32>,
}

impl State {
    /// Forgets everything; ready for `queries` queries.
    pub fn reset(&mut self, shape: Shape, queries: usize) {
        self.queries = queries;
        let units = shape.heads * queries.div_ceil(QUERIES);
        self.running.clear();
        self.running.resize(units * VECTORS, Running::EMPTY);
        self.sums.reserve(units * QUERIES * shape.cols());
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
        assert!(q.cols == heads * shape.query() && self.queries == queries);
        assert_eq!(keys.expanded.len(), count * heads * (shape.nope + value));
        let (blocks, len) = (queries.div_ceil(QUERIES), QUERIES * shape.cols());
        let (running, sums) =
            (SharedSlice::new(&mut self.running), SharedSlice::new(self.sums.as_mut_slice()));
        compute.pool.run(heads * blocks, |unit, scratch| {
            // The last queries see most keys: they go first, so that threads end together.
            let (head, block) = (unit % heads, blocks - 1 - unit / heads);
            let index = head * blocks + block;
            // SAFETY: units cut (head, queries) without overlap.
            let (running, sums) =
                unsafe { (running.range_mut(index * VECTORS, VECTORS), sums.range_mut(index * len, len)) };
            let range = block * QUERIES..queries.min((block + 1) * QUERIES);
            let unit = Unit { compute, shape, head, range, first_position, count };
            unit.attend(q, keys, scratch, (running, sums));
        });
    }

    /// Writes the attended values `[queries, heads, value]`.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn finish(&self, compute: &Compute, shape: Shape, out: &mut [f32]) {
        let Shape { heads, value, .. } = shape;
        assert_eq!(out.len(), self.queries * heads * value);
        let (padded, cols) = (self.queries.next_multiple_of(QUERIES), shape.cols());
        let out = SharedSlice::new(out);
        compute.pool.run(self.queries, |query, _| {
            // SAFETY: every query is one unit.
            let out = unsafe { out.range_mut(query * heads * value, heads * value) };
            for (head, out) in out.chunks_exact_mut(value).enumerate() {
                let row = head * padded + query;
                out.copy_from_slice(&self.sums.as_slice()[row * cols..][..value]);
                multiply_by(compute.isa, out, 1.0 / self.running[row / LANES].sum[row % LANES]);
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
        scratch: &mut Scratch,
        (running, sums): (&mut [Running], &mut [f32]),
    ) {
        if running[0] == Running::EMPTY {
            sums.fill(0.0);
        }
        #[cfg(vector_kernels)]
        if super::halves::Unit::available(self.compute.isa) && !self.shape.exact && halves::fits(self.shape) {
            return self.attend_in_halves(q, keys, scratch, (running, sums));
        }
        self.attend_in_floats(q, keys, scratch, (running, sums));
    }

    /// `running [vectors]` and unnormalised `sums [vectors · 16, cols]` take in the chunk.
    fn attend_in_floats(
        &self,
        q: Rows<'_>,
        keys: Keys<'_>,
        scratch: &mut Scratch,
        (running, sums): (&mut [Running], &mut [f32]),
    ) {
        let (isa, shape) = (self.compute.isa, self.shape);
        let (dim, cols, all) = (shape.query(), shape.cols(), self.range.len().div_ceil(LANES));
        let lens = [QUERIES * dim, STAGED, VECTORS * KEYS * LANES, VECTORS * LANES];
        let [queries, staged, weights, keep] = scratch.floats(lens);
        self.pack(q, &mut queries[..all * LANES * dim]);
        for first in (0..self.seen(keys)).step_by(KEYS) {
            let count = KEYS.min(self.seen(keys) - first);
            let blind = self.blind(keys, first);
            let vectors = all - blind;
            let queries = &queries[blind * LANES * dim..all * LANES * dim];
            let (weights, keep) = (&mut weights[..vectors * KEYS * LANES], &mut keep[..vectors * LANES]);
            for piece in pieces(dim) {
                self.stage_keys(keys, first..first + count, piece.clone(), staged);
                let ahead = self.ahead(keys, first, piece.end);
                let job = Scores { queries, apart: dim * LANES, vectors, piece, keys: staged, count, ahead };
                scores(isa, &job, weights);
            }
            let states = running[blind..all].iter_mut().zip(keep.as_chunks_mut::<LANES>().0);
            for (vector, (running, keep)) in states.enumerate() {
                let (weights, _) = weights[vector * KEYS * LANES..].as_chunks_mut::<LANES>();
                let visible = self.visible(keys, first, count, blind + vector);
                softmax::absorb(isa, &mut weights[..count], &visible, running, keep);
            }
            for piece in pieces(cols) {
                self.stage_values(keys, first..first + count, piece.clone(), staged);
                let mixed = Mix { weights, vectors, values: staged, count, cols, piece, keep };
                mix(isa, &mixed, &mut sums[blind * LANES * cols..all * LANES * cols]);
            }
        }
    }

    /// Keys of the chunk that the last of these queries sees.
    fn seen(&self, keys: Keys<'_>) -> usize {
        (self.first_position + self.range.end).saturating_sub(keys.first).min(self.count)
    }

    /// Vectors of queries that stand before key `first` of the chunk, and see nothing from it on.
    fn blind(&self, keys: Keys<'_>, first: usize) -> usize {
        (keys.first + first).saturating_sub(self.first_position + self.range.start) / LANES
    }

    /// How many of the keys `first .. first + count` each query of a vector sees.
    fn visible(&self, keys: Keys<'_>, first: usize, count: usize, vector: usize) -> [usize; LANES] {
        let position = self.first_position + self.range.start + vector * LANES;
        std::array::from_fn(|lane| (position + lane + 1).saturating_sub(keys.first + first).min(count))
    }

    /// What queries are multiplied by.
    fn scale(&self) -> f32 {
        self.shape.scale * LOG2_E
    }

    /// This head's part of the queries to `[vectors, nope + rope, 16]`.
    fn pack(&self, q: Rows<'_>, out: &mut [f32]) {
        let dim = self.shape.query();
        for (vector, out) in out.chunks_exact_mut(dim * LANES).enumerate() {
            let first = self.range.start + vector * LANES;
            let rows = LANES.min(self.range.end - first);
            let values = &q.values[first * q.stride + self.head * dim..];
            transpose(self.compute.isa, values, q.stride, rows, self.scale(), out);
        }
    }

    /// Columns `piece` of this head's keys, the rotary ones behind its own, as `[KEYS, STRIDE]`.
    fn stage_keys(&self, keys: Keys<'_>, range: Range<usize>, piece: Range<usize>, staged: &mut [f32]) {
        let Shape { nope, rope, .. } = self.shape;
        let own = piece.start.min(nope)..piece.end.min(nope);
        let rotary = piece.start.max(nope) - nope..piece.end.max(nope) - nope;
        for (key, out) in range.zip(staged.chunks_exact_mut(STRIDE)) {
            let (head, tail) = out[..piece.len()].split_at_mut(own.len());
            head.copy_from_slice(&self.row(keys, key)[own.clone()]);
            tail.copy_from_slice(&keys.rope[key * rope..][rotary.clone()]);
        }
    }

    /// Columns `piece` of this head's values as `[KEYS, STRIDE]`.
    fn stage_values(&self, keys: Keys<'_>, range: Range<usize>, piece: Range<usize>, staged: &mut [f32]) {
        let Shape { nope, value, .. } = self.shape;
        let cols = nope + piece.start..nope + piece.end.min(value);
        for (key, out) in range.zip(staged.chunks_exact_mut(STRIDE)) {
            out[..cols.len()].copy_from_slice(&self.row(keys, key)[cols.clone()]);
        }
    }

    /// What is staged after the keys' columns up to `end`: more of them, or of the values.
    fn ahead(&self, keys: Keys<'_>, first: usize, end: usize) -> Ahead {
        let Shape { heads, nope, rope, value, .. } = self.shape;
        let row = self.row(keys, first);
        let rest = &row[if end < nope + rope { end.min(nope) } else { nope }..];
        Ahead::new(Some(bytemuck::cast_slice(rest)), 4 * heads * (nope + value), 4 * PIECE)
    }

    /// This head's expanded key and value.
    fn row<'a>(&self, keys: Keys<'a>, key: usize) -> &'a [f32] {
        let len = self.shape.nope + self.shape.value;
        &keys.expanded[(key * self.shape.heads + self.head) * len..][..len]
    }
}

per_isa! {
    /// `rows` rows, `stride` apart, times `scale` to `out [dim, 16]`; lanes without a row are 0.
    fn transpose(values: &[f32], stride: usize, rows: usize, scale: f32, out: &mut [f32]) {
        let (out, _) = out.as_chunks_mut::<LANES>();
        if rows < LANES {
            out.fill([0.0; LANES]);
        }
        for lane in 0..rows.min(LANES) {
            let row = &values[lane * stride..][..out.len()];
            out.iter_mut().zip(row).for_each(|(out, value)| out[lane] = value * scale);
        }
    }
}
