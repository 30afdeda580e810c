//! The two products in 16 lanes of f32, two numbers of bf16 to a lane (`vdpbf16ps`).
//!
//! `scores`: 24 keys by one vector of rows, or 12 by two: 24 sums. A pair of a key's numbers is broadcast from where it
//! lies. `mix`: 8 rows by 2 registers of columns; a pair of a row's weights is broadcast.
//!
//! **Roofline.** Half the instructions of f32 lanes, and keys need not be staged. Where the processor starts two a
//! cycle (Zen 5) the rate is twice that of f32; where it starts one (Sapphire Rapids) it is the same.

use std::arch::x86_64::{
    __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_dpbf16_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{KEYS, LANES, STEP, WEIGHTS, pair_stride};
use crate::attention::avx512::opaque;

/// Numbers from key to key of the caches, their rotary parts and staged keys of the released models: rows are then
/// addressed by constants.
const CACHED: usize = 576;
const ROTARY: usize = 64;
const STAGED: usize = 224;

/// Whether the processor has the instruction.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

/// # Safety
/// Lengths are as [`super::Unit::scores`] checks them, vectors of queries `apart`; [`available`].
pub(super) unsafe fn scores(
    (keys, key_stride): (&[u16], usize),
    count: usize,
    dim: usize,
    (queries, apart): (&[u16], usize),
    ahead: &[u8],
    out: &mut [f32],
) {
    let vectors = out.len() / (KEYS * LANES);
    for vector in (0..vectors).step_by(2) {
        // Once is enough, if there is anything.
        let far = (vector == 0 && !ahead.is_empty()).then_some(ahead);
        let mut key = 0;
        while key < count {
            let tile = ScoreTile {
                queries: queries[vector * apart..].as_ptr().cast(),
                query_words: apart / 2,
                keys: keys[key * key_stride..].as_ptr().cast(),
                key_words: key_stride / 2,
                pairs: dim / 2,
                ahead: far
                    .map_or(keys.as_ptr().cast(), |far| far.as_ptr().wrapping_add(key * far.len() / KEYS)),
                ahead_step: if far.is_some() { 128 } else { 0 },
                out: out[(vector * KEYS + key) * LANES..].as_mut_ptr(),
            };
            let two = vector + 1 < vectors;
            // SAFETY: this function's contract. Tiles round the count up, but not beyond KEYS.
            key += unsafe {
                match key_stride {
                    CACHED => tile.widest::<{ CACHED / 2 }>(two, count - key),
                    ROTARY => tile.widest::<{ ROTARY / 2 }>(two, count - key),
                    STAGED => tile.widest::<{ STAGED / 2 }>(two, count - key),
                    _ if two => tile.run::<4, 2, 0>(),
                    _ => tile.run::<8, 1, 0>(),
                }
            };
        }
    }
}

/// Pairs of a cache line.
const LINE: usize = STEP / 2;

struct ScoreTile {
    queries: *const u32,
    query_words: usize,
    keys: *const u32,
    key_words: usize,
    pairs: usize,
    ahead: *const u8,
    ahead_step: usize,
    out: *mut f32,
}

impl ScoreTile {
    /// As many of `left` keys as a tile takes.
    ///
    /// # Safety
    /// As [`ScoreTile::run`].
    unsafe fn widest<const WORDS: usize>(&self, two: bool, left: usize) -> usize {
        // SAFETY: this function's contract.
        unsafe {
            match (two, left) {
                (true, 9..) => self.run::<12, 2, WORDS>(),
                (true, 5..) => self.run::<8, 2, WORDS>(),
                (true, _) => self.run::<4, 2, WORDS>(),
                (false, 17..) => self.run::<24, 1, WORDS>(),
                (false, 9..) => self.run::<16, 1, WORDS>(),
                (false, _) => self.run::<8, 1, WORDS>(),
            }
        }
    }

    /// `K` keys, `WORDS` apart if that is not 0, by `R` vectors; returns `K`.
    ///
    /// # Safety
    /// There are `pairs` of numbers in `R` vectors of queries and in `K` keys, and room for `R` times `K` rows of 16;
    /// [`available`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn run<const K: usize, const R: usize, const WORDS: usize>(&self) -> usize {
        let key_words = if WORDS > 0 { WORDS } else { self.key_words };
        let mut sums = [[_mm512_setzero_ps(); K]; R];
        let (mut queries, mut keys) = (self.queries, self.keys);
        let mut far = self.ahead;
        for _ in 0..self.pairs / LINE {
            // The next line of every key, while this one is used.
            let mut ahead = keys.wrapping_add(LINE);
            for _ in 0..LINE {
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                if K > LINE {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(K / 2 * key_words).cast());
                }
                ahead = ahead.wrapping_add(key_words);
                _mm_prefetch::<_MM_HINT_T1>(far.cast());
                _mm_prefetch::<_MM_HINT_T1>(far.wrapping_add(64).cast());
                far = far.wrapping_add(self.ahead_step);
                (queries, keys) = (opaque(queries), opaque(keys));
                // SAFETY: a pair is left, here and below.
                let row = |r: usize| unsafe { _mm512_loadu_si512(queries.add(r * self.query_words).cast()) };
                let rows: [__m512i; R] = std::array::from_fn(row);
                for k in 0..K {
                    // SAFETY: as above.
                    let pair = unsafe { keys.add(k * key_words).read_unaligned() };
                    let pair = halves(_mm512_set1_epi32(pair.cast_signed()));
                    for r in 0..R {
                        sums[r][k] = _mm512_dpbf16_ps(sums[r][k], halves(rows[r]), pair);
                    }
                }
                (queries, keys) = (queries.wrapping_add(LANES), keys.wrapping_add(1));
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (k, &sum) in sums.iter().enumerate() {
                // SAFETY: this function's contract.
                unsafe { _mm512_storeu_ps(self.out.add((r * KEYS + k) * LANES), sum) };
            }
        }
        K
    }
}

/// The same bits as pairs of bf16.
#[inline(always)]
fn halves(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes for which every value is valid.
    unsafe { std::mem::transmute(bits) }
}

/// Rows and registers of columns of a tile of `mix`.
const ROWS: usize = 8;
const COLS: usize = 2;

/// # Safety
/// Lengths are as [`super::Unit::mix`] checks them; [`available`].
pub(super) unsafe fn mix(weights: &[u32], values: &[u32], count: usize, cols: usize, out: &mut [f32]) {
    let vectors = weights.len() / WEIGHTS;
    for col in (0..cols).step_by(COLS * LANES) {
        for row in (0..vectors * LANES).step_by(ROWS) {
            let weights = weights[row * KEYS / 2..].as_ptr();
            let out = out[row * cols + col..].as_mut_ptr();
            // SAFETY: this function's contract; rows of weights follow each other, vector by vector.
            unsafe { mix_tile(weights, values[col..].as_ptr(), count.div_ceil(2), cols, out) };
        }
    }
}

/// # Safety
/// `weights` has 8 rows of 32 pairs, `values` `pairs` times 32 columns, `out` 8 rows of 32, `cols` apart;
/// [`available`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn mix_tile(weights: *const u32, values: *const u32, pairs: usize, cols: usize, out: *mut f32) {
    let stride = pair_stride(cols);
    let mut sums = [[_mm512_setzero_ps(); COLS]; ROWS];
    let (mut weights, mut values) = (weights, values);
    for _ in 0..pairs {
        weights = opaque(weights);
        // SAFETY: a pair is left, here and below.
        let value = |c: usize| unsafe { _mm512_loadu_si512(values.add(c * LANES).cast()) };
        let columns: [__m512i; COLS] = std::array::from_fn(value);
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let weight = halves(_mm512_set1_epi32(unsafe { *weights.add(r * KEYS / 2) }.cast_signed()));
            for c in 0..COLS {
                sums[c] = _mm512_dpbf16_ps(sums[c], weight, halves(columns[c]));
            }
        }
        (weights, values) = (weights.wrapping_add(1), values.wrapping_add(stride));
    }
    for (r, sums) in sums.iter().enumerate() {
        for (c, &sum) in sums.iter().enumerate() {
            // SAFETY: this function's contract.
            unsafe {
                let out = out.add(r * cols + c * LANES);
                _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), sum));
            }
        }
    }
}
