//! The two products in 8 f32 lanes: 6 keys by 16 rows, and 4 rows by 24 columns, 12 sums each.

use std::arch::x86_64::{
    __m256, _MM_HINT_T1, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::{Ahead, KEYS, LANES, Mix, STRIDE, Scores};
use crate::in_turn;

/// Lanes of a register: a vector of rows takes two.
const HALF: usize = 8;

pub(super) fn scores(job: &Scores<'_>, out: &mut [f32]) {
    let first = job.piece.start;
    for vector in 0..job.vectors {
        let queries = job.queries[vector * job.apart + first * LANES..].as_ptr();
        let tile = ScoreTile { queries, dim: job.piece.len(), accumulate: first > 0 };
        let mut key = 0;
        while key < job.count {
            let keys = job.keys[key * STRIDE..].as_ptr();
            let out = out[(vector * KEYS + key) * LANES..].as_mut_ptr();
            let ahead = if vector == 0 { job.ahead } else { Ahead::NOTHING }.from(key, keys);
            // SAFETY: the caller checked that queries, keys and out hold what the shapes say, and
            // no tile goes beyond the count; the dispatcher chose this ISA because the CPU has it.
            key += unsafe {
                match job.count - key {
                    6.. => tile.run::<6>(keys, ahead, out),
                    2.. => tile.run::<2>(keys, ahead, out),
                    _ => tile.run::<1>(keys, ahead, out),
                }
            };
        }
    }
}

/// Numbers per turn of the loop: a part of what lies ahead is asked for in each, until all is. It goes to the second-level
/// cache: in the first one are the pieces of queries and keys.
const STEP: usize = 4;

struct ScoreTile {
    queries: *const f32,
    dim: usize,
    accumulate: bool,
}

impl ScoreTile {
    /// `K` keys by 16 rows; returns `K`.
    ///
    /// # Safety
    /// `queries` has `dim` rows of 16, `keys` `K` rows of `dim`, `out` `K` rows of 16; the CPU has AVX2
    /// and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn run<const K: usize>(&self, keys: *const f32, ahead: Ahead, out: *mut f32) -> usize {
        let mut sums = [[_mm256_setzero_ps(); 2]; K];
        let (mut queries, mut keys) = (self.queries, keys);
        for step in 0..self.dim / STEP {
            if step < ahead.parts(K) {
                let part = ahead.part(step);
                for line in 0..4 {
                    _mm_prefetch::<_MM_HINT_T1>(part.wrapping_add(64 * line));
                }
            }
            for d in 0..STEP {
                // SAFETY: there are STEP numbers more.
                unsafe { add(queries.wrapping_add(d * LANES), keys.wrapping_add(d), &mut sums) };
            }
            (queries, keys) = (queries.wrapping_add(STEP * LANES), keys.wrapping_add(STEP));
        }
        for d in 0..self.dim % STEP {
            // SAFETY: as many numbers are left.
            unsafe { add(queries.wrapping_add(d * LANES), keys.wrapping_add(d), &mut sums) };
        }
        for (k, sums) in sums.iter().enumerate() {
            for (half, &sum) in sums.iter().enumerate() {
                // SAFETY: this function's contract.
                unsafe {
                    let out = out.add(k * LANES + half * HALF);
                    let sum = if self.accumulate { _mm256_add_ps(_mm256_loadu_ps(out), sum) } else { sum };
                    _mm256_storeu_ps(out, sum);
                }
            }
        }
        K
    }
}

/// The products of one number.
///
/// # Safety
/// `queries` has a row of 16, `keys` a number in each of `K` rows; the CPU has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add<const K: usize>(queries: *const f32, keys: *const f32, sums: &mut [[__m256; 2]; K]) {
    // SAFETY: this function's contract, here and below.
    let rows = unsafe { [_mm256_loadu_ps(queries), _mm256_loadu_ps(queries.add(HALF))] };
    for (k, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let number = _mm256_set1_ps(unsafe { *keys.add(k * STRIDE) });
        for (sum, rows) in sums.iter_mut().zip(rows) {
            *sum = _mm256_fmadd_ps(rows, number, *sum);
        }
        in_turn::floats(sums);
    }
}

/// Rows of a tile of `mix`.
const ROWS: usize = 4;

pub(super) fn mix(job: &Mix<'_>, out: &mut [f32]) {
    let mut col = 0;
    while col < job.piece.len() {
        let registers = ((job.piece.len() - col) / HALF).min(3);
        for row in (0..job.vectors * LANES).step_by(ROWS) {
            let tile = MixTile {
                weights: job.weights[row / LANES * KEYS * LANES + row % LANES..].as_ptr(),
                values: job.values[col..].as_ptr(),
                count: job.count,
                keep: job.keep[row..].as_ptr(),
                out: out[row * job.cols + job.piece.start + col..].as_mut_ptr(),
                stride: job.cols,
            };
            // SAFETY: the caller checked that weights, values and out hold what the shapes say;
            // the dispatcher chose this ISA because the CPU has it.
            unsafe {
                match registers {
                    1 => tile.run::<1>(),
                    2 => tile.run::<2>(),
                    _ => tile.run::<3>(),
                }
            }
        }
        col += registers * HALF;
    }
}

struct MixTile {
    weights: *const f32,
    values: *const f32,
    count: usize,
    keep: *const f32,
    out: *mut f32,
    stride: usize,
}

impl MixTile {
    /// [`ROWS`] rows by `C` registers.
    ///
    /// # Safety
    /// `weights` has `count` rows of 4, 16 apart; `values` has `count` rows of `8 C`; `keep` has 4
    /// numbers and `out` 4 rows of `8 C`; the CPU has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn run<const C: usize>(&self) {
        let mut sums = [[_mm256_setzero_ps(); C]; ROWS];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (c, sum) in sums.iter_mut().enumerate() {
                // SAFETY: this function's contract.
                *sum = unsafe {
                    let old = _mm256_loadu_ps(self.out.add(r * self.stride + c * HALF));
                    _mm256_mul_ps(old, _mm256_set1_ps(*self.keep.add(r)))
                };
            }
        }
        for key in 0..self.count {
            let mut values = [_mm256_setzero_ps(); C];
            for (c, values) in values.iter_mut().enumerate() {
                // SAFETY: key is less than `count`.
                *values = unsafe { _mm256_loadu_ps(self.values.add(key * STRIDE + c * HALF)) };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let weight = _mm256_set1_ps(unsafe { *self.weights.add(key * LANES + r) });
                for c in 0..C {
                    sums[c] = _mm256_fmadd_ps(weight, values[c], sums[c]);
                }
                in_turn::floats(sums);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                // SAFETY: this function's contract.
                unsafe { _mm256_storeu_ps(self.out.add(r * self.stride + c * HALF), sum) };
            }
        }
    }
}
