//! The two products in 8 f32 lanes: 6 keys by 16 rows, and 4 rows by 24 columns, 12 sums each.

use std::arch::x86_64::{
    _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_storeu_ps,
};

use super::{KEYS, LANES, Mix, STRIDE, Scores};

/// Lanes of a register: a vector of rows takes two.
const HALF: usize = 8;

pub(super) fn scores(job: &Scores<'_>, out: &mut [f32]) {
    let (first, dim) = (job.piece.start, job.piece.len());
    for vector in 0..job.vectors {
        let queries = job.queries[vector * job.apart + first * LANES..].as_ptr();
        let mut key = 0;
        while key < job.count {
            let keys = job.keys[key * STRIDE..].as_ptr();
            let out = out[(vector * KEYS + key) * LANES..].as_mut_ptr();
            // SAFETY: the caller checked that queries, keys and out hold what the shapes say, and
            // no tile goes beyond the count; the dispatcher chose this ISA because the CPU has it.
            key += unsafe {
                match job.count - key {
                    6.. => score_tile::<6>(queries, keys, dim, first > 0, out),
                    2.. => score_tile::<2>(queries, keys, dim, first > 0, out),
                    _ => score_tile::<1>(queries, keys, dim, first > 0, out),
                }
            };
        }
    }
}

/// `K` keys by 16 rows; returns `K`.
///
/// # Safety
/// `queries` has `dim` rows of 16, `keys` `K` rows of `dim`, `out` `K` rows of 16; the CPU has AVX2
/// and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn score_tile<const K: usize>(
    queries: *const f32,
    keys: *const f32,
    dim: usize,
    accumulate: bool,
    out: *mut f32,
) -> usize {
    let mut sums = [[_mm256_setzero_ps(); 2]; K];
    for d in 0..dim {
        // SAFETY: d is less than `dim`.
        let rows = unsafe {
            let rows = queries.add(d * LANES);
            [_mm256_loadu_ps(rows), _mm256_loadu_ps(rows.add(HALF))]
        };
        for (k, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let number = _mm256_set1_ps(unsafe { *keys.add(k * STRIDE + d) });
            for (sum, rows) in sums.iter_mut().zip(rows) {
                *sum = _mm256_fmadd_ps(rows, number, *sum);
            }
        }
    }
    for (k, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            // SAFETY: this function's contract.
            unsafe {
                let out = out.add(k * LANES + half * HALF);
                let sum = if accumulate { _mm256_add_ps(_mm256_loadu_ps(out), sum) } else { sum };
                _mm256_storeu_ps(out, sum);
            }
        }
    }
    K
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
