//! The two products of a block of keys in bf16: on the tile unit, or two numbers to a 32-bit lane.
//!
//! `scores`: keys straight from the cache, which has their numbers in pairs, times queries packed in pairs,
//! `[dim / 2, 16 rows, 2]`, into `[keys, 16 rows]` as everywhere. `mix`: weights `[16 rows, keys]` times
//! values of which two keys at a time are interleaved, once per block and all rows.
//!
//! Queries and weights are rounded to bf16, as activations are before every product with bf16 weights;
//! sums are f32.
#![allow(clippy::needless_range_loop, reason = "indices also address rows behind pointers")]

mod lanes;
mod tiles;

use std::arch::x86_64::{
    __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_or_si512, _mm512_permutex2var_epi16, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::{KEYS, LANES};
use crate::Isa;

/// Numbers of keys and queries that are taken at a time.
pub(super) const STEP: usize = 32;

/// Columns that [`Unit::mix`] takes at a time.
pub(super) const COLS: usize = 32;

/// Words from one pair of interleaved keys to the next: an odd count of cache lines.
pub(super) fn pair_stride(cols: usize) -> usize {
    cols + if (cols / 16).is_multiple_of(2) { 16 } else { 0 }
}

/// What multiplies.
pub(super) enum Unit {
    Tiles(tiles::Unit),
    /// `vdpbf16ps`: two products to a lane.
    Lanes,
}

impl Unit {
    /// Whether there is one.
    pub(super) fn available(isa: Isa) -> bool {
        isa == Isa::Amx || isa == Isa::Avx512 && lanes::available()
    }

    /// The better one, set up. Threads of their own have units of their own.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn of(isa: Isa) -> Self {
        assert!(Self::available(isa));
        match isa {
            // SAFETY: an Isa is in use only where it was detected, or emulated.
            Isa::Amx => Unit::Tiles(unsafe { tiles::Unit::new() }),
            _ => Unit::Lanes,
        }
    }

    /// `out [vectors, KEYS, LANES] = keys · queries`, for the first `count` keys (what is beyond them is
    /// unspecified). `keys` are the rows of a whole block, `key_stride` numbers apart;
    /// `queries [vectors, dim / 2, LANES, 2]` bf16. Lanes bring `ahead` near meanwhile; where there are tiles,
    /// [`Unit::interleave`] does.
    pub(super) fn scores(
        &self,
        (keys, key_stride): (&[u16], usize),
        count: usize,
        dim: usize,
        queries: &[u16],
        ahead: &[u8],
        out: &mut [f32],
    ) {
        assert!(dim > 0 && dim.is_multiple_of(STEP) && dim <= key_stride && keys.len() >= KEYS * key_stride);
        let vectors = out.len() / (KEYS * LANES);
        assert!(out.len() == vectors * KEYS * LANES && queries.len() == vectors * dim * LANES);
        assert!(count <= KEYS);
        // SAFETY: the asserts above, and there is what multiplies.
        unsafe {
            match self {
                Unit::Tiles(unit) => unit.scores(keys, key_stride, dim, queries, out),
                Unit::Lanes => {
                    lanes::scores((keys, key_stride), count, dim, (queries, dim * LANES), ahead, out)
                }
            }
        }
    }

    /// Two keys at a time: `out [KEYS / 2, pair_stride(cols)]`, a word holding a column of both. Keys from
    /// `count` on are zero, whatever stands there. `ahead` as for [`Unit::scores`].
    pub(super) fn interleave(
        &self,
        (keys, key_stride): (&[u16], usize),
        count: usize,
        cols: usize,
        ahead: &[u8],
        out: &mut [u32],
    ) {
        assert!(cols.is_multiple_of(COLS) && cols <= key_stride && count <= KEYS);
        assert!(keys.len() >= KEYS * key_stride && out.len() >= KEYS / 2 * pair_stride(cols));
        let ahead = match self {
            Unit::Tiles(_) => ahead,
            Unit::Lanes => &[],
        };
        // SAFETY: the asserts above; what has a unit has AVX-512 BW.
        unsafe { interleave_pairs(keys, key_stride, count, cols, ahead, out) }
    }

    /// `out [vectors · LANES, cols] += weights · values` of the first `count` keys, `weights [vectors, WEIGHTS]`
    /// from [`weights`], `values` from [`Unit::interleave`].
    pub(super) fn mix(&self, weights: &[u32], values: &[u32], count: usize, cols: usize, out: &mut [f32]) {
        let stride = pair_stride(cols);
        assert!(cols > 0 && cols.is_multiple_of(COLS) && values.len() >= KEYS / 2 * stride && count <= KEYS);
        assert!(weights.len().is_multiple_of(WEIGHTS) && out.len() == weights.len() / WEIGHTS * LANES * cols);
        // SAFETY: the asserts above, and there is what multiplies.
        unsafe {
            match self {
                Unit::Tiles(unit) => unit.mix(weights, values, cols, out),
                Unit::Lanes => lanes::mix(weights, values, count, cols, out),
            }
        }
    }
}

/// Whether [`scores_in_lanes`] has what it needs.
pub(super) fn in_lanes(isa: Isa) -> bool {
    isa >= Isa::Avx512 && lanes::available()
}

/// As [`Unit::scores`], in lanes whatever else there is, of rows of keys side by side and vectors of queries
/// `apart` numbers from each other.
///
/// # Panics
/// If a length does not fit or [`in_lanes`] says no.
pub(super) fn scores_in_lanes(
    isa: Isa,
    keys: &[u16],
    count: usize,
    (queries, apart): (&[u16], usize),
    out: &mut [f32],
) {
    let (dim, vectors) = (keys.len() / KEYS, out.len() / (KEYS * LANES));
    assert!(in_lanes(isa) && dim > 0 && dim.is_multiple_of(STEP) && keys.len() == KEYS * dim);
    assert!(vectors > 0 && out.len() == vectors * KEYS * LANES && count <= KEYS);
    assert!(apart.is_multiple_of(2) && queries.len() >= (vectors - 1) * apart + dim * LANES);
    // SAFETY: the asserts above.
    unsafe { lanes::scores((keys, dim), count, dim, (queries, apart), &[], out) }
}

/// # Safety
/// As [`Unit::interleave`] checks; the CPU has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleave_pairs(
    keys: &[u16],
    key_stride: usize,
    count: usize,
    cols: usize,
    ahead: &[u8],
    out: &mut [u32],
) {
    let mut order = [[0u16; 32]; 2];
    for (i, place) in order.as_flattened_mut().iter_mut().enumerate() {
        *place = (i / 2 + i % 2 * 32) as u16;
    }
    // SAFETY: 32 numbers each.
    let (low, high): (__m512i, __m512i) = unsafe {
        (_mm512_loadu_si512(order[0].as_ptr().cast()), _mm512_loadu_si512(order[1].as_ptr().cast()))
    };
    let stride = pair_stride(cols);
    let turns = KEYS / 2 * (cols / COLS);
    let each = ahead.len().div_ceil(64).div_ceil(turns);
    let mut line = 0;
    for pair in 0..KEYS / 2 {
        for col in (0..cols).step_by(COLS) {
            for _ in 0..each {
                _mm_prefetch::<_MM_HINT_T1>(ahead.as_ptr().wrapping_add(64 * line).cast());
                line += 1;
            }
            let row = |key: usize| {
                if key < count {
                    // SAFETY: 32 numbers of a key, by this function's contract.
                    unsafe { _mm512_loadu_si512(keys.as_ptr().add(key * key_stride + col).cast()) }
                } else {
                    _mm512_setzero_si512()
                }
            };
            let (a, b) = (row(2 * pair), row(2 * pair + 1));
            // SAFETY: 32 words of the pair, by this function's contract.
            unsafe {
                let to = out.as_mut_ptr().add(pair * stride + col);
                _mm512_storeu_si512(to.cast(), _mm512_permutex2var_epi16(a, low, b));
                _mm512_storeu_si512(to.add(16).cast(), _mm512_permutex2var_epi16(a, high, b));
            }
        }
    }
}

/// Words of one vector's weights: `[LANES, KEYS]` bf16.
pub(super) const WEIGHTS: usize = LANES * KEYS / 2;

/// Weights of one vector, `[count, LANES]`, to bf16 `[LANES, KEYS]`; those of keys from `count` on are 0.
pub(super) fn weights(weights: &[[f32; LANES]], out: &mut [u32]) {
    assert!(weights.len() <= KEYS && out.len() == WEIGHTS);
    // SAFETY: the asserts above; what has a unit has AVX-512 F.
    unsafe { round_weights(weights, out) }
}

/// # Safety
/// As [`weights`] checks; the CPU has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn round_weights(weights: &[[f32; LANES]], out: &mut [u32]) {
    // bf16 bits in the upper half, nearest, ties to even; weights are finite.
    let rounded = |key: usize| match weights.get(key) {
        Some(weights) => {
            // SAFETY: 16 numbers.
            let bits = _mm512_castps_si512(unsafe { _mm512_loadu_ps(weights.as_ptr()) });
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)))
        }
        None => _mm512_setzero_si512(),
    };
    for half in 0..2 {
        let mut pairs = [_mm512_setzero_si512(); LANES];
        for (pair, words) in pairs.iter_mut().enumerate() {
            let key = half * STEP + 2 * pair;
            let upper = _mm512_and_si512(rounded(key + 1), _mm512_set1_epi32(0xffff_0000u32.cast_signed()));
            *words = _mm512_or_si512(_mm512_srli_epi32::<16>(rounded(key)), upper);
        }
        // SAFETY: the CPU has AVX-512 F, by this function's contract.
        let rows = unsafe { transpose(pairs) };
        for (row, words) in rows.into_iter().enumerate() {
            // SAFETY: 16 words of a row, which has 32.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(row * KEYS / 2 + half * LANES).cast(), words) };
        }
    }
}

/// A 16 × 16 square of words, rows to columns.
///
/// # Safety
/// The CPU has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // quads[4 i + j]: column j of each 128-bit lane, of rows 4 i to 4 i + 3.
    let mut quads = pairs;
    for i in 0..4 {
        for j in 0..2 {
            quads[4 * i + 2 * j] = _mm512_unpacklo_epi64(pairs[4 * i + j], pairs[4 * i + j + 2]);
            quads[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[4 * i + j], pairs[4 * i + j + 2]);
        }
    }
    let mut out = quads;
    for j in 0..4 {
        let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
        let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        out[4 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low);
        out[8 + j] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
    }
    out
}
