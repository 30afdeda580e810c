//! Multi-head latent attention over a cache of latents (V2 §2.1, App. C).
//!
//! Per token and layer the cache holds the normed latent `c^KV` and the shared rotary key `k^R`
//! and nothing else: one row of `kv_lora_rank + qk_rope_head_dim` numbers. Two forms of one
//! equation read it:
//!
//! - [`expanded`], MHA mode, for many new tokens: keys and values of every head are expanded
//!   from the latents (`W^UK c`, `W^UV c`) and attended to as usual.
//! - [`absorbed`], MQA mode, for few new tokens: `W^UK` is moved into the query and `W^UV` behind
//!   the sum, so that all heads attend to the cached rows themselves as one key and value head.
//!
//! Both are flash style: blocks of 64 keys, running maximum and sum, no `[tokens, keys]` matrix.
//!
//! **Roofline.** Absorbed decode reads each cached row once for all heads and does
//! `2 · heads · (2 · kv_lora_rank + qk_rope_head_dim)` operations on it: with 16 heads and bf16
//! rows that is 30 operations per byte, with 128 heads 240; the balance of f32 lanes and DRAM is
//! near 10. So both forms are bound by arithmetic wherever there is no tile unit, and everything
//! here is about keeping the multipliers busy. Figures: `docs/kernels/attention.md`.
//!
//! **Contract of an ISA** (`scalar.rs` and its siblings), two products of a block of keys:
//!
//! - `scores`: 16 rows of queries lie in the lanes, `[dim, 16]`; a key's numbers are broadcast
//!   one by one. The result `[keys, 16]` needs no sum across lanes, and the softmax after it goes
//!   down the keys in all lanes at once.
//! - `mix`: 16 columns of values lie in the lanes; weights are broadcast.
//!
//! A row is a head of one query (absorbed) or a query of one head (expanded); the loops cannot
//! tell. Keys and values are staged as f32 in pieces of 96 columns, in rows of a fixed stride: a loop
//! over 24 keys has one address register and 24 constants, and what it reads is in the first-level
//! cache because it was put there just before.

pub mod absorbed;
#[cfg(vector_kernels)]
mod avx2;
#[cfg(vector_kernels)]
mod avx512;
mod cache;
pub mod expanded;
mod format;
#[cfg(vector_kernels)]
mod halves;
mod scalar;
mod softmax;
#[cfg(test)]
mod tests;
#[cfg(vector_kernels)]
mod vnni;

pub use cache::{BLOCK_TOKENS, CachedRows, LatentNorm, LatentRows};
pub use format::CacheFormat;

use std::ops::Range;

use crate::Isa;

/// Rows of queries that stand in the lanes of one vector.
const LANES: usize = 16;

/// Keys of a block.
const KEYS: usize = BLOCK_TOKENS;

/// Numbers of a key that are staged and multiplied at a time: 64 keys of them, and one or two
/// vectors of queries beside them, stay in a first-level cache of 32 KiB.
const PIECE: usize = 96;

/// Numbers from one staged key to the next: an odd count of cache lines, so that the same column
/// of 64 keys is spread over all sets of a cache.
const STRIDE: usize = PIECE + LANES;

/// Numbers of one staged piece, `[KEYS, STRIDE]`.
const STAGED: usize = KEYS * STRIDE;

/// `0..width` in pieces.
fn pieces(width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..width).step_by(PIECE).map(move |first| first..width.min(first + PIECE))
}

/// Some numbers of a block of keys against the same of rows of queries.
struct Scores<'a> {
    /// `[vectors, numbers, LANES]`, vectors `apart`.
    queries: &'a [f32],
    apart: usize,
    vectors: usize,
    /// Which of the numbers; beginning with 0 overwrites `out`, else it is added to.
    piece: Range<usize>,
    /// `[KEYS, STRIDE]`
    keys: &'a [f32],
    count: usize,
    /// What will be read next.
    ahead: Ahead,
}

/// Rows of memory that are brought near while something else is computed.
#[derive(Clone, Copy)]
struct Ahead {
    first: *const u8,
    stride: usize,
    /// A row is 256 bytes, or twice that.
    long: bool,
}

impl Ahead {
    const NOTHING: Ahead = Ahead { first: std::ptr::null(), stride: 0, long: false };

    /// Rows of `len` bytes, `stride` apart.
    fn new(rows: Option<&[u8]>, stride: usize, len: usize) -> Self {
        rows.map_or(Self::NOTHING, |rows| Ahead { first: rows.as_ptr(), stride, long: len > 256 })
    }

    /// The same from row `row` on; `near` itself if there is nothing.
    fn from(self, row: usize, near: *const f32) -> Self {
        if self.first.is_null() {
            return Ahead { first: near.cast(), ..Self::NOTHING };
        }
        Ahead { first: self.first.wrapping_add(row * self.stride), ..self }
    }

    /// How often 256 bytes are in so many rows.
    #[inline(always)]
    fn parts(self, rows: usize) -> usize {
        rows << usize::from(self.long)
    }

    /// The address of the `index`th 256 bytes, counted over all rows.
    #[inline(always)]
    fn part(self, index: usize) -> *const i8 {
        let long = usize::from(self.long);
        self.first.wrapping_add((index >> long) * self.stride + (index & long) * 256).cast()
    }
}

/// `out [vectors, KEYS, LANES] (+)= keys · queries`, for the first `count` keys (what is beyond
/// them is unspecified).
fn scores(isa: Isa, job: &Scores<'_>, out: &mut [f32]) {
    let Scores { vectors, count, apart, ref piece, .. } = *job;
    assert!(count <= KEYS && piece.len() <= PIECE && vectors > 0 && out.len() == vectors * KEYS * LANES);
    assert!(job.queries.len() >= (vectors - 1) * apart + piece.end * LANES);
    assert!(job.keys.len() >= STAGED);
    match isa {
        Isa::Scalar => scalar::scores(job, out),
        #[cfg(vector_kernels)]
        Isa::Avx2 => avx2::scores(job, out),
        #[cfg(vector_kernels)]
        Isa::Avx512 | Isa::Amx => avx512::scores(job, out),
        #[cfg(not(vector_kernels))]
        _ => unreachable!("only the scalar ISA exists on this architecture"),
    }
}

/// Weighted sums of some columns of a block of values.
struct Mix<'a> {
    /// `[vectors, KEYS, LANES]`
    weights: &'a [f32],
    vectors: usize,
    /// `[KEYS, STRIDE]`
    values: &'a [f32],
    count: usize,
    /// Columns of `out`.
    cols: usize,
    /// Which of them `values` are, in whole [`LANES`].
    piece: Range<usize>,
    /// `[vectors, LANES]`: what a row's sums are multiplied by before anything is added.
    keep: &'a [f32],
}

/// `out [vectors · LANES, cols] = keep · out + weights · values`.
fn mix(isa: Isa, job: &Mix<'_>, out: &mut [f32]) {
    let Mix { vectors, count, cols, ref piece, .. } = *job;
    assert!(count <= KEYS && job.weights.len() == vectors * KEYS * LANES && job.values.len() >= STAGED);
    assert!(piece.len() <= PIECE && piece.len().is_multiple_of(LANES) && piece.end <= cols);
    assert!(job.keep.len() == vectors * LANES && out.len() == vectors * LANES * cols);
    match isa {
        Isa::Scalar => scalar::mix(job, out),
        #[cfg(vector_kernels)]
        Isa::Avx2 => avx2::mix(job, out),
        #[cfg(vector_kernels)]
        Isa::Avx512 | Isa::Amx => avx512::mix(job, out),
        #[cfg(not(vector_kernels))]
        _ => unreachable!("only the scalar ISA exists on this architecture"),
    }
}
