//! Causal attention of a training step, forward and backward, without ever holding all scores (FlashAttention-2,
//! arXiv 2307.08691): `out = softmax(scale · q · kᵀ) · v` per head, over the keys of a token's document up to itself.
//!
//! The forward pass leaves the logarithm of each row's sum of exponentials (`lse`); the backward pass computes scores
//! again from it, block by block. Keys are read where they lie ([`Keys`]): those of MLA, half of them shared by all
//! heads, are never joined in memory.
//!
//! **Numbers.** Products are those of [`matmul`](crate::matmul) in the precision asked for; softmax is f32.
//!
//! **Units.** Forward: a stripe of queries of one head. Backward: all heads that share keys, so that every gradient
//! but that of the shared rotary keys is one unit's own; those are summed over heads, in order, at the end.

mod backward;
mod forward;
#[cfg(test)]
mod tests;

pub use backward::{Gradients, KeysGradient, Saved, backward};
pub use forward::forward;

use std::ops::Range;

use crate::matmul::{MatmulPrecision, View};

/// Keys (and, in the backward pass, queries) of a block.
const BLOCK: usize = 128;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub seq: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values: head `h` uses `h / (heads / kv_heads)`. MLA: as many as `heads`.
    pub kv_heads: usize,
    /// Numbers of a query and key that each head has of its own (all of them, but in MLA).
    pub nope: usize,
    /// Numbers of a query, behind those, whose keys are shared by all heads (`qk_rope_head_dim`; 0 but in MLA).
    pub rope: usize,
    /// Numbers of a value.
    pub value: usize,
}

impl Shape {
    fn query(&self) -> usize {
        self.nope + self.rope
    }

    fn tokens(&self) -> usize {
        self.batch * self.seq
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Where keys and values lie.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// MLA: `kv [batch, seq, heads, nope + value]`, `rope [batch, seq, rope]`.
    Latent {
        /// Keys without position, then values.
        kv: &'a [f32],
        /// Rotated keys.
        rope: &'a [f32],
    },
    /// MHA, GQA, MQA: `k [batch, seq, kv_heads, nope]`, `v [batch, seq, kv_heads, value]`.
    Separate {
        /// Keys, rotated if they are to be.
        k: &'a [f32],
        /// Values.
        v: &'a [f32],
    },
}

/// What is attended, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Sizes.
    pub shape: Shape,
    /// `[batch, seq, heads, nope + rope]`.
    pub q: &'a [f32],
    /// Keys and values.
    pub keys: Keys<'a>,
    /// `[batch, seq]`: index in its sequence of the first token of each token's document; earlier keys are
    /// invisible. Without it a sequence is one document.
    pub document: Option<&'a [u32]>,
    /// Factor of the scores.
    pub scale: f32,
    /// Of the products.
    pub precision: MatmulPrecision,
}

impl<'a> Attention<'a> {
    fn check(&self) {
        let Self { shape, q, keys, document, .. } = self;
        let (tokens, fits) =
            (shape.tokens(), shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads));
        assert!(fits && shape.nope > 0 && shape.value > 0, "attention: {shape:?}");
        assert_eq!(q.len(), tokens * shape.heads * shape.query(), "attention: q of {shape:?}");
        match keys {
            Keys::Latent { kv, rope } => {
                assert_eq!(shape.heads, shape.kv_heads, "attention: latent keys of {shape:?}");
                assert_eq!(
                    kv.len(),
                    tokens * shape.heads * (shape.nope + shape.value),
                    "attention: kv of {shape:?}"
                );
                assert_eq!(rope.len(), tokens * shape.rope, "attention: rope of {shape:?}");
            }
            Keys::Separate { k, v } => {
                assert_eq!(shape.rope, 0, "attention: only latent keys have a shared part, {shape:?}");
                assert_eq!(k.len(), tokens * shape.kv_heads * shape.nope, "attention: k of {shape:?}");
                assert_eq!(v.len(), tokens * shape.kv_heads * shape.value, "attention: v of {shape:?}");
            }
        }
        if let Some(document) = document {
            assert_eq!(document.len(), tokens, "attention: document of {shape:?}");
            let early = |(token, &first): (usize, &u32)| first as usize <= token % shape.seq;
            assert!(document.iter().enumerate().all(early), "attention: a document begins after its token");
        }
    }

    /// `[seq, width]`: a head of some `[batch, seq, heads, width]`.
    fn head(&self, values: &'a [f32], (batch, head): (usize, usize), heads: usize, width: usize) -> View<'a> {
        head_view(values, self.shape.seq, (batch, head), heads, width)
    }

    /// `[seq, query]`.
    fn queries(&self, batch: usize, head: usize) -> View<'a> {
        self.head(self.q, (batch, head), self.shape.heads, self.shape.query())
    }

    /// `[seq, value]`.
    fn values(&self, batch: usize, kv_head: usize) -> View<'a> {
        let Shape { seq, kv_heads, nope, value, .. } = self.shape;
        match self.keys {
            Keys::Latent { kv, .. } => {
                let both = self.head(kv, (batch, kv_head), kv_heads, nope + value);
                both.sub(0..seq, nope..nope + value)
            }
            Keys::Separate { v, .. } => self.head(v, (batch, kv_head), kv_heads, value),
        }
    }

    /// Keys of a head side by side: `[tokens, query]`.
    fn stage_keys(&self, batch: usize, kv_head: usize, tokens: Range<usize>, out: &mut [f32]) {
        let Shape { seq, kv_heads, nope, rope, value, .. } = self.shape;
        let rows = out.chunks_exact_mut(nope + rope);
        for (token, out) in tokens.map(|token| batch * seq + token).zip(rows) {
            let at = token * kv_heads + kv_head;
            match self.keys {
                Keys::Latent { kv, rope: shared } => {
                    out[..nope].copy_from_slice(&kv[at * (nope + value)..][..nope]);
                    out[nope..].copy_from_slice(&shared[token * rope..][..rope]);
                }
                Keys::Separate { k, .. } => out.copy_from_slice(&k[at * nope..][..nope]),
            }
        }
    }

    /// The first key that a token sees.
    fn first_key(&self, batch: usize, token: usize) -> usize {
        self.document.map_or(0, |document| document[batch * self.shape.seq + token] as usize)
    }

    /// The beginning of the first block that some of these tokens see.
    fn first_block(&self, batch: usize, tokens: Range<usize>) -> usize {
        let first = tokens.map(|token| self.first_key(batch, token)).min().unwrap_or(0);
        first / BLOCK * BLOCK
    }

    /// Which of the `count` keys from `first` on a token sees; may be none.
    fn visible(&self, batch: usize, token: usize, first: usize, count: usize) -> Range<usize> {
        let end = (token + 1).clamp(first, first + count) - first;
        let start = self.first_key(batch, token).clamp(first, first + count) - first;
        start.min(end)..end
    }
}

fn head_view(
    values: &[f32],
    seq: usize,
    (batch, head): (usize, usize),
    heads: usize,
    width: usize,
) -> View<'_> {
    View::strided(&values[(batch * seq * heads + head) * width..], seq, width, heads * width)
}
