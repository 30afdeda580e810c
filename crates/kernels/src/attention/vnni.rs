//! The two products of a block of int8 keys, four numbers to a 32-bit lane (`vpdpbusd`).
//!
//! `scores`: 16 rows of queries as unsigned bytes (`q + 128`) in the lanes, four numbers each; four
//! numbers of a key are broadcast from where they lie in the cache. The 128 is taken back by beginning with -128
//! times the sum of the key's numbers, which the cache stores. `mix`: 16 columns of values in the lanes, four keys each;
//! four weights of a row are broadcast. A scale per key cannot leave the sum over keys, so it is
//! multiplied into the weights before they are rounded to bytes.
//!
//! Both run at four times the f32 rate, if conversions (two instructions per 16 sums and group of 128
//! numbers, or block of 64 keys) and the rounding of weights are left out of account.
#![allow(clippy::needless_range_loop, reason = "indices also address rows behind pointers")]

use std::arch::x86_64::{
    __m512i, _CMP_GT_OQ, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps,
    _mm512_cvtps_epi32, _mm512_div_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32,
    _mm512_storeu_ps, _mm512_storeu_si512, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16, _mm512_unpacklo_epi8,
    _mm512_unpacklo_epi16,
};

use std::ops::Range;

use super::avx512::opaque;
use super::format::GROUP;
use super::{KEYS, LANES};
use crate::Isa;

/// Columns whose order [`stage`] mixes.
pub(super) const MIXED: usize = 64;

/// Whether the processor multiplies bytes.
pub(super) fn available(isa: Isa) -> bool {
    isa >= Isa::Avx512 && is_x86_feature_detected!("avx512vnni")
}

/// The numbers of a block of keys against those of rows of queries.
pub(super) struct Scores<'a> {
    /// `[vectors, numbers / 4, LANES]` unsigned bytes by four, vectors `apart`.
    pub(super) queries: &'a [u32],
    /// `[vectors, groups, LANES]`, vectors `apart`.
    pub(super) query_scales: &'a [f32],
    pub(super) apart: usize,
    pub(super) vectors: usize,
    /// Numbers of a key by four, the last ones filled up.
    pub(super) quads: usize,
    /// `[KEYS, row_bytes]` as cached.
    pub(super) keys: &'a [u8],
    pub(super) row_bytes: usize,
    pub(super) count: usize,
    /// `[KEYS, groups]`
    pub(super) key_scales: &'a [f32],
    /// -128 times the sum of each group's numbers, `[KEYS, groups]`.
    pub(super) key_sums: &'a [i32],
    /// What will be read next.
    pub(super) ahead: &'a [u8],
}

/// Bytes from key to key in the caches of the released models: rows are then addressed by constants.
const CACHED: usize = 512;

/// Numbers of a group by four.
const GROUP_QUADS: usize = GROUP / 4;

/// Numbers of a cache line by four.
const LINE_QUADS: usize = 16;

/// `out [vectors, KEYS, LANES] += keys · queries`, for the first `count` keys (what is beyond them is unspecified).
pub(super) fn scores(job: &Scores<'_>, out: &mut [f32]) {
    let Scores { vectors, count, quads, apart, row_bytes, .. } = *job;
    let groups = quads.div_ceil(GROUP_QUADS);
    assert!(count <= KEYS && 4 * quads <= row_bytes && job.keys.len() >= KEYS * row_bytes);
    assert!(out.len() == vectors * KEYS * LANES && vectors > 0);
    assert!(job.queries.len() >= (vectors - 1) * apart + quads * LANES);
    assert!(job.query_scales.len() >= (vectors - 1) * apart + groups * LANES);
    // Tiles round the count up.
    assert!(job.key_scales.len() == KEYS * groups && job.key_sums.len() == KEYS * groups);
    for vector in (0..vectors).step_by(2) {
        let mut key = 0;
        while key < count {
            let out = out[(vector * KEYS + key) * LANES..].as_mut_ptr();
            let tile = ScoreTile { job, groups, vector, key, out };
            let two = vector + 1 < vectors;
            // SAFETY: the asserts above bound everything but the ISA, which `available` told of.
            key += unsafe {
                match row_bytes {
                    CACHED => tile.widest::<CACHED>(two, count - key),
                    _ if two => tile.run::<4, 2, 0>(),
                    _ => tile.run::<8, 1, 0>(),
                }
            };
        }
    }
}

struct ScoreTile<'a> {
    job: &'a Scores<'a>,
    groups: usize,
    vector: usize,
    key: usize,
    out: *mut f32,
}

impl ScoreTile<'_> {
    /// As many of `left` keys as a tile takes.
    ///
    /// # Safety
    /// As [`ScoreTile::run`].
    unsafe fn widest<const BYTES: usize>(&self, two: bool, left: usize) -> usize {
        // SAFETY: this function's contract.
        unsafe {
            match (two, left) {
                (true, 9..) => self.run::<12, 2, BYTES>(),
                (true, 5..) => self.run::<8, 2, BYTES>(),
                (true, _) => self.run::<4, 2, BYTES>(),
                (false, 17..) => self.run::<24, 1, BYTES>(),
                (false, 9..) => self.run::<16, 1, BYTES>(),
                (false, _) => self.run::<8, 1, BYTES>(),
            }
        }
    }

    /// `K` keys, `BYTES` apart if that is not 0, by `R` vectors; returns `K`.
    ///
    /// # Safety
    /// The job holds what its shapes say, for `K` keys from `key` on and `R` vectors from `vector`
    /// on; `out` has `R` times `K` rows of 16; the CPU has AVX-512 VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run<const K: usize, const R: usize, const BYTES: usize>(&self) -> usize {
        let &ScoreTile { job, groups, vector, key, out } = self;
        let row_bytes = if BYTES > 0 { BYTES } else { job.row_bytes };
        let mut queries = job.queries.as_ptr().wrapping_add(vector * job.apart);
        let first = job.keys.as_ptr().wrapping_add(key * row_bytes);
        let mut keys = first;
        // Once is enough, if there is anything.
        let (mut far, far_step) = match job.ahead.len() {
            1.. if vector == 0 => (job.ahead.as_ptr().wrapping_add(key * job.ahead.len() / KEYS), 128),
            _ => (first, 0),
        };
        for group in 0..groups {
            let quads = GROUP_QUADS.min(job.quads - group * GROUP_QUADS);
            let mut sums = [[_mm512_setzero_si512(); K]; R];
            for k in 0..K {
                // SAFETY: this function's contract, here and below.
                let sum = unsafe { *job.key_sums.as_ptr().add((key + k) * groups + group) };
                (0..R).for_each(|r| sums[r][k] = _mm512_set1_epi32(sum));
            }
            for line in (0..quads).step_by(LINE_QUADS) {
                // The next line of every key, while this one is used; after the last, the first of the next keys.
                let last = group * GROUP_QUADS + line + LINE_QUADS >= job.quads;
                let mut near = if last { first.wrapping_add(K * row_bytes) } else { keys.wrapping_add(64) };
                for _ in 0..LINE_QUADS.min(quads - line) {
                    _mm_prefetch::<_MM_HINT_T0>(near.cast());
                    if K > LINE_QUADS {
                        _mm_prefetch::<_MM_HINT_T0>(near.wrapping_add(K / 2 * row_bytes).cast());
                    }
                    near = near.wrapping_add(row_bytes);
                    _mm_prefetch::<_MM_HINT_T1>(far.cast());
                    _mm_prefetch::<_MM_HINT_T1>(far.wrapping_add(64).cast());
                    far = far.wrapping_add(far_step);
                    (queries, keys) = (opaque(queries), opaque(keys));
                    // SAFETY: a quad is left.
                    let row = |r: usize| unsafe { _mm512_loadu_si512(queries.add(r * job.apart).cast()) };
                    let rows: [__m512i; R] = std::array::from_fn(row);
                    for k in 0..K {
                        // SAFETY: as above.
                        let numbers = unsafe { keys.add(k * row_bytes).cast::<i32>().read_unaligned() };
                        let numbers = _mm512_set1_epi32(numbers);
                        for r in 0..R {
                            sums[r][k] = _mm512_dpbusd_epi32(sums[r][k], rows[r], numbers);
                        }
                    }
                    (queries, keys) = (queries.wrapping_add(LANES), keys.wrapping_add(4));
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let scales = (vector + r) * job.apart + group * LANES;
                // SAFETY: as above.
                let query = unsafe { _mm512_loadu_ps(job.query_scales.as_ptr().add(scales)) };
                for (k, &sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let scale = _mm512_set1_ps(*job.key_scales.as_ptr().add((key + k) * groups + group));
                        let out = out.add((r * KEYS + k) * LANES);
                        let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
                        _mm512_storeu_ps(out, _mm512_fmadd_ps(sum, query, _mm512_loadu_ps(out)));
                    }
                }
            }
        }
        K
    }
}

/// Numbers that [`weights`] writes for one vector: `[KEYS / 4, LANES]` unsigned bytes by four.
pub(super) const WEIGHTS: usize = KEYS / 4 * LANES;

/// Rounds the weights `[count, LANES]` of one vector, each times its key's scale (`groups` apart), to
/// unsigned bytes relative to the largest of the block in each row; `scales` turns them back.
pub(super) fn weights(
    weights: &[[f32; LANES]],
    key_scales: &[f32],
    groups: usize,
    out: &mut [u32],
    scales: &mut [f32; LANES],
) {
    assert!(weights.len() <= KEYS && out.len() == WEIGHTS);
    assert!(weights.is_empty() || key_scales.len() > (weights.len() - 1) * groups);
    // SAFETY: the asserts above; the caller asked `available`.
    unsafe { round_weights(weights, key_scales, groups, out, scales) }
}

/// # Safety
/// As [`weights`] checks; the CPU has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn round_weights(
    weights: &[[f32; LANES]],
    key_scales: &[f32],
    groups: usize,
    out: &mut [u32],
    scales: &mut [f32; LANES],
) {
    // SAFETY: key counts the weights, for each of which there is a scale.
    let weight = |key: usize| unsafe {
        let scale = _mm512_set1_ps(*key_scales.get_unchecked(key * groups));
        _mm512_mul_ps(_mm512_loadu_ps(weights.get_unchecked(key).as_ptr()), scale)
    };
    let mut largest = _mm512_setzero_ps();
    for key in 0..weights.len() {
        largest = _mm512_max_ps(largest, weight(key));
    }
    let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, _mm512_set1_ps(f32::MIN_POSITIVE * 255.0));
    let inverse = _mm512_maskz_mov_ps(some, _mm512_div_ps(_mm512_set1_ps(255.0), largest));
    // SAFETY: 16 numbers.
    unsafe { _mm512_storeu_ps(scales.as_mut_ptr(), _mm512_mul_ps(largest, _mm512_set1_ps(1.0 / 255.0))) };
    for (quad, out) in out.chunks_exact_mut(LANES).enumerate() {
        let mut bytes = _mm512_setzero_si512();
        let keys = 4 * quad..weights.len().min(4 * quad + 4);
        if keys.len() == 4 {
            let byte = |k: usize| _mm512_cvtps_epi32(_mm512_mul_ps(weight(4 * quad + k), inverse));
            let low = _mm512_or_si512(byte(0), _mm512_slli_epi32::<8>(byte(1)));
            let high = _mm512_or_si512(byte(2), _mm512_slli_epi32::<8>(byte(3)));
            bytes = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
        } else {
            for key in keys.rev() {
                let byte = _mm512_cvtps_epi32(_mm512_mul_ps(weight(key), inverse));
                bytes = _mm512_or_si512(_mm512_slli_epi32::<8>(bytes), byte);
            }
        }
        // SAFETY: 16 numbers.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), bytes) };
    }
}

/// Stages columns of a block of keys, `stride` apart, four keys at a time, in `values [KEYS / 4, cols]`.
///
/// There are whole [`MIXED`] of columns, and within as many of `values` the order is mixed: place
/// `16 j + 4 l + i` holds column `16 l + 4 j + i`.
pub(super) fn stage(numbers: &[u8], stride: usize, cols: Range<usize>, values: &mut [u32]) {
    assert!(cols.len().is_multiple_of(MIXED) && cols.end <= stride);
    assert!(numbers.len() >= KEYS * stride);
    assert!(values.len() >= KEYS / 4 * cols.len());
    // SAFETY: the asserts above; the caller asked `available`.
    unsafe { stage_quads(numbers, stride, cols, values) }
}

/// # Safety
/// As [`stage`] checks; the CPU has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn stage_quads(numbers: &[u8], stride: usize, cols: Range<usize>, values: &mut [u32]) {
    for quad in 0..KEYS / 4 {
        for col in (0..cols.len()).step_by(MIXED) {
            let mut rows = [_mm512_setzero_si512(); 4];
            for (key, row) in rows.iter_mut().enumerate() {
                // SAFETY: 64 numbers of a key, by this function's contract.
                *row = unsafe {
                    let from = numbers.as_ptr().add((4 * quad + key) * stride + cols.start + col);
                    _mm512_loadu_si512(from.cast())
                };
            }
            let [a, b, c, d] = rows;
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            let quads = [
                _mm512_unpacklo_epi16(ab, cd),
                _mm512_unpackhi_epi16(ab, cd),
                _mm512_unpacklo_epi16(ab_high, cd_high),
                _mm512_unpackhi_epi16(ab_high, cd_high),
            ];
            for (j, quads) in quads.into_iter().enumerate() {
                // SAFETY: 64 places of the quad's, by this function's contract.
                unsafe {
                    let to = values.as_mut_ptr().add(quad * cols.len() + col + j * LANES);
                    _mm512_storeu_si512(to.cast(), quads);
                }
            }
        }
    }
}

/// Puts the mixed columns of sums into order.
pub(super) fn unmix(sums: &mut [f32]) {
    for sums in sums.as_chunks_mut::<MIXED>().0 {
        let mixed = *sums;
        for (place, value) in mixed.into_iter().enumerate() {
            let (j, l, i) = (place / 16, place / 4 % 4, place % 4);
            sums[16 * l + 4 * j + i] = value;
        }
    }
}

/// Weighted sums of a group of columns of a block of values.
pub(super) struct Mix<'a> {
    /// `[vectors, WEIGHTS]`
    pub(super) weights: &'a [u32],
    /// `[vectors, LANES]`
    pub(super) weight_scales: &'a [f32],
    pub(super) vectors: usize,
    /// `[KEYS / 4, width]`, from [`stage`].
    pub(super) values: &'a [u32],
    pub(super) width: usize,
    pub(super) count: usize,
    /// Columns of `out`, and the first of these.
    pub(super) cols: usize,
    pub(super) first: usize,
    /// `[vectors, LANES]`
    pub(super) keep: &'a [f32],
}

/// Rows and registers of columns of a tile of `mix`.
const ROWS: usize = 8;
const COLS: usize = 2;

/// `out [vectors · LANES, cols] = keep · out + weights · values`.
pub(super) fn mix(job: &Mix<'_>, out: &mut [f32]) {
    let Mix { vectors, width, count, cols, first, .. } = *job;
    assert!(count <= KEYS && width.is_multiple_of(MIXED) && first + width <= cols);
    assert!(job.weights.len() == vectors * WEIGHTS && job.values.len() >= KEYS / 4 * width);
    assert!(job.weight_scales.len() == vectors * LANES && job.keep.len() == vectors * LANES);
    assert_eq!(out.len(), vectors * LANES * cols);
    for col in (0..width).step_by(COLS * LANES) {
        for row in (0..vectors * LANES).step_by(ROWS) {
            // SAFETY: the asserts above; the caller asked `available`.
            unsafe { mix_tile(job, row, col, out[row * cols + first + col..].as_mut_ptr()) };
        }
    }
}

/// # Safety
/// The job holds what its shapes say for 8 rows from `row` on and 32 columns from `col` on, `out` has
/// as many, `cols` apart; the CPU has AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn mix_tile(job: &Mix<'_>, row: usize, col: usize, out: *mut f32) {
    let weights = job.weights.as_ptr().wrapping_add(row / LANES * WEIGHTS + row % LANES);
    let values = job.values.as_ptr().wrapping_add(col);
    let mut sums = [[_mm512_setzero_si512(); COLS]; ROWS];
    for quad in 0..job.count.div_ceil(4) {
        // SAFETY: this function's contract, here and below.
        let value = |c: usize| unsafe { _mm512_loadu_si512(values.add(quad * job.width + c * LANES).cast()) };
        let values: [__m512i; COLS] = std::array::from_fn(value);
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let weights = _mm512_set1_epi32(unsafe { *weights.add(quad * LANES + r) }.cast_signed());
            for c in 0..COLS {
                sums[c] = _mm512_dpbusd_epi32(sums[c], weights, values[c]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let (keep, scale) = (_mm512_set1_ps(job.keep[row + r]), _mm512_set1_ps(job.weight_scales[row + r]));
        for (c, &sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let out = out.add(r * job.cols + c * LANES);
                let old = _mm512_mul_ps(_mm512_loadu_ps(out), keep);
                _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, old));
            }
        }
    }
}
