//! Forward: a stripe of queries against one block of keys after the other, with a running maximum and sum.

use super::{Attention, BLOCK, Shape};
use crate::Compute;
use crate::math::{exp, largest, per_isa};
use crate::matmul::View;
use crate::matmul::micro::{Layout, Side, Target, multiply, pack};
use crate::memory::Scratch;
use crate::shared::SharedSlice;

/// Queries of a stripe: so many that packing a block of keys for them is cheap.
const STRIPE: usize = 128;

/// `out [batch, seq, heads, value]` and `lse [batch, heads, seq]`, for the backward pass.
///
/// # Panics
/// If a length does not fit, or a document begins after its token.
pub fn forward(compute: &Compute, attention: &Attention<'_>, out: &mut [f32], lse: &mut [f32]) {
    attention.check();
    let Shape { batch, seq, heads, value, .. } = attention.shape;
    assert!(out.len() == batch * seq * heads * value && lse.len() == batch * heads * seq);
    let (out, lse) = (SharedSlice::new(out), SharedSlice::new(lse));
    let stripes = seq.div_ceil(STRIPE);
    compute.pool.run(batch * heads * stripes, |unit, scratch| {
        // Long stripes first.
        let (head, stripe) = (unit % (batch * heads), stripes - 1 - unit / (batch * heads));
        let stripe = Stripe { attention, batch: head / heads, head: head % heads, first: stripe * STRIPE };
        stripe.compute(compute, scratch, out, lse);
    });
}

struct Stripe<'a> {
    attention: &'a Attention<'a>,
    batch: usize,
    head: usize,
    /// Its first query.
    first: usize,
}

impl Stripe<'_> {
    fn compute(
        &self,
        compute: &Compute,
        scratch: &mut Scratch,
        out: SharedSlice<'_, f32>,
        lse: SharedSlice<'_, f32>,
    ) {
        let Self { attention, batch, head, first } = *self;
        let shape @ Shape { seq, heads, value, .. } = attention.shape;
        let (layout, dim) = (Layout::of(compute.isa, attention.precision), shape.query());
        let (end, kv_head) = (seq.min(first + STRIPE), head / shape.group());
        let rows = end - first;
        let [q, staged, k, v, scores, weights, sums, highest, totals] = scratch.floats([
            layout.len(Side::Left, rows, dim),
            BLOCK * dim,
            layout.len(Side::Right, BLOCK, dim),
            layout.len(Side::Right, value, BLOCK),
            rows * BLOCK,
            layout.len(Side::Left, rows, BLOCK),
            rows * value,
            rows,
            rows,
        ]);
        pack(layout, Side::Left, attention.queries(batch, head).sub(first..end, 0..dim), q);
        sums.fill(0.0);
        totals.fill(0.0);
        highest.fill(f32::NEG_INFINITY);
        let values = attention.values(batch, kv_head);
        for block in (attention.first_block(batch, first..end)..end).step_by(BLOCK) {
            let count = BLOCK.min(end - block);
            attention.stage_keys(batch, kv_head, block..block + count, staged);
            let k = &mut k[..layout.len(Side::Right, count, dim)];
            let v = &mut v[..layout.len(Side::Right, value, count)];
            let weights = &mut weights[..layout.len(Side::Left, rows, count)];
            pack(layout, Side::Right, View::dense(&staged[..count * dim], count, dim).transposed(), k);
            pack(layout, Side::Right, values.sub(block..block + count, 0..value), v);
            let target = Target { c: scores, stride: BLOCK, alpha: attention.scale, accumulate: false };
            multiply(layout, [rows, count, dim], q, k, target);
            for row in 0..rows {
                let visible = attention.visible(batch, first + row, block, count);
                let scores = &mut scores[row * BLOCK..][..count];
                scores[..visible.start].fill(0.0);
                scores[visible.end..].fill(0.0);
                let sums = &mut sums[row * value..][..value];
                absorb(compute.isa, &mut scores[visible], &mut highest[row], &mut totals[row], sums);
            }
            pack(layout, Side::Left, View::strided(scores, rows, count, BLOCK), weights);
            let target = Target { c: sums, stride: value, alpha: 1.0, accumulate: true };
            multiply(layout, [rows, value, count], weights, v, target);
        }
        // SAFETY: the stripe's queries are this unit's.
        let lse = unsafe { lse.range_mut((batch * heads + head) * seq + first, rows) };
        for (row, lse) in lse.iter_mut().enumerate() {
            // SAFETY: as above.
            let out = unsafe { out.range_mut(((batch * seq + first + row) * heads + head) * value, value) };
            let factor = 1.0 / totals[row];
            out.iter_mut().zip(&sums[row * value..]).for_each(|(out, sum)| *out = sum * factor);
            *lse = highest[row] + totals[row].ln();
        }
    }
}

per_isa! {
    /// Scores of one query become weights relative to the highest score so far; what was summed before is
    /// made relative to it too.
    fn absorb(scores: &mut [f32], highest: &mut f32, total: &mut f32, sums: &mut [f32]) {
        let new = largest(scores);
        if new > *highest {
            let keep = exp(*highest - new);
            *highest = new;
            *total *= keep;
            sums.iter_mut().for_each(|sum| *sum *= keep);
        }
        let shift = *highest;
        scores.iter_mut().for_each(|score| *score = exp(*score - shift));
        let mut lanes = [0.0f32; 16];
        let (chunks, rest) = scores.as_chunks::<16>();
        chunks.iter().for_each(|chunk| lanes.iter_mut().zip(chunk).for_each(|(lane, weight)| *lane += weight));
        *total += lanes.iter().sum::<f32>() + rest.iter().sum::<f32>();
    }
}
