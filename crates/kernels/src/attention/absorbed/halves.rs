//! A unit over a bf16 cache where products of bf16 are fast. Keys are multiplied where they lie in the cache.
//!
//! A packed vector of 16 queries is `[width / 2, 16, 2]` bf16.

use fathom_numeric::round;

use super::{LANES, Rows, Shape};
use crate::Isa;
use crate::attention::format::Layout;
use crate::attention::halves::{self, Unit};
use crate::attention::softmax::{self, Running};
use crate::attention::{CacheFormat, KEYS};
use crate::math::{multiply_by, per_isa};
use crate::memory::Scratch;

/// Whether rows of this layout are multiplied as they are.
pub(super) fn fits(layout: Layout) -> bool {
    layout.format == CacheFormat::Bf16
        && layout.latent.is_multiple_of(halves::COLS)
        && layout.width().is_multiple_of(halves::STEP)
        && layout.latent > 0
}

/// Numbers of a packed vector, in words of f32's size.
pub(super) fn packed_len(shape: Shape) -> usize {
    shape.width() / 2 * LANES
}

/// Queries of up to 16 rows, in two halves each, times `scale`; lanes without a row are 0.
pub(super) fn pack(isa: Isa, rows: &[(&[f32], &[f32])], scale: f32, out: &mut [f32]) {
    let out: &mut [[u16; 2]] = bytemuck::cast_slice_mut(out);
    if rows.len() < LANES {
        out.fill([0; 2]);
    }
    for (lane, (latent, rotary)) in rows.iter().enumerate() {
        let (head, tail) = out.split_at_mut(latent.len() / 2 * LANES);
        round_pairs(isa, latent, scale, lane, head);
        round_pairs(isa, rotary, scale, lane, tail);
    }
}

per_isa! {
    /// Numbers of one row, two by two, to lane `lane` of `[numbers / 2, 16, 2]` bf16.
    pub(super) fn round_pairs(row: &[f32], scale: f32, lane: usize, out: &mut [[u16; 2]]) {
        for (pair, out) in row.as_chunks::<2>().0.iter().zip(out.chunks_exact_mut(LANES)) {
            out[lane] = [round::to_bf16_bits(pair[0] * scale), round::to_bf16_bits(pair[1] * scale)];
        }
    }
}

/// Attends to the unit's tokens; returns unnormalised sums `[vectors · 16, latent]`, and in `running`
/// what they are relative to.
pub(super) fn attend<'s>(
    isa: Isa,
    shape: Shape,
    rows: &Rows<'_>,
    queries: &[f32],
    running: &mut [Running],
    scratch: &'s mut Scratch,
) -> &'s mut [f32] {
    let (vectors, cols, width) = (rows.vectors, shape.latent, shape.width());
    let [pairs, weights, rounded, sums] = scratch.floats([
        KEYS / 2 * halves::pair_stride(cols),
        vectors * KEYS * LANES,
        vectors * halves::WEIGHTS,
        vectors * LANES * cols,
    ]);
    let (pairs, rounded): (&mut [u32], &mut [u32]) =
        (bytemuck::cast_slice_mut(pairs), bytemuck::cast_slice_mut(rounded));
    let queries: &[u16] = bytemuck::cast_slice(queries);
    sums.fill(0.0);
    let unit = Unit::of(isa);
    for first in rows.tokens.clone().step_by(KEYS) {
        let count = KEYS.min(rows.tokens.end - first);
        let keys: &[u16] = bytemuck::cast_slice(rows.cache.block(first / KEYS).bytes);
        let next = rows.next_block(first).map_or(&[][..], |next| next.bytes);
        unit.scores((keys, width), count, width, queries, next, weights);
        unit.interleave((keys, width), count, cols, next, pairs);
        for (vector, running) in running.iter_mut().enumerate() {
            let (weights, _) = weights[vector * KEYS * LANES..].as_chunks_mut::<LANES>();
            let (seen, mut keep) = (rows.seen(vector, first, count), [0.0; LANES]);
            softmax::absorb(isa, &mut weights[..count], &seen, running, &mut keep);
            halves::weights(&weights[..count], &mut rounded[vector * halves::WEIGHTS..][..halves::WEIGHTS]);
            for (lane, keep) in keep.into_iter().enumerate().filter(|(_, keep)| *keep != 1.0) {
                multiply_by(isa, &mut sums[(vector * LANES + lane) * cols..][..cols], keep);
            }
        }
        unit.mix(rounded, pairs, count, cols, sums);
    }
    sums
}
