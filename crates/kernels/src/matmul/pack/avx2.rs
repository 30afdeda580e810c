//! Panels of f32 with AVX2: 8 lanes × 8 steps of the depth at a time are transposed in registers where the
//! depth is contiguous, and copied where the lanes are. Serves AVX-512 too: what packs is rarely what limits.

use std::arch::x86_64::{
    __m256, _CMP_UNORD_Q, _MM_HINT_T0, _mm_castps_pd, _mm_prefetch, _mm_storel_pd, _mm_storeu_ps,
    _mm256_add_epi32, _mm256_and_si256, _mm256_blendv_ps, _mm256_castps_si256, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_extractf128_ps, _mm256_loadu_ps, _mm256_or_si256,
    _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_shuffle_ps, _mm256_srli_epi32, _mm256_storeu_ps,
    _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

use super::View;

/// Lanes, and steps of the depth, that a transposition takes.
const SIDE: usize = 8;

/// Rows ahead of a copied one that are asked for: they lie far apart, where no hardware looks.
const AHEAD: usize = 6;

/// Packs `view [lanes, depth]`, whose lanes or depth are contiguous in memory, into panels of `LANES` lanes.
/// `LANES` is 6, or at least 8. Returns false if neither is.
///
/// # Safety
/// All elements of the view lie in its memory; `out` has whole panels for all lanes; the CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn pack<const LANES: usize, const ROUND: bool>(view: View<'_>, out: &mut [f32]) -> bool {
    assert_eq!(out.len(), view.rows.next_multiple_of(LANES) * view.cols);
    if view.row_stride == 1 && view.row_index.is_none() {
        // SAFETY: this function's contract.
        unsafe { copy::<LANES, ROUND>(view, out.as_mut_ptr()) };
    } else if view.col_stride == 1 && view.col_index.is_none() {
        let mut panels = out.as_mut_ptr();
        for first in (0..view.rows).step_by(LANES) {
            // SAFETY: this function's contract; each panel is `LANES · depth` numbers.
            unsafe { transpose::<LANES, ROUND>(view, first, panels) };
            panels = panels.wrapping_add(LANES * view.cols);
        }
    } else {
        return false;
    }
    true
}

/// Lanes are contiguous: step by step through the memory, panel by panel through the step.
///
/// # Safety
/// As [`pack`].
#[target_feature(enable = "avx2")]
unsafe fn copy<const LANES: usize, const ROUND: bool>(view: View<'_>, out: *mut f32) {
    let (lanes, depth) = (view.rows, view.cols);
    let (whole, panel_len) = (lanes / LANES, LANES * depth);
    let source = |step: usize| view.values.as_ptr().wrapping_add(view.col_offset(step));
    for step in 0..depth {
        let (from, ahead) = (source(step), source((step + AHEAD).min(depth - 1)));
        for line in (0..lanes).step_by(16) {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line).cast());
        }
        for panel in 0..whole {
            // SAFETY: whole panels exist in the memory and in `out`.
            unsafe {
                let to = out.add(panel * panel_len + step * LANES);
                let from = from.add(panel * LANES);
                if LANES < SIDE {
                    // 6 of the lanes that are read: the rest belongs to others.
                    for lane in 0..LANES {
                        *to.add(lane) = rounded_one::<ROUND>(*from.add(lane));
                    }
                } else {
                    for lane in (0..LANES).step_by(SIDE) {
                        let lane = lane.min(LANES - SIDE);
                        _mm256_storeu_ps(to.add(lane), rounded::<ROUND>(_mm256_loadu_ps(from.add(lane))));
                    }
                }
            }
        }
        if whole * LANES < lanes {
            for lane in 0..LANES {
                let exists = whole * LANES + lane < lanes;
                // SAFETY: lanes that exist are read; the last panel has all lanes.
                unsafe {
                    let value = if exists { *from.add(whole * LANES + lane) } else { 0.0 };
                    *out.add(whole * panel_len + step * LANES + lane) = rounded_one::<ROUND>(value);
                }
            }
        }
    }
}

/// The depth is contiguous: one panel. Lanes that do not exist repeat the last one.
///
/// # Safety
/// As [`pack`]; `out` points at one panel.
#[target_feature(enable = "avx2")]
unsafe fn transpose<const LANES: usize, const ROUND: bool>(view: View<'_>, first: usize, out: *mut f32) {
    let depth = view.cols;
    for start in (0..LANES).step_by(SIDE) {
        // The last group overlaps the one before it where 8 does not divide the lanes.
        let start = start.min(LANES.saturating_sub(SIDE));
        let rows: [*const f32; SIDE] = std::array::from_fn(|lane| {
            let lane = (first + start + lane.min(LANES - 1)).min(view.rows - 1);
            view.values.as_ptr().wrapping_add(view.row_offset(lane))
        });
        for step in (0..depth / SIDE * SIDE).step_by(SIDE) {
            // SAFETY: 8 steps of each row exist. Six lanes are stored as eight, of which the next step
            // overwrites two, but for the last one.
            unsafe {
                let block = transposed(rows.map(|row| rounded::<ROUND>(_mm256_loadu_ps(row.add(step)))));
                let to = out.add(step * LANES + start);
                for (i, &lanes) in block.iter().enumerate() {
                    if LANES < SIDE && i == SIDE - 1 {
                        _mm_storeu_ps(to.add(i * LANES), _mm256_castps256_ps128(lanes));
                        _mm_storel_pd(
                            to.add(i * LANES + 4).cast(),
                            _mm_castps_pd(_mm256_extractf128_ps::<1>(lanes)),
                        );
                    } else {
                        _mm256_storeu_ps(to.add(i * LANES), lanes);
                    }
                }
            }
        }
        for step in depth / SIDE * SIDE..depth {
            for (lane, row) in rows.iter().enumerate().take(LANES) {
                // SAFETY: the step of the row exists, as does the lane of the panel.
                unsafe { *out.add(step * LANES + start + lane) = rounded_one::<ROUND>(*row.add(step)) };
            }
        }
    }
}

/// Vector `i` of the result has number `i` of each vector.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(rows: [__m256; SIDE]) -> [__m256; SIDE] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pair = |x, y| (_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
    let ((ab0, ab1), (cd0, cd1), (ef0, ef1), (gh0, gh1)) = (pair(a, b), pair(c, d), pair(e, f), pair(g, h));
    let four = |x, y| (_mm256_shuffle_ps::<0x44>(x, y), _mm256_shuffle_ps::<0xee>(x, y));
    let ((ad0, ad1), (ad2, ad3)) = (four(ab0, cd0), four(ab1, cd1));
    let ((eh0, eh1), (eh2, eh3)) = (four(ef0, gh0), four(ef1, gh1));
    [
        _mm256_permute2f128_ps::<0x20>(ad0, eh0),
        _mm256_permute2f128_ps::<0x20>(ad1, eh1),
        _mm256_permute2f128_ps::<0x20>(ad2, eh2),
        _mm256_permute2f128_ps::<0x20>(ad3, eh3),
        _mm256_permute2f128_ps::<0x31>(ad0, eh0),
        _mm256_permute2f128_ps::<0x31>(ad1, eh1),
        _mm256_permute2f128_ps::<0x31>(ad2, eh2),
        _mm256_permute2f128_ps::<0x31>(ad3, eh3),
    ]
}

#[inline(always)]
fn rounded_one<const ROUND: bool>(value: f32) -> f32 {
    if ROUND { super::to_bf16_precision(value) } else { value }
}

/// [`super::to_bf16_precision`] of 8 numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn rounded<const ROUND: bool>(values: __m256) -> __m256 {
    if !ROUND {
        return values;
    }
    let bits = _mm256_castps_si256(values);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(values, values);
    let kept = _mm256_blendv_ps(_mm256_castsi256_ps(nearest), _mm256_castsi256_ps(quiet), nan);
    _mm256_castsi256_ps(_mm256_and_si256(
        _mm256_castps_si256(kept),
        _mm256_set1_epi32(0xffff_0000_u32 as i32),
    ))
}
