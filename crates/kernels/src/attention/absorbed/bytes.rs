//! A unit over an int8 cache on a processor that multiplies bytes: the latent's part of scores and the
//! sums of values are sums of products of bytes, the softmax is f32, and so is the rotary part where there are no
//! products of bf16.
//!
//! Queries are rounded to int8 with a scale per row and group of 128 numbers, weights to unsigned bytes
//! with a scale per row, block and group. Both roundings are of the size of the cache's own.
//!
//! A vector of 16 packed queries, in words of four bytes: scales `[groups, 16]`, rotary part
//! `[rope, 16]` (of which bf16 takes the first half, `[rope / 2, 16, 2]`), bytes `[latent / 4, 16]`.

use super::halves::round_pairs;
use super::{LANES, Rows, Shape, VECTORS_MAX, floats};
use crate::Isa;
use crate::attention::format::{self, GROUP};
use crate::attention::softmax::{self, Running};
use crate::attention::{self as f32_lanes, Ahead, KEYS, STAGED, STRIDE, halves as products, pieces, vnni};
use crate::math::per_isa;
use crate::memory::Scratch;

/// Columns of sums: whole chunks of what the values' order is mixed in.
pub(super) fn cols(shape: Shape) -> usize {
    shape.latent.next_multiple_of(vnni::MIXED)
}

/// Words of a packed vector.
pub(super) fn packed_len(shape: Shape) -> usize {
    (shape.latent.div_ceil(GROUP) + shape.rope + shape.latent.div_ceil(4)) * LANES
}

/// Whether the rotary part is multiplied in bf16.
fn rotary_in_halves(isa: Isa, shape: Shape) -> bool {
    products::in_lanes(isa) && shape.rope > 0 && shape.rope.is_multiple_of(products::STEP)
}

/// Queries of up to 16 rows, in two halves each, times `scale`.
pub(super) fn pack(isa: Isa, rows: &[(&[f32], &[f32])], shape: Shape, scale: f32, out: &mut [f32]) {
    let groups = shape.latent.div_ceil(GROUP);
    let (scales, rest) = out.split_at_mut(groups * LANES);
    let (rotary, bytes) = rest.split_at_mut(shape.rope * LANES);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(bytes);
    scales.fill(0.0);
    rotary.fill(0.0);
    // A zero; so are the lanes that have no row and the numbers that fill the last four.
    bytes.fill(128);
    let in_halves = rotary_in_halves(isa, shape);
    for (lane, (latent, own_rotary)) in rows.iter().enumerate() {
        if in_halves {
            round_pairs(isa, own_rotary, scale, lane, bytemuck::cast_slice_mut(rotary));
        } else {
            floats::scatter(isa, own_rotary, scale, lane, rotary);
        }
        for (group, numbers) in latent.chunks(GROUP).enumerate() {
            let (inverse, step) = format::scales(format::largest(isa, numbers), 127.0);
            scales[group * LANES + lane] = step * scale;
            let quads = &mut bytes[group * GROUP * LANES..];
            round(isa, numbers, inverse, lane, quads);
        }
    }
}

per_isa! {
    /// Numbers of one row to `[numbers / 4, 16, 4]`.
    fn round(numbers: &[f32], inverse: f32, lane: usize, out: &mut [u8]) {
        for (numbers, out) in numbers.chunks(4).zip(out.chunks_exact_mut(4 * LANES)) {
            for (byte, number) in out[4 * lane..4 * lane + 4].iter_mut().zip(numbers) {
                // Adding 1.5 · 2²³ rounds to an integer, ties to even, and leaves it in the low bits.
                *byte = ((number * inverse + 12_582_912.0).to_bits() as u8).wrapping_add(128);
            }
        }
    }
}

/// Attends to the unit's tokens; returns unnormalised sums `[vectors · 16, cols]`, and in `running`
/// what they are relative to.
pub(super) fn attend<'s>(
    isa: Isa,
    shape: Shape,
    rows: &Rows<'_>,
    queries: &[f32],
    running: &mut [Running],
    scratch: &'s mut Scratch,
) -> &'s mut [f32] {
    let (vectors, cols, apart) = (rows.vectors, cols(shape), packed_len(shape));
    let layout = rows.cache.layout();
    let [staged, quads, weights, keep, rounded, sums] = scratch.floats([
        STAGED,
        KEYS / 4 * GROUP,
        vectors * KEYS * LANES,
        vectors * LANES,
        vectors * vnni::WEIGHTS,
        vectors * LANES * cols,
    ]);
    let quads: &mut [u32] = bytemuck::cast_slice_mut(quads);
    let rounded: &mut [u32] = bytemuck::cast_slice_mut(rounded);
    let (rotary, words) = (layout.groups * LANES, (layout.groups + shape.rope) * LANES);
    sums.fill(0.0);
    let in_halves = rotary_in_halves(isa, shape);
    for first in rows.tokens.clone().step_by(KEYS) {
        let count = KEYS.min(rows.tokens.end - first);
        let block = rows.cache.block(first / KEYS);
        let numbers = block.numbers();
        let (scales, key_sums) = (block.scales(0, KEYS), block.sums(0, KEYS));
        if in_halves {
            let queries = bytemuck::cast_slice(&queries[rotary..]);
            products::scores_in_lanes(isa, block.rotary(0, KEYS), count, (queries, 2 * apart), weights);
        } else {
            for piece in pieces(shape.rope) {
                let cols = shape.latent + piece.start..shape.latent + piece.end;
                format::decode(isa, block, 0..count, cols, staged, STRIDE);
                let (queries, ahead) = (&queries[rotary..], Ahead::NOTHING);
                let job = f32_lanes::Scores { queries, apart, vectors, piece, keys: staged, count, ahead };
                f32_lanes::scores(isa, &job, weights);
            }
        }
        let job = vnni::Scores {
            queries: bytemuck::cast_slice(&queries[words..]),
            query_scales: queries,
            apart,
            vectors,
            quads: shape.latent.div_ceil(4),
            keys: numbers,
            row_bytes: layout.row_bytes,
            count,
            key_scales: scales,
            key_sums,
            ahead: rows.next_block(first).map_or(&[], |next| next.bytes),
        };
        vnni::scores(&job, weights);
        let states = running.iter_mut().zip(keep.as_chunks_mut::<LANES>().0);
        for (vector, (running, keep)) in states.enumerate() {
            let (weights, _) = weights[vector * KEYS * LANES..].as_chunks_mut::<LANES>();
            let seen = rows.seen(vector, first, count);
            softmax::absorb(isa, &mut weights[..count], &seen, running, keep);
        }
        for group in 0..layout.groups {
            let numbers_of = group * GROUP..layout.row_bytes.min((group + 1) * GROUP);
            vnni::stage(numbers, layout.row_bytes, numbers_of.clone(), quads);
            let mut weight_scales = [[0.0; LANES]; VECTORS_MAX];
            let outs = rounded.chunks_exact_mut(vnni::WEIGHTS).zip(&mut weight_scales);
            for (vector, (out, weight_scales)) in outs.enumerate() {
                let (weights, _) = weights[vector * KEYS * LANES..].as_chunks::<LANES>();
                vnni::weights(&weights[..count], &scales[group..], layout.groups, out, weight_scales);
            }
            let job = vnni::Mix {
                weights: rounded,
                weight_scales: weight_scales[..vectors].as_flattened(),
                vectors,
                values: quads,
                width: numbers_of.len(),
                count,
                cols,
                first: numbers_of.start,
                keep,
            };
            vnni::mix(&job, sums);
        }
    }
    vnni::unmix(sums);
    sums
}
