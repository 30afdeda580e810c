//! A unit where products of bf16 are fast: keys and values are rounded to bf16 while they are staged.

use std::ops::Range;

use fathom_numeric::round;

use super::{Keys, LANES, Shape, Unit, VECTORS};
use crate::attention::softmax::{self, Running};
use crate::attention::{KEYS, halves};
use crate::gemm::Rows;
use crate::math::{multiply_by, per_isa};
use crate::memory::Scratch;

/// Whether whole steps cover these heads.
pub(super) fn fits(shape: Shape) -> bool {
    let dim = shape.query();
    dim > 0 && dim.is_multiple_of(halves::STEP) && shape.value > 0 && shape.value.is_multiple_of(halves::COLS)
}

/// Numbers from one staged row to the next: an odd count of cache lines.
fn stride(cols: usize) -> usize {
    cols + if (cols / 32).is_multiple_of(2) { 32 } else { 0 }
}

impl Unit<'_> {
    /// As [`Unit::attend_in_floats`].
    pub(super) fn attend_in_halves(
        &self,
        q: Rows<'_>,
        keys: Keys<'_>,
        scratch: &mut Scratch,
        (running, sums): (&mut [Running], &mut [f32]),
    ) {
        let (isa, shape) = (self.compute.isa, self.shape);
        let (dim, cols, all) = (shape.query(), shape.value, self.range.len().div_ceil(LANES));
        let (key_stride, value_stride) = (stride(dim), stride(cols));
        let [packed, near_keys, near_values, pairs, weights, rounded] = scratch.floats([
            VECTORS * LANES * dim / 2,
            KEYS * key_stride / 2,
            KEYS * value_stride / 2,
            KEYS / 2 * halves::pair_stride(cols),
            VECTORS * KEYS * LANES,
            VECTORS * halves::WEIGHTS,
        ]);
        let [packed, near_keys, near_values] =
            [packed, near_keys, near_values].map(bytemuck::cast_slice_mut::<f32, u16>);
        let [pairs, rounded] = [pairs, rounded].map(bytemuck::cast_slice_mut::<f32, u32>);
        self.pack_pairs(q, &mut packed[..all * LANES * dim]);
        let unit = halves::Unit::of(isa);
        for first in (0..self.seen(keys)).step_by(KEYS) {
            let count = KEYS.min(self.seen(keys) - first);
            let blind = self.blind(keys, first);
            self.stage_rounded(
                keys,
                first..first + count,
                (near_keys, key_stride),
                (near_values, value_stride),
            );
            let weights = &mut weights[..(all - blind) * KEYS * LANES];
            let rounded = &mut rounded[..(all - blind) * halves::WEIGHTS];
            let packed = &packed[blind * LANES * dim..all * LANES * dim];
            unit.scores((near_keys, key_stride), count, dim, packed, &[], weights);
            unit.interleave((near_values, value_stride), count, cols, &[], pairs);
            let sums = &mut sums[blind * LANES * cols..all * LANES * cols];
            for (vector, running) in running[blind..all].iter_mut().enumerate() {
                let (weights, _) = weights[vector * KEYS * LANES..].as_chunks_mut::<LANES>();
                let (visible, mut keep) = (self.visible(keys, first, count, blind + vector), [0.0; LANES]);
                softmax::absorb(isa, &mut weights[..count], &visible, running, &mut keep);
                halves::weights(
                    &weights[..count],
                    &mut rounded[vector * halves::WEIGHTS..][..halves::WEIGHTS],
                );
                for (lane, keep) in keep.into_iter().enumerate().filter(|(_, keep)| *keep != 1.0) {
                    multiply_by(isa, &mut sums[(vector * LANES + lane) * cols..][..cols], keep);
                }
            }
            unit.mix(rounded, pairs, count, cols, sums);
        }
    }

    /// This head's part of the queries to `[vectors, (nope + rope) / 2, 16, 2]` bf16.
    fn pack_pairs(&self, q: Rows<'_>, out: &mut [u16]) {
        let dim = self.shape.query();
        for (vector, out) in out.chunks_exact_mut(dim * LANES).enumerate() {
            let first = self.range.start + vector * LANES;
            let rows = LANES.min(self.range.end - first);
            let values = &q.values[first * q.stride + self.head * dim..];
            let (pairs, _) = out.as_chunks_mut::<2>();
            round_pairs(self.compute.isa, values, q.stride, rows, self.scale(), pairs);
        }
    }

    /// This head's keys and values of some tokens in bf16.
    fn stage_rounded(
        &self,
        keys: Keys<'_>,
        range: Range<usize>,
        (near_keys, key_stride): (&mut [u16], usize),
        (near_values, value_stride): (&mut [u16], usize),
    ) {
        let (isa, Shape { nope, rope, value, .. }) = (self.compute.isa, self.shape);
        let rows = near_keys.chunks_exact_mut(key_stride).zip(near_values.chunks_exact_mut(value_stride));
        for (key, (near_key, near_value)) in range.zip(rows) {
            let row = self.row(keys, key);
            narrow(isa, &row[..nope], &mut near_key[..nope]);
            narrow(isa, &keys.rope[key * rope..][..rope], &mut near_key[nope..nope + rope]);
            narrow(isa, &row[nope..], &mut near_value[..value]);
        }
    }
}

per_isa! {
    /// `rows` rows, `stride` apart, times `scale` to `out [dim / 2, 16, 2]`; lanes without a row are 0.
    fn round_pairs(values: &[f32], stride: usize, rows: usize, scale: f32, out: &mut [[u16; 2]]) {
        if rows < LANES {
            out.fill([0; 2]);
        }
        for lane in 0..rows.min(LANES) {
            let row = &values[lane * stride..][..out.len() / LANES * 2];
            for (pair, out) in row.as_chunks::<2>().0.iter().zip(out.chunks_exact_mut(LANES)) {
                out[lane] = [round::to_bf16_bits(pair[0] * scale), round::to_bf16_bits(pair[1] * scale)];
            }
        }
    }
}

per_isa! {
    fn narrow(values: &[f32], out: &mut [u16]) {
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = round::to_bf16_bits(value));
    }
}
