//! A unit in f32: every block is staged as f32 once and multiplied with all rows.

use super::{LANES, Rows, Shape};
use crate::Isa;
use crate::attention::softmax::{self, Running};
use crate::attention::{
    Ahead, BLOCK_TOKENS, KEYS, Mix, PIECE, STAGED, STRIDE, Scores, format, mix, pieces, scores,
};
use crate::math::per_isa;
use crate::memory::Scratch;

/// Columns of sums: the latent's, in whole registers.
pub(super) fn cols(shape: Shape) -> usize {
    shape.latent.next_multiple_of(LANES)
}

/// Numbers of a packed vector of 16 queries, `[width, 16]`.
pub(super) fn packed_len(shape: Shape) -> usize {
    shape.width() * LANES
}

/// Queries of up to 16 rows, in two halves each, times `scale` to `out [width, 16]`; lanes without a
/// row are 0.
pub(super) fn pack(isa: Isa, rows: &[(&[f32], &[f32])], scale: f32, out: &mut [f32]) {
    if rows.len() < LANES {
        out.fill(0.0);
    }
    for (lane, (latent, rotary)) in rows.iter().enumerate() {
        let (head, tail) = out.split_at_mut(latent.len() * LANES);
        scatter(isa, latent, scale, lane, head);
        scatter(isa, rotary, scale, lane, tail);
    }
}

per_isa! {
    pub(super) fn scatter(row: &[f32], scale: f32, lane: usize, out: &mut [f32]) {
        let (out, _) = out.as_chunks_mut::<LANES>();
        out.iter_mut().zip(row).for_each(|(out, value)| out[lane % LANES] = value * scale);
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
    let (vectors, dim, cols) = (rows.vectors, shape.width(), cols(shape));
    let lens =
        [dim.div_ceil(PIECE) * STAGED, vectors * KEYS * LANES, vectors * LANES, vectors * LANES * cols];
    let [staged, weights, keep, sums] = scratch.floats(lens);
    sums.fill(0.0);
    for first in rows.tokens.clone().step_by(KEYS) {
        let count = KEYS.min(rows.tokens.end - first);
        let block = rows.cache.block(first / BLOCK_TOKENS);
        let layout = rows.cache.layout();
        let number_bytes = layout.row_bytes / if layout.groups > 0 { layout.latent } else { dim };
        for (piece, keys) in pieces(dim).zip(staged.chunks_exact_mut(STAGED)) {
            format::decode(isa, block, 0..count, piece.clone(), keys, STRIDE);
            // The next piece, or the first one of the next block.
            let (next, at) =
                if piece.end < dim { (Some(block), piece.end) } else { (rows.next_block(first), 0) };
            let ahead = next.and_then(|next| next.bytes.get(at * number_bytes..));
            let ahead = Ahead::new(ahead, layout.row_bytes, PIECE * number_bytes);
            scores(
                isa,
                &Scores { queries, apart: packed_len(shape), vectors, piece, keys, count, ahead },
                weights,
            );
        }
        let states = running.iter_mut().zip(keep.as_chunks_mut::<LANES>().0);
        for (vector, (running, keep)) in states.enumerate() {
            let (weights, _) = weights[vector * KEYS * LANES..].as_chunks_mut::<LANES>();
            let seen = rows.seen(vector, first, count);
            softmax::absorb(isa, &mut weights[..count], &seen, running, keep);
        }
        for (piece, values) in pieces(cols).zip(staged.chunks_exact(STAGED)) {
            mix(isa, &Mix { weights, vectors, values, count, cols, piece, keep }, sums);
        }
    }
    sums
}
