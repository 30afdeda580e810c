//! 12 × 32 sums in 16 f32 lanes: 24 accumulators, two registers of the right panel, and broadcasts that are
//! operands of the products themselves.
//!
//! Per step of the depth 24 fused products against 14 loads: two units are busy 12 cycles, two load ports 7.

use std::arch::x86_64::{
    __m512, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::micro::{Kernel, Tile};

pub(super) struct Avx512;

impl Kernel for Avx512 {
    const LEFT: usize = 12;
    const RIGHT: usize = 32;

    #[inline(always)]
    unsafe fn tile(tile: &Tile) {
        // SAFETY: the caller's promise; at most 12 rows exist.
        unsafe {
            match tile.rows {
                1 => rows::<1>(tile),
                2 => rows::<2>(tile),
                3 => rows::<3>(tile),
                4 => rows::<4>(tile),
                5 | 6 => rows::<6>(tile),
                7 | 8 => rows::<8>(tile),
                _ => rows::<12>(tile),
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with at most `R` rows.
#[target_feature(enable = "avx512f")]
unsafe fn rows<const R: usize>(tile: &Tile) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for row in 0..R.min(tile.rows) {
        let line = tile.c.wrapping_add(row * tile.stride);
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(16).cast());
    }
    let (mut left, mut right) = (tile.left, tile.right);
    const UNROLLED: usize = 2;
    for _ in 0..tile.depth / UNROLLED {
        // SAFETY: this function's contract: as many steps of 12 and of 32 numbers.
        unsafe {
            for step in 0..UNROLLED {
                multiply(&mut sums, left.add(step * Avx512::LEFT), right.add(step * Avx512::RIGHT));
            }
        }
        left = left.wrapping_add(UNROLLED * Avx512::LEFT);
        right = right.wrapping_add(UNROLLED * Avx512::RIGHT);
    }
    for step in 0..tile.depth % UNROLLED {
        // SAFETY: as above.
        unsafe { multiply(&mut sums, left.add(step * Avx512::LEFT), right.add(step * Avx512::RIGHT)) };
    }
    // SAFETY: this function's contract.
    unsafe { store(tile, &sums) };
}

/// # Safety
/// `left` points at 12 numbers, `right` at 32; the CPU has AVX-512 F.
#[inline(always)]
unsafe fn multiply<const R: usize>(sums: &mut [[__m512; 2]; R], left: *const f32, right: *const f32) {
    // SAFETY: this function's contract.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(16)));
        for (row, sums) in sums.iter_mut().enumerate() {
            let left = _mm512_set1_ps(*left.add(row));
            sums[0] = _mm512_fmadd_ps(left, low, sums[0]);
            sums[1] = _mm512_fmadd_ps(left, high, sums[1]);
        }
    }
}

/// The same operations as [`Tile::store`], in the same order; columns that do not exist are masked.
///
/// # Safety
/// The tile's rows and columns may be written; the CPU has AVX-512 F.
#[inline(always)]
unsafe fn store<const R: usize>(tile: &Tile, sums: &[[__m512; 2]; R]) {
    let exist = |from: usize| (((1u32 << tile.cols.saturating_sub(from).min(16)) - 1) & 0xffff) as __mmask16;
    let masks = [exist(0), exist(16)];
    // SAFETY: this function's contract; masked lanes are neither read nor written.
    unsafe {
        let alpha = _mm512_set1_ps(tile.alpha);
        for (row, sums) in sums.iter().enumerate().take(tile.rows) {
            for (half, (&sum, mask)) in sums.iter().zip(masks).enumerate() {
                let out = tile.c.wrapping_add(row * tile.stride + 16 * half);
                let value = _mm512_mul_ps(alpha, sum);
                let value = match tile.accumulate {
                    true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), value),
                    false => value,
                };
                _mm512_mask_storeu_ps(out, mask, value);
            }
        }
    }
}

/// [`Tile::store`] of sums in memory, rows of 32.
///
/// # Safety
/// The tile has at most 32 rows and columns, which may be written; the CPU has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store_rows(tile: &Tile, sums: &[f32; 32 * 32]) {
    for first in (0..tile.rows).step_by(4) {
        let mut rows = [[_mm512_setzero_ps(); 2]; 4];
        for (row, sums) in rows.iter_mut().zip(sums[32 * first..].chunks_exact(32)) {
            // SAFETY: a row of sums is two vectors.
            *row = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums[16..].as_ptr())] };
        }
        let part =
            Tile { c: tile.c.wrapping_add(first * tile.stride), rows: (tile.rows - first).min(4), ..*tile };
        // SAFETY: this function's contract.
        unsafe { store(&part, &rows) };
    }
}
