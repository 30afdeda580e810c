//! Backward. With `P = softmax` computed again from `lse` and `δ = Σ dout · out` per query: `dV = Pᵀ · dO`,
//! `dP = dO · Vᵀ`, `dS = scale · P ∘ (dP - δ)`, `dQ = dS · K`, `dK = dSᵀ · Q`.

use super::{Attention, BLOCK, Keys, Shape, head_view};
use crate::Compute;
use crate::math::{dot, exp, per_isa};
use crate::matmul::View;
use crate::matmul::micro::{Layout, Side, Target, multiply, pack};
use crate::memory::Scratch;
use crate::shared::SharedSlice;

/// What the forward pass left, and the gradient of its result.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// `[batch, seq, heads, value]`.
    pub out: &'a [f32],
    /// `[batch, heads, seq]`.
    pub lse: &'a [f32],
    /// `[batch, seq, heads, value]`.
    pub dout: &'a [f32],
}

/// Gradients, all written over. Keys' have the form of the [`Keys`] given.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[batch, seq, heads, nope + rope]`.
    pub dq: &'a mut [f32],
    /// Of keys and values.
    pub keys: KeysGradient<'a>,
}

/// Gradients of [`Keys`].
#[derive(Debug)]
pub enum KeysGradient<'a> {
    /// Of [`Keys::Latent`].
    Latent {
        /// `[batch, seq, heads, nope + value]`.
        dkv: &'a mut [f32],
        /// `[batch, seq, rope]`: the sum over heads.
        drope: &'a mut [f32],
        /// `[batch, heads, seq, rope]`: memory to work in; each head's share stays there.
        per_head: &'a mut [f32],
    },
    /// Of [`Keys::Separate`].
    Separate {
        /// `[batch, seq, kv_heads, nope]`.
        dk: &'a mut [f32],
        /// `[batch, seq, kv_heads, value]`.
        dv: &'a mut [f32],
    },
}

/// All gradients.
///
/// # Panics
/// If a length does not fit, or the form of the gradients is not that of the keys.
pub fn backward(compute: &Compute, attention: &Attention<'_>, saved: Saved<'_>, gradients: Gradients<'_>) {
    attention.check();
    let shape @ Shape { batch, seq, heads, kv_heads, rope, value, .. } = attention.shape;
    let results = batch * seq * heads * value;
    assert!(
        saved.out.len() == results && saved.dout.len() == results && saved.lse.len() == batch * heads * seq
    );
    let Gradients { dq, mut keys } = gradients;
    assert_eq!(dq.len(), attention.q.len(), "attention: dq of {shape:?}");
    let outputs = Outputs { dq: SharedSlice::new(dq), keys: KeyOutputs::of(&mut keys, attention) };
    compute.pool.run(batch * kv_heads, |unit, scratch| {
        let head = Head { attention, saved, batch: unit / kv_heads, kv_head: unit % kv_heads };
        head.compute(compute, scratch, &outputs);
    });
    if let KeysGradient::Latent { drope, per_head, .. } = keys {
        sum_heads(compute, attention.shape, per_head, drope);
    }
    debug_assert!(rope == 0 || matches!(attention.keys, Keys::Latent { .. }));
}

fn sum_heads(compute: &Compute, shape: Shape, per_head: &[f32], drope: &mut [f32]) {
    let Shape { batch, seq, heads, rope, .. } = shape;
    let drope = SharedSlice::new(drope);
    let blocks = seq.div_ceil(BLOCK);
    compute.pool.run(batch * blocks, |unit, _| {
        let (batch, first) = (unit / blocks, unit % blocks * BLOCK);
        let len = BLOCK.min(seq - first) * rope;
        // SAFETY: every block belongs to one unit.
        let drope = unsafe { drope.range_mut((batch * seq + first) * rope, len) };
        drope.fill(0.0);
        for head in 0..heads {
            let share = &per_head[((batch * heads + head) * seq + first) * rope..][..len];
            drope.iter_mut().zip(share).for_each(|(drope, share)| *drope += share);
        }
    });
}

struct Outputs<'a> {
    dq: SharedSlice<'a, f32>,
    keys: KeyOutputs<'a>,
}

enum KeyOutputs<'a> {
    Latent { dkv: SharedSlice<'a, f32>, per_head: SharedSlice<'a, f32> },
    Separate { dk: SharedSlice<'a, f32>, dv: SharedSlice<'a, f32> },
}

impl<'a> KeyOutputs<'a> {
    fn of(keys: &'a mut KeysGradient<'_>, attention: &Attention<'_>) -> Self {
        let shape = attention.shape;
        match (keys, attention.keys) {
            (KeysGradient::Latent { dkv, drope, per_head }, Keys::Latent { kv, rope }) => {
                assert!(dkv.len() == kv.len() && drope.len() == rope.len(), "attention: dkv of {shape:?}");
                assert_eq!(per_head.len(), rope.len() * shape.heads, "attention: per_head of {shape:?}");
                KeyOutputs::Latent { dkv: SharedSlice::new(dkv), per_head: SharedSlice::new(per_head) }
            }
            (KeysGradient::Separate { dk, dv }, Keys::Separate { k, v }) => {
                assert!(dk.len() == k.len() && dv.len() == v.len(), "attention: dk, dv of {shape:?}");
                KeyOutputs::Separate { dk: SharedSlice::new(dk), dv: SharedSlice::new(dv) }
            }
            _ => panic!("attention: gradients have the form of the keys"),
        }
    }

    /// Writes a head's gradients `dk [seq, nope + rope]`, `dv [seq, value]`.
    ///
    /// # Safety
    /// Nobody else writes this head of this sequence.
    unsafe fn write(&self, shape: Shape, (batch, head): (usize, usize), dk: &[f32], dv: &[f32]) {
        let Shape { seq, kv_heads, nope, rope, value, .. } = shape;
        for (token, (dk, dv)) in dk.chunks_exact(nope + rope).zip(dv.chunks_exact(value)).enumerate() {
            let at = (batch * seq + token) * kv_heads + head;
            let (own, shared) = dk.split_at(nope);
            // SAFETY: this function's contract; ranges of one token do not overlap.
            unsafe {
                match self {
                    KeyOutputs::Latent { dkv, per_head } => {
                        let dkv = dkv.range_mut(at * (nope + value), nope + value);
                        dkv[..nope].copy_from_slice(own);
                        dkv[nope..].copy_from_slice(dv);
                        let row = (batch * kv_heads + head) * seq + token;
                        per_head.range_mut(row * rope, rope).copy_from_slice(shared);
                    }
                    KeyOutputs::Separate { dk, dv: values } => {
                        dk.range_mut(at * nope, nope).copy_from_slice(own);
                        values.range_mut(at * value, value).copy_from_slice(dv);
                    }
                }
            }
        }
    }
}

/// One head of keys of one sequence, with all heads of queries that use it.
struct Head<'a> {
    attention: &'a Attention<'a>,
    saved: Saved<'a>,
    batch: usize,
    kv_head: usize,
}

/// A head's keys and values, block by block, as right operands; distances are those of whole blocks.
struct Packed<'a> {
    layout: Layout,
    /// Of `S = Q · Kᵀ`.
    k_transposed: &'a mut [f32],
    /// Of `dQ = dS · K`.
    k: &'a mut [f32],
    /// Of `dP = dO · Vᵀ`.
    v_transposed: &'a mut [f32],
}

/// A block of queries, and the gradients that flow into it.
struct Queries<'a> {
    q_left: &'a mut [f32],
    q_right: &'a mut [f32],
    dout_left: &'a mut [f32],
    dout_right: &'a mut [f32],
    delta: &'a mut [f32],
    dq: &'a mut [f32],
}

/// Memory for a pair of blocks.
struct Pair<'a> {
    /// Scores, then weights.
    weights: &'a mut [f32],
    /// Gradients of weights, then of scores.
    dscores: &'a mut [f32],
    /// Either as a left operand.
    left: &'a mut [f32],
}

impl Head<'_> {
    fn compute(&self, compute: &Compute, scratch: &mut Scratch, outputs: &Outputs<'_>) {
        let shape @ Shape { seq, heads, value, .. } = self.attention.shape;
        let (layout, dim) = (Layout::of(compute.isa, self.attention.precision), shape.query());
        let (blocks, left, right) = (seq.div_ceil(BLOCK), Side::Left, Side::Right);
        let [
            k_transposed,
            k,
            v_transposed,
            dk,
            dv,
            q_left,
            q_right,
            dout_left,
            dout_right,
            delta,
            dq,
            weights,
            dscores,
            own,
        ] = scratch.floats([
            blocks * layout.len(right, BLOCK, dim),
            blocks * layout.len(right, dim, BLOCK),
            blocks * layout.len(right, BLOCK, value),
            seq * dim,
            seq * value,
            layout.len(left, BLOCK, dim),
            layout.len(right, dim, BLOCK),
            layout.len(left, BLOCK, value),
            layout.len(right, value, BLOCK),
            BLOCK,
            BLOCK * dim,
            BLOCK * BLOCK,
            BLOCK * BLOCK,
            layout.len(left, BLOCK, BLOCK),
        ]);
        let mut packed = Packed { layout, k_transposed, k, v_transposed };
        self.pack_keys(&mut packed, dq);
        dk.fill(0.0);
        dv.fill(0.0);
        let mut queries = Queries { q_left, q_right, dout_left, dout_right, delta, dq };
        let mut pair = Pair { weights, dscores, left: own };
        for head in self.kv_head * shape.group()..(self.kv_head + 1) * shape.group() {
            for first in (0..seq).step_by(BLOCK) {
                let end = seq.min(first + BLOCK);
                self.load(compute, layout, head, first..end, &mut queries);
                for block in (self.attention.first_block(self.batch, first..end)..end).step_by(BLOCK) {
                    self.pair(compute, (head, first..end, block), &packed, &mut queries, &mut pair, (dk, dv));
                }
                for (row, dq) in queries.dq.chunks_exact(dim).take(end - first).enumerate() {
                    let at = ((self.batch * seq + first + row) * heads + head) * dim;
                    // SAFETY: this head of queries is this unit's.
                    unsafe { outputs.dq.range_mut(at, dim) }.copy_from_slice(dq);
                }
            }
        }
        // SAFETY: this head of keys is this unit's.
        unsafe { outputs.keys.write(shape, (self.batch, self.kv_head), dk, dv) };
    }

    /// Packs all blocks; `staged` has room for the keys of one.
    fn pack_keys(&self, packed: &mut Packed<'_>, staged: &mut [f32]) {
        let Shape { seq, value, .. } = self.attention.shape;
        let (dim, values) = (self.attention.shape.query(), self.attention.values(self.batch, self.kv_head));
        for first in (0..seq).step_by(BLOCK) {
            let count = BLOCK.min(seq - first);
            self.attention.stage_keys(self.batch, self.kv_head, first..first + count, staged);
            let keys = View::dense(&staged[..count * dim], count, dim);
            let values = values.sub(first..first + count, 0..value);
            let layout = packed.layout;
            let part = |whole: [usize; 2], lanes, depth| {
                let start = first / BLOCK * layout.len(Side::Right, whole[0], whole[1]);
                start..start + layout.len(Side::Right, lanes, depth)
            };
            let k_transposed = &mut packed.k_transposed[part([BLOCK, dim], count, dim)];
            pack(layout, Side::Right, keys.transposed(), k_transposed);
            pack(layout, Side::Right, keys, &mut packed.k[part([dim, BLOCK], dim, count)]);
            let v_transposed = &mut packed.v_transposed[part([BLOCK, value], count, value)];
            pack(layout, Side::Right, values.transposed(), v_transposed);
        }
    }

    fn load(
        &self,
        compute: &Compute,
        layout: Layout,
        head: usize,
        tokens: std::ops::Range<usize>,
        queries: &mut Queries<'_>,
    ) {
        let Shape { seq, heads, value, .. } = self.attention.shape;
        let (dim, rows) = (self.attention.shape.query(), tokens.len());
        let q = self.attention.queries(self.batch, head).sub(tokens.clone(), 0..dim);
        let dout =
            head_view(self.saved.dout, seq, (self.batch, head), heads, value).sub(tokens.clone(), 0..value);
        pack(layout, Side::Left, q, &mut queries.q_left[..layout.len(Side::Left, rows, dim)]);
        pack(layout, Side::Right, q, &mut queries.q_right[..layout.len(Side::Right, dim, rows)]);
        pack(layout, Side::Left, dout, &mut queries.dout_left[..layout.len(Side::Left, rows, value)]);
        pack(layout, Side::Right, dout, &mut queries.dout_right[..layout.len(Side::Right, value, rows)]);
        for (token, delta) in tokens.zip(queries.delta.iter_mut()) {
            let at = ((self.batch * seq + token) * heads + head) * value;
            *delta = row_dot(compute.isa, &self.saved.out[at..][..value], &self.saved.dout[at..][..value]);
        }
        queries.dq.fill(0.0);
    }

    /// A block of queries with a block of keys: adds to the gradients of both.
    fn pair(
        &self,
        compute: &Compute,
        (head, tokens, block): (usize, std::ops::Range<usize>, usize),
        packed: &Packed<'_>,
        queries: &mut Queries<'_>,
        pair: &mut Pair<'_>,
        (dk, dv): (&mut [f32], &mut [f32]),
    ) {
        let (layout, shape) = (packed.layout, self.attention.shape);
        let (dim, value, rows) = (shape.query(), shape.value, tokens.len());
        let count = BLOCK.min(shape.seq - block);
        let (index, left, right) = (block / BLOCK, Side::Left, Side::Right);
        let k_transposed =
            &packed.k_transposed[index * layout.len(right, BLOCK, dim)..][..layout.len(right, count, dim)];
        let k = &packed.k[index * layout.len(right, dim, BLOCK)..][..layout.len(right, dim, count)];
        let v_transposed = &packed.v_transposed[index * layout.len(right, BLOCK, value)..]
            [..layout.len(right, count, value)];
        let q_left = &queries.q_left[..layout.len(left, rows, dim)];
        let q_right = &queries.q_right[..layout.len(right, dim, rows)];
        let dout_left = &queries.dout_left[..layout.len(left, rows, value)];
        let dout_right = &queries.dout_right[..layout.len(right, value, rows)];

        let target =
            Target { c: pair.weights, stride: BLOCK, alpha: self.attention.scale, accumulate: false };
        multiply(layout, [rows, count, dim], q_left, k_transposed, target);
        let target = Target { c: pair.dscores, stride: BLOCK, alpha: 1.0, accumulate: false };
        multiply(layout, [rows, count, value], dout_left, v_transposed, target);
        self.softmax_backward(compute, (head, tokens, block, count), queries.delta, pair);

        let [weights, dscores] =
            [&*pair.weights, &*pair.dscores].map(|values| View::strided(values, rows, count, BLOCK));
        let transposed = &mut pair.left[..layout.len(left, count, rows)];
        pack(layout, left, weights.transposed(), transposed);
        let target = Target { c: &mut dv[block * value..], stride: value, alpha: 1.0, accumulate: true };
        multiply(layout, [count, value, rows], transposed, dout_right, target);
        pack(layout, left, dscores.transposed(), transposed);
        let target = Target { c: &mut dk[block * dim..], stride: dim, alpha: 1.0, accumulate: true };
        multiply(layout, [count, dim, rows], transposed, q_right, target);
        let dscores_left = &mut pair.left[..layout.len(left, rows, count)];
        pack(layout, left, dscores, dscores_left);
        let target = Target { c: queries.dq, stride: dim, alpha: 1.0, accumulate: true };
        multiply(layout, [rows, dim, count], dscores_left, k, target);
    }

    /// Scores become weights, gradients of weights become gradients of scores; both 0 where nothing is seen.
    fn softmax_backward(
        &self,
        compute: &Compute,
        (head, tokens, block, count): (usize, std::ops::Range<usize>, usize, usize),
        delta: &[f32],
        pair: &mut Pair<'_>,
    ) {
        let Shape { seq, heads, .. } = self.attention.shape;
        let rows = pair.weights.chunks_exact_mut(BLOCK).zip(pair.dscores.chunks_exact_mut(BLOCK));
        for ((token, delta), (weights, dscores)) in tokens.zip(delta).zip(rows) {
            let visible = self.attention.visible(self.batch, token, block, count);
            let lse = self.saved.lse[(self.batch * heads + head) * seq + token];
            for values in [&mut *weights, &mut *dscores] {
                values[..visible.start].fill(0.0);
                values[visible.end..].fill(0.0);
            }
            let (weights, dscores) = (&mut weights[visible.clone()], &mut dscores[visible]);
            softmax_backward_row(compute.isa, weights, dscores, lse, *delta, self.attention.scale);
        }
    }
}

per_isa! {
    fn row_dot(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }
}

per_isa! {
    fn softmax_backward_row(weights: &mut [f32], dscores: &mut [f32], lse: f32, delta: f32, scale: f32) {
        for (weight, dscore) in weights.iter_mut().zip(dscores) {
            *weight = exp(*weight - lse);
            *dscore = *weight * (*dscore - delta) * scale;
        }
    }
}
