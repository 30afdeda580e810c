//! The two products in 16 f32 lanes.
//!
//! `scores`: 24 keys by one vector of rows, or 12 by two: 24 sums, enough for the latency of both
//! multipliers, and at most one load per multiplication. `mix`: 8 rows by 3 registers of columns:
//! 11 loads for 24 multiplications, and 48 columns of 64 keys stay in the first-level cache while
//! all rows pass.

use std::arch::asm;
use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{Ahead, KEYS, LANES, Mix, STRIDE, Scores};

pub(super) fn scores(job: &Scores<'_>, out: &mut [f32]) {
    let first = job.piece.start;
    for vector in (0..job.vectors).step_by(2) {
        let tile = ScoreTile {
            queries: job.queries[vector * job.apart + first * LANES..].as_ptr(),
            apart: job.apart,
            dim: job.piece.len(),
            accumulate: first > 0,
        };
        let mut key = 0;
        while key < job.count {
            let keys = job.keys[key * STRIDE..].as_ptr();
            let out = out[(vector * KEYS + key) * LANES..].as_mut_ptr();
            let ahead = if vector == 0 { job.ahead } else { Ahead::NOTHING }.from(key, keys);
            // SAFETY: the caller checked that queries, keys and out hold what the shapes say; tiles
            // round the count up, but not beyond KEYS, which keys and out have room for; the
            // dispatcher chose this ISA because the CPU has it.
            key += unsafe {
                match (vector + 1 < job.vectors, job.count - key) {
                    (true, 9..) => tile.run::<12, 2>(keys, ahead, out),
                    (true, 5..) => tile.run::<8, 2>(keys, ahead, out),
                    (true, _) => tile.run::<4, 2>(keys, ahead, out),
                    (false, 17..) => tile.run::<24, 1>(keys, ahead, out),
                    (false, 9..) => tile.run::<16, 1>(keys, ahead, out),
                    (false, _) => tile.run::<8, 1>(keys, ahead, out),
                }
            };
        }
    }
}

/// Numbers per turn of the loop: one part of what lies ahead is asked for in each.
const STEP: usize = 4;

struct ScoreTile {
    queries: *const f32,
    /// From one vector of queries to the next.
    apart: usize,
    dim: usize,
    accumulate: bool,
}

impl ScoreTile {
    /// `K` keys by `R` vectors; returns `K`.
    ///
    /// # Safety
    /// `queries` has `R` vectors of `dim` rows of 16, `keys` has `K` rows of `dim`, `out` `R` times
    /// `K` rows of 16; the CPU has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    unsafe fn run<const K: usize, const R: usize>(
        &self,
        keys: *const f32,
        ahead: Ahead,
        out: *mut f32,
    ) -> usize {
        let mut sums = [[_mm512_setzero_ps(); K]; R];
        if self.accumulate {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (k, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: this function's contract.
                    *sum = unsafe { _mm512_loadu_ps(out.add((r * KEYS + k) * LANES)) };
                }
            }
        }
        let (mut queries, mut keys) = (self.queries, keys);
        for step in 0..self.dim / STEP {
            let part = ahead.part(step);
            for line in 0..4 {
                _mm_prefetch::<_MM_HINT_T0>(part.wrapping_add(64 * line));
            }
            (queries, keys) = (opaque(queries), opaque(keys));
            for d in 0..STEP {
                // SAFETY: there are STEP numbers more.
                unsafe { self.add(queries.add(d * LANES), keys.add(d), &mut sums) };
            }
            (queries, keys) = (queries.wrapping_add(STEP * LANES), keys.wrapping_add(STEP));
        }
        for d in 0..self.dim % STEP {
            // SAFETY: as many numbers are left.
            unsafe { self.add(queries.add(d * LANES), keys.add(d), &mut sums) };
        }
        for (r, sums) in sums.iter().enumerate() {
            for (k, &sum) in sums.iter().enumerate() {
                // SAFETY: this function's contract.
                unsafe { _mm512_storeu_ps(out.add((r * KEYS + k) * LANES), sum) };
            }
        }
        K
    }

    /// The products of one number.
    ///
    /// # Safety
    /// `queries` has a row of 16 in each of `R` vectors, `keys` a number in each of `K` rows; the CPU
    /// has AVX-512 F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn add<const K: usize, const R: usize>(
        &self,
        queries: *const f32,
        keys: *const f32,
        sums: &mut [[__m512; K]; R],
    ) {
        // SAFETY: this function's contract, here and below.
        let row = |r: usize| unsafe { _mm512_loadu_ps(queries.add(r * self.apart)) };
        let rows: [__m512; R] = std::array::from_fn(row);
        #[allow(clippy::needless_range_loop, reason = "`k` also addresses the keys")]
        for k in 0..K {
            // SAFETY: as above.
            let number = _mm512_set1_ps(unsafe { *keys.add(k * STRIDE) });
            for r in 0..R {
                sums[r][k] = _mm512_fmadd_ps(rows[r], number, sums[r][k]);
            }
        }
    }
}

/// The same pointer, of which the compiler knows nothing: it then addresses with one register and a
/// constant. Given a chance it counts with an index instead, and an instruction that multiplies and
/// loads by base and index takes two places in the processor's pipeline instead of one.
#[inline(always)]
pub(super) fn opaque<T>(pointer: *const T) -> *const T {
    let mut pointer = pointer;
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "the pointer passes through, nothing is read")]
    // SAFETY: no instruction at all.
    unsafe {
        asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags));
    }
    pointer
}

/// Rows of a tile of `mix`.
const ROWS: usize = 8;

/// Registers of columns of a tile of `mix`.
const COLS: usize = 3;

pub(super) fn mix(job: &Mix<'_>, out: &mut [f32]) {
    for col in (0..job.piece.len()).step_by(COLS * LANES) {
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
                match (row == 0, (job.piece.len() - col) / LANES) {
                    (_, 1) => tile.run::<1, false>(),
                    (_, 2) => tile.run::<2, false>(),
                    (true, _) => tile.run::<COLS, true>(),
                    (false, _) => tile.run::<COLS, false>(),
                }
            }
        }
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
    /// [`ROWS`] rows by `C` registers; brings the next columns near if `AHEAD`.
    ///
    /// # Safety
    /// `weights` has `count` rows of 8, 16 apart; `values` has `count` rows of `16 C`; `keep` has 8
    /// numbers and `out` 8 rows of `16 C`; the CPU has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    unsafe fn run<const C: usize, const AHEAD: bool>(&self) {
        let mut sums = [[_mm512_setzero_ps(); C]; ROWS];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (c, sum) in sums.iter_mut().enumerate() {
                // SAFETY: this function's contract.
                *sum = unsafe {
                    let old = _mm512_loadu_ps(self.out.add(r * self.stride + c * LANES));
                    _mm512_mul_ps(old, _mm512_set1_ps(*self.keep.add(r)))
                };
            }
        }
        for key in 0..self.count {
            let mut values = [_mm512_setzero_ps(); C];
            for (c, values) in values.iter_mut().enumerate() {
                // SAFETY: key is less than `count`.
                *values = unsafe { _mm512_loadu_ps(self.values.add(key * STRIDE + c * LANES)) };
                if AHEAD {
                    let next = self.values.wrapping_add(key * STRIDE + (C + c) * LANES);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                }
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let weight = _mm512_set1_ps(unsafe { *self.weights.add(key * LANES + r) });
                for c in 0..C {
                    sums[c] = _mm512_fmadd_ps(weight, values[c], sums[c]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                // SAFETY: this function's contract.
                unsafe { _mm512_storeu_ps(self.out.add(r * self.stride + c * LANES), sum) };
            }
        }
    }
}
