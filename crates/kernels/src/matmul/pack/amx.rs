//! Panels of bf16 tiles: 32 steps of the depth of 16 lanes are one tile, 1 KiB.
//!
//! A tile of the left operand has a lane's 32 steps in a row; one of the right has pairs of steps in a row, 16
//! lanes of them. Either is made from either order of the memory: lanes that are contiguous give pairs, a depth that is
//! contiguous gives lanes, and a transposition of 16 × 16 pairs gets from one to the other.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_cvtne2ps_pbh, _mm512_loadu_si512,
    _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::View;
use crate::matmul::amx::{LANES, STEP, TILE_WORDS};
use crate::matmul::layout::Side;

/// Lanes of a tile, and pairs of steps.
const SIDE: usize = 16;

/// Packs `view [lanes, depth]`, whose lanes or depth are contiguous in memory. Returns false if neither is.
///
/// # Safety
/// All elements of the view lie in its memory; `out` has whole panels for all lanes; the CPU
/// has AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack(side: Side, view: View<'_>, out: &mut [f32]) -> bool {
    let steps = view.cols.div_ceil(STEP);
    assert_eq!(out.len(), view.rows.div_ceil(LANES) * steps * 2 * TILE_WORDS);
    let lanes_lie_together = view.row_stride == 1 && view.row_index.is_none();
    if !lanes_lie_together && (view.col_stride != 1 || view.col_index.is_some()) {
        return false;
    }
    let tile = |lane: usize, step: usize| {
        // Panels of two tiles of lanes, which alternate along the depth.
        (lane / LANES * steps + step / STEP) * 2 * TILE_WORDS + lane % LANES / SIDE * TILE_WORDS
    };
    if lanes_lie_together {
        // Along a row of the memory first: it is read once, in order.
        for step in (0..view.cols).step_by(STEP) {
            for lane in (0..view.rows.next_multiple_of(LANES)).step_by(SIDE) {
                // SAFETY: the tile lies in `out`; this function's contract.
                unsafe {
                    let rows = pairs(&view, lane, step);
                    let rows = if side == Side::Left { transposed(rows) } else { rows };
                    store(rows, out.as_mut_ptr().add(tile(lane, step)));
                }
            }
        }
    } else {
        for lane in (0..view.rows.next_multiple_of(LANES)).step_by(SIDE) {
            for step in (0..view.cols).step_by(STEP) {
                // SAFETY: as above.
                unsafe {
                    let rows = lanes(&view, lane, step);
                    let rows = if side == Side::Right { transposed(rows) } else { rows };
                    store(rows, out.as_mut_ptr().add(tile(lane, step)));
                }
            }
        }
    }
    true
}

/// # Safety
/// `out` points at a tile; the CPU has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(rows: [__m512i; SIDE], out: *mut f32) {
    for (row, values) in rows.into_iter().enumerate() {
        // SAFETY: this function's contract.
        unsafe { _mm512_storeu_si512(out.add(row * SIDE).cast(), values) };
    }
}

/// Rows of a tile of the left operand: each a lane's 32 steps, 0 where there are none.
///
/// # Safety
/// The view's depth is contiguous and all its elements lie in its memory; the CPU has AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn lanes(view: &View<'_>, lane: usize, step: usize) -> [__m512i; SIDE] {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    let [low, high] = [exist(view.cols - step), exist((view.cols - step).saturating_sub(16))];
    for (i, row) in rows.iter_mut().enumerate().take(view.rows.saturating_sub(lane)) {
        let from = view.values.as_ptr().wrapping_add(view.row_offset(lane + i) + step);
        // SAFETY: the masks leave the steps that exist, which this function's contract says lie in memory.
        *row = unsafe { rounded(load(from, low), load(from.wrapping_add(16), high)) };
    }
    rows
}

/// Rows of a tile of the right operand: each 16 lanes' pair of steps, 0 where there are none.
///
/// # Safety
/// The view's lanes are contiguous and all its elements lie in its memory; the CPU has AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs(view: &View<'_>, lane: usize, step: usize) -> [__m512i; SIDE] {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    let mask = exist(view.rows.saturating_sub(lane));
    let at = |step: usize| view.values.as_ptr().wrapping_add(view.col_offset(step) + lane);
    for (i, row) in rows.iter_mut().enumerate().take((view.cols - step).div_ceil(2)) {
        let first = step + 2 * i;
        let ahead = at((first + STEP).min(view.cols - 1));
        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        // SAFETY: the mask leaves the lanes that exist; the steps do, as this function's contract says.
        let (even, odd) = unsafe {
            let odd = if first + 1 < view.cols { load(at(first + 1), mask) } else { _mm512_setzero_ps() };
            (load(at(first), mask), odd)
        };
        *row = interleaved(rounded(even, odd));
    }
    rows
}

fn exist(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// # Safety
/// The numbers that the mask leaves lie in memory; the CPU has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const f32, mask: __mmask16) -> __m512 {
    // SAFETY: this function's contract.
    unsafe { _mm512_maskz_loadu_ps(mask, from) }
}

/// 32 numbers in bf16, nearest, ties to even; `low` first. (Subnormal ones become 0, as they do in the unit's products.)
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes, of which every pattern is a value.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// 16 numbers and 16 more become pairs of one of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleaved(halves: __m512i) -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 32 numbers are 64 bytes.
    unsafe { _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), halves) }
}

/// Pair `j` of row `i` becomes pair `i` of row `j`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; SIDE]) -> [__m512i; SIDE] {
    let mut pairs = rows;
    for i in (0..SIDE).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Now 128-bit lane `l` of `fours[4b + c]` has column `4l + c` of rows `4b..4b + 4`.
    let mut fours = pairs;
    for i in (0..SIDE).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut out = rows;
    for c in 0..4 {
        let (a, b) = (fours[c], fours[4 + c]);
        let (d, e) = (fours[8 + c], fours[12 + c]);
        // Lanes 0 and 2, then 1 and 3, of two blocks of rows.
        let (even_low, odd_low) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_high, odd_high) = (_mm512_shuffle_i32x4::<0x88>(d, e), _mm512_shuffle_i32x4::<0xdd>(d, e));
        out[c] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
    out
}
