//! The two loops in 8 f32 lanes, ragged ends in scalar code.

use std::arch::x86_64::{
    __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm256_castps256_ps128,
    _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_storeu_ps,
};

use super::Matrix;

const LANES: usize = 8;

pub(super) fn scores(a: Matrix<'_>, b: Matrix<'_>, dim: usize, out: &mut [f32], accumulate: bool) {
    for (i, out) in out.chunks_exact_mut(b.rows.max(1)).enumerate() {
        let x = &a.values[i * a.stride..][..dim];
        for (j, out) in out.iter_mut().enumerate() {
            let y = &b.values[j * b.stride..][..dim];
            // SAFETY: the dispatcher chose this ISA because the CPU has it.
            let dot = unsafe { dot(x, y) };
            *out = if accumulate { *out + dot } else { dot };
        }
    }
}

/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn dot(x: &[f32], y: &[f32]) -> f32 {
    let (x_lanes, x_rest) = x.as_chunks::<LANES>();
    let (y_lanes, y_rest) = y.as_chunks::<LANES>();
    let mut sums = [_mm256_setzero_ps(); 4];
    for (i, (x, y)) in x_lanes.iter().zip(y_lanes).enumerate() {
        // SAFETY: both are arrays of 8.
        let (x, y) = unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(y.as_ptr())) };
        sums[i % 4] = _mm256_fmadd_ps(x, y, sums[i % 4]);
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    // SAFETY: the CPU has AVX2, by this function's contract.
    sums.iter().map(|&sum| unsafe { across(sum) }).sum::<f32>() + rest
}

/// # Safety
/// The CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn across(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

pub(super) fn mix(p: Matrix<'_>, v: Matrix<'_>, dim: usize, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(dim.max(1)).enumerate() {
        let weights = &p.values[i * p.stride..][..v.rows];
        // SAFETY: the dispatcher chose this ISA because the CPU has it.
        unsafe { mix_row(weights, v, out) };
    }
}

/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn mix_row(weights: &[f32], v: Matrix<'_>, out: &mut [f32]) {
    let dim = out.len();
    for (t, &weight) in weights.iter().enumerate() {
        let (values, rest) = v.values[t * v.stride..][..dim].as_chunks::<LANES>();
        let (out, out_rest) = out.as_chunks_mut::<LANES>();
        let lanes = _mm256_set1_ps(weight);
        for (out, value) in out.iter_mut().zip(values) {
            // SAFETY: both are arrays of 8.
            unsafe {
                let sum =
                    _mm256_fmadd_ps(lanes, _mm256_loadu_ps(value.as_ptr()), _mm256_loadu_ps(out.as_ptr()));
                _mm256_storeu_ps(out.as_mut_ptr(), sum);
            }
        }
        out_rest.iter_mut().zip(rest).for_each(|(out, value)| *out += weight * value);
    }
}
