//! 6 × 16 sums in 8 f32 lanes: twelve accumulators, two registers of the right panel, one broadcast.
//!
//! Per step of the depth 12 fused products against 8 loads, all of them from the first-level cache: two units
//! are busy 6 cycles, two load ports 4.

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::micro::{Kernel, Tile};

pub(super) struct Avx2;

impl Kernel for Avx2 {
    const LEFT: usize = 6;
    const RIGHT: usize = 16;

    #[inline(always)]
    unsafe fn tile(tile: &Tile) {
        // SAFETY: the caller's promise; at most 6 rows exist.
        unsafe {
            match tile.rows {
                1 => rows::<1>(tile),
                2 => rows::<2>(tile),
                3 => rows::<3>(tile),
                4 => rows::<4>(tile),
                5 => rows::<5>(tile),
                _ => rows::<6>(tile),
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with `R` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const R: usize>(tile: &Tile) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for row in 0..R {
        let line = tile.c.wrapping_add(row * tile.stride);
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(Avx2::RIGHT - 1).cast());
    }
    let (mut left, mut right) = (tile.left, tile.right);
    const UNROLLED: usize = 4;
    for _ in 0..tile.depth / UNROLLED {
        // SAFETY: this function's contract: as many steps of 6 and of 16 numbers.
        unsafe {
            for step in 0..UNROLLED {
                multiply(&mut sums, left.add(step * Avx2::LEFT), right.add(step * Avx2::RIGHT));
            }
        }
        left = left.wrapping_add(UNROLLED * Avx2::LEFT);
        right = right.wrapping_add(UNROLLED * Avx2::RIGHT);
    }
    for step in 0..tile.depth % UNROLLED {
        // SAFETY: as above.
        unsafe { multiply(&mut sums, left.add(step * Avx2::LEFT), right.add(step * Avx2::RIGHT)) };
    }
    if tile.cols == Avx2::RIGHT {
        // SAFETY: this function's contract: R rows of 16 columns.
        unsafe { store(tile, &sums) };
    } else {
        let mut rows = [[0.0f32; Avx2::RIGHT]; R];
        for (row, [low, high]) in rows.iter_mut().zip(sums) {
            // SAFETY: a row has 16 numbers.
            unsafe {
                _mm256_storeu_ps(row.as_mut_ptr(), low);
                _mm256_storeu_ps(row.as_mut_ptr().add(8), high);
            }
        }
        // SAFETY: this function's contract.
        unsafe { tile.store(rows.as_flattened(), Avx2::RIGHT) };
    }
}

/// # Safety
/// `left` points at 6 numbers, `right` at 16; the CPU has AVX2 and FMA.
#[inline(always)]
unsafe fn multiply<const R: usize>(sums: &mut [[__m256; 2]; R], left: *const f32, right: *const f32) {
    // SAFETY: this function's contract.
    unsafe {
        let (low, high) = (_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(8)));
        for (row, sums) in sums.iter_mut().enumerate() {
            let left = _mm256_broadcast_ss(&*left.add(row));
            sums[0] = _mm256_fmadd_ps(left, low, sums[0]);
            sums[1] = _mm256_fmadd_ps(left, high, sums[1]);
        }
    }
}

/// The same operations as [`Tile::store`], in the same order.
///
/// # Safety
/// `R` rows of 16 results may be written; the CPU has AVX2.
#[inline(always)]
unsafe fn store<const R: usize>(tile: &Tile, sums: &[[__m256; 2]; R]) {
    // SAFETY: this function's contract.
    unsafe {
        let alpha = _mm256_set1_ps(tile.alpha);
        for (row, sums) in sums.iter().enumerate() {
            for (half, &sum) in sums.iter().enumerate() {
                let out = tile.c.add(row * tile.stride + 8 * half);
                let value = _mm256_mul_ps(alpha, sum);
                let value = if tile.accumulate { _mm256_add_ps(_mm256_loadu_ps(out), value) } else { value };
                _mm256_storeu_ps(out, value);
            }
        }
    }
}
