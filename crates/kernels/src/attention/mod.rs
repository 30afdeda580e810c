//! Multi-head latent attention over a cache of latents (V2 §2.1, App. C).
//!
//! Per token and layer the cache holds the normed latent `c^KV` and the shared rotary key `k^R`
//! and nothing else: one row of `kv_lora_rank + qk_rope_head_dim` numbers. Two forms of one
//! equation read it:
//!
//! - [`expanded`], MHA mode, for many new tokens: keys and values of every head are expanded
//!   from the latents (`W^UK c`, `W^UV c`) and attended to as usual, flash style: blocks of keys,
//!   running maximum and sum, no `[tokens, keys]` matrix.
//! - [`absorbed`], MQA mode, for few new tokens: `W^UK` is moved into the query and `W^UV` behind
//!   the sum, so that all heads attend to the cached rows themselves as one key and value head.
//!
//! **Roofline.** Absorbed decode reads each cached row once per group of [`absorbed::GROUP`]
//! heads and does `2 · heads · (2 · kv_lora_rank + qk_rope_head_dim)` operations on it: with 16
//! heads and bf16 rows that is 30 operations per byte, near the balance of AVX-512 and DRAM.
//! Expanded prefill is bound by arithmetic.
//!
//! Both rest on two loops per ISA: `scores` (`a · bᵀ` of row-major operands) and `mix`
//! (`out += p · v`).

pub mod absorbed;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cache;
pub mod expanded;
mod scalar;
#[cfg(test)]
mod tests;

pub use cache::{BLOCK_TOKENS, CacheFormat, CachedRows, LatentRows};

use crate::Isa;
use crate::math::{exp, multiply_by, per_isa};

/// A row-major operand: rows of `cols` numbers, `stride` apart.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    stride: usize,
}

impl<'a> Matrix<'a> {
    fn new(values: &'a [f32], rows: usize, stride: usize) -> Self {
        Self { values, rows, stride }
    }

    fn check(&self, cols: usize) {
        let end =
            self.rows.saturating_sub(1).checked_mul(self.stride).and_then(|last| last.checked_add(cols));
        assert!(self.rows == 0 || end.is_some_and(|end| end <= self.values.len()));
    }
}

/// `out [a.rows, b.rows] (+)= a [a.rows, dim] · bᵀ [b.rows, dim]`, `out` dense.
fn scores(isa: Isa, a: Matrix<'_>, b: Matrix<'_>, dim: usize, out: &mut [f32], accumulate: bool) {
    a.check(dim);
    b.check(dim);
    assert_eq!(out.len(), a.rows * b.rows);
    match isa {
        Isa::Scalar => scalar::scores(a, b, dim, out, accumulate),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::scores(a, b, dim, out, accumulate),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => avx512::scores(a, b, dim, out, accumulate),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("only the scalar ISA exists on this architecture"),
    }
}

/// `out [p.rows, dim] += p [p.rows, v.rows] · v [v.rows, dim]`, `out` dense.
fn mix(isa: Isa, p: Matrix<'_>, v: Matrix<'_>, dim: usize, out: &mut [f32]) {
    p.check(v.rows);
    v.check(dim);
    assert_eq!(out.len(), p.rows * dim);
    match isa {
        Isa::Scalar => scalar::mix(p, v, dim, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::mix(p, v, dim, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => avx512::mix(p, v, dim, out),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("only the scalar ISA exists on this architecture"),
    }
}

/// Running softmax of one query: the largest score so far and the sum of `e^(score - max)`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Running {
    max: f32,
    sum: f32,
}

impl Running {
    const EMPTY: Running = Running { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Takes in the next scores of one query, turning them into weights relative to the new
    /// maximum, and rescales what was accumulated so far.
    fn absorb(&mut self, isa: Isa, scores: &mut [f32], scale: f32, accumulated: &mut [f32]) {
        let (before, sum) = (*self, self.sum);
        let (max, added) = weigh(isa, scores, scale, before.max);
        let shrink = if before.max == f32::NEG_INFINITY { 0.0 } else { exp(before.max - max) };
        *self = Running { max, sum: sum * shrink + added };
        if shrink != 1.0 {
            multiply_by(isa, accumulated, shrink);
        }
    }
}

per_isa! {
    /// Turns scores into `e^(score · scale - max)`, `max` being the largest scaled score or `so_far`;
    /// returns the maximum and the sum.
    fn weigh(scores: &mut [f32], scale: f32, so_far: f32) -> (f32, f32) {
        let mut lanes = [so_far; 16];
        let (chunks, rest) = scores.as_chunks::<16>();
        for chunk in chunks {
            for (lane, score) in lanes.iter_mut().zip(chunk) {
                let score = score * scale;
                *lane = if score > *lane { score } else { *lane };
            }
        }
        let max = lanes.iter().copied().chain(rest.iter().map(|score| score * scale)).fold(so_far, f32::max);
        scores.iter_mut().for_each(|score| *score = exp(*score * scale - max));
        let mut lanes = [0.0f32; 16];
        let (chunks, rest) = scores.as_chunks::<16>();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(lane, weight)| *lane += weight);
        }
        (max, lanes.iter().sum::<f32>() + rest.iter().sum::<f32>())
    }
}
