//! The two loops in 16 f32 lanes.
//!
//! `scores`: 4 × 4 dot products at a time, each loaded register used four times, summed across
//! lanes once at the end. `mix`: 4 queries × 4 registers of values, each value read once for four
//! queries. Ragged ends are masked.

use std::arch::x86_64::{
    __mmask16, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_reduce_add_ps,
    _mm512_set1_ps, _mm512_setzero_ps,
};

use super::Matrix;

const LANES: usize = 16;

/// Lanes that exist of the 16 beginning at `first` of `len`.
fn mask(first: usize, len: usize) -> __mmask16 {
    match len.saturating_sub(first) {
        16.. => !0,
        rest => (1 << rest) - 1,
    }
}

pub(super) fn scores(a: Matrix<'_>, b: Matrix<'_>, dim: usize, out: &mut [f32], accumulate: bool) {
    for i in (0..a.rows).step_by(4) {
        for j in (0..b.rows).step_by(4) {
            let (x, y) = (a.values[i * a.stride..].as_ptr(), b.values[j * b.stride..].as_ptr());
            let mut dots = [[0.0f32; 4]; 4];
            let (rows, cols) = (4.min(a.rows - i), 4.min(b.rows - j));
            // SAFETY: the caller checked that rows i.. of a and j.. of b hold `dim` numbers each;
            // the dispatcher chose this ISA because the CPU has it.
            unsafe {
                match (rows, cols) {
                    (4, 4) => dot_block::<4, 4>(x, a.stride, y, b.stride, dim, &mut dots),
                    (4, _) => (0..cols)
                        .for_each(|c| dot_column::<4>(x, a.stride, y.add(c * b.stride), dim, &mut dots, c)),
                    _ => (0..rows).for_each(|r| {
                        (0..cols).for_each(|c| {
                            let mut one = [[0.0; 4]; 4];
                            dot_block::<1, 1>(x.add(r * a.stride), 0, y.add(c * b.stride), 0, dim, &mut one);
                            dots[r][c] = one[0][0];
                        });
                    }),
                }
            }
            for (row, dots) in dots.iter().enumerate().take(rows) {
                let out = &mut out[(i + row) * b.rows + j..][..cols];
                for (out, dot) in out.iter_mut().zip(dots) {
                    *out = if accumulate { *out + dot } else { *dot };
                }
            }
        }
    }
}

/// # Safety
/// As [`dot_block`] with one row of `y`.
#[target_feature(enable = "avx512f")]
unsafe fn dot_column<const R: usize>(
    x: *const f32,
    x_stride: usize,
    y: *const f32,
    dim: usize,
    dots: &mut [[f32; 4]; 4],
    column: usize,
) {
    let mut one = [[0.0; 4]; 4];
    // SAFETY: this function's contract.
    unsafe { dot_block::<R, 1>(x, x_stride, y, 0, dim, &mut one) };
    (0..R).for_each(|row| dots[row][column] = one[row][0]);
}

/// # Safety
/// `x` has `R` rows and `y` has `C` rows of `dim` numbers, their strides apart; the CPU has
/// AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn dot_block<const R: usize, const C: usize>(
    x: *const f32,
    x_stride: usize,
    y: *const f32,
    y_stride: usize,
    dim: usize,
    dots: &mut [[f32; 4]; 4],
) {
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    for first in (0..dim).step_by(LANES) {
        let lanes = mask(first, dim);
        let mut right = [_mm512_setzero_ps(); C];
        for (c, right) in right.iter_mut().enumerate() {
            // SAFETY: masked to the `dim` numbers of row c.
            *right = unsafe { _mm512_maskz_loadu_ps(lanes, y.add(c * y_stride + first)) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: masked to the `dim` numbers of row r.
            let left = unsafe { _mm512_maskz_loadu_ps(lanes, x.add(r * x_stride + first)) };
            for c in 0..C {
                sums[c] = _mm512_fmadd_ps(left, right[c], sums[c]);
            }
        }
    }
    for (dots, sums) in dots.iter_mut().zip(&sums) {
        for (dot, &sum) in dots.iter_mut().zip(sums) {
            *dot = _mm512_reduce_add_ps(sum);
        }
    }
}

pub(super) fn mix(p: Matrix<'_>, v: Matrix<'_>, dim: usize, out: &mut [f32]) {
    for i in (0..p.rows).step_by(4) {
        let rows = 4.min(p.rows - i);
        for first in (0..dim).step_by(4 * LANES) {
            let weights = p.values[i * p.stride..].as_ptr();
            let out = out[i * dim..][..rows * dim].as_mut_ptr();
            // SAFETY: the caller checked that p and v hold what the shapes say; lanes beyond
            // `dim` are masked; the dispatcher chose this ISA because the CPU has it.
            unsafe {
                match rows {
                    1 => mix_block::<1>(weights, p.stride, v, first, dim, out),
                    2 => mix_block::<2>(weights, p.stride, v, first, dim, out),
                    3 => mix_block::<3>(weights, p.stride, v, first, dim, out),
                    _ => mix_block::<4>(weights, p.stride, v, first, dim, out),
                }
            }
        }
    }
}

/// # Safety
/// `p` has `R` rows of `v.rows` numbers, `out` has `R` rows of `dim`; the CPU has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn mix_block<const R: usize>(
    p: *const f32,
    p_stride: usize,
    v: Matrix<'_>,
    first: usize,
    dim: usize,
    out: *mut f32,
) {
    let lanes: [__mmask16; 4] = std::array::from_fn(|c| mask(first + c * LANES, dim));
    let mut sums = [[_mm512_setzero_ps(); 4]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        for (c, sum) in sums.iter_mut().enumerate() {
            // SAFETY: masked to the `dim` numbers of row r.
            *sum = unsafe { _mm512_maskz_loadu_ps(lanes[c], out.wrapping_add(r * dim + first + c * LANES)) };
        }
    }
    let values = v.values.as_ptr();
    for t in 0..v.rows {
        let mut row = [_mm512_setzero_ps(); 4];
        for (c, row) in row.iter_mut().enumerate() {
            let at = values.wrapping_add(t * v.stride + first + c * LANES);
            // SAFETY: masked to the `dim` numbers of row t.
            *row = unsafe { _mm512_maskz_loadu_ps(lanes[c], at) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: t counts the rows of v, which are the columns of p.
            let weight = _mm512_set1_ps(unsafe { *p.add(r * p_stride + t) });
            for c in 0..4 {
                sums[c] = _mm512_fmadd_ps(weight, row[c], sums[c]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (c, &sum) in sums.iter().enumerate() {
            // SAFETY: masked to the `dim` numbers of row r.
            unsafe { _mm512_mask_storeu_ps(out.wrapping_add(r * dim + first + c * LANES), lanes[c], sum) };
        }
    }
}
