//! Up to six rows times a panel.

use std::arch::asm;
use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps,
    _mm256_loadu_ps, _mm256_mul_ps, _mm256_mullo_epi32, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_storeu_ps,
};

use super::LANES;
use super::codes::{minimum, quad, scale};
use super::dots::{add_fours, add_pairs, add_words, group, wide, widen, words};
use crate::gemm::activations::RunHead;
use crate::gemm::quantized::fetch_share;
use crate::gemm::quantized::layout::{Format, QUADS, RUN};
use crate::in_turn;

/// A run's quads one after the other, each of which the compiler then knows.
macro_rules! quads {
    ($i:ident => $body:block) => {
        quads!($i [0 1 2 3 4 5 6 7] $body)
    };
    ($i:ident [$($number:literal)+] $body:block) => {$({
        let $i: usize = $number;
        $body
    })+};
}

/// Some rows times some columns of one panel.
pub(super) struct Strip {
    /// Codes, or of wide formats without AVX-VNNI words as [`take_apart`](super::take_apart) makes them; rows so many bytes apart.
    pub(super) x: *const u8,
    pub(super) x_stride: usize,
    /// Of the same runs.
    pub(super) heads: *const RunHead,
    pub(super) heads_stride: usize,
    pub(super) chunks: *const u8,
    pub(super) cols: usize,
    pub(super) ahead: usize,
    /// To be added to.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

impl Strip {
    /// `R` rows, with AVX-VNNI if `FOURS`.
    ///
    /// # Safety
    /// There is as much as it says; the CPU has AVX2, FMA and F16C, and AVX-VNNI if `FOURS`.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn multiply<F: Format, const R: usize, const FOURS: bool>(&self) {
        let &Strip { x, x_stride, heads, heads_stride, chunks, cols, ahead, out, out_stride } = self;
        let (chunk_runs, per_run) = (F::SCALES.chunk_cols() / RUN, F::SCALES.per_run());
        let (quads, group, wide) = (QUADS / per_run, group(F::CODES), wide(F::CODES));
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            let out = out.wrapping_add(r * out_stride);
            // SAFETY: this function's contract.
            *sums = unsafe { [_mm256_loadu_ps(out), _mm256_loadu_ps(out.add(LANES))] };
        }
        in_memory(&mut sums);
        for run in 0..cols / RUN {
            let within = run % chunk_runs;
            // SAFETY: this function's contract.
            unsafe {
                let chunk = chunks.add(run / chunk_runs * F::LAYOUT.chunk_bytes());
                let lines = chunk.add(F::SCALES.bytes() + within * F::CODES.run_bytes());
                let head = |r: usize| &*heads.add(r * heads_stride + run);
                let mut dots = [[_mm256_setzero_si256(); 2]; R];
                let mut pairs = dots;
                quads!(i => {
                    let (half, q) = (i / quads, order(group, i));
                    fetch_share::<F, 1>(chunk.wrapping_add(ahead), within, i);
                    if i.is_multiple_of(quads) {
                        dots = [[_mm256_setzero_si256(); 2]; R];
                    }
                    let codes = [quad::<F>(lines, q), quad::<F>(lines.add(32), q)];
                    if FOURS {
                        for (r, dots) in dots.iter_mut().enumerate() {
                            add_fours(dots, codes, lanes(x.add(r * x_stride + run * RUN + 4 * q)));
                        }
                    } else if wide {
                        let codes = [words(codes[0]), words(codes[1])];
                        for (r, dots) in dots.iter_mut().enumerate() {
                            let x = x.add(r * x_stride + 2 * (run * RUN + 4 * q));
                            add_words(dots, codes, [lanes(x), lanes(x.add(4))]);
                        }
                    } else {
                        if i.is_multiple_of(group) {
                            pairs = [[_mm256_setzero_si256(); 2]; R];
                        }
                        for (r, pairs) in pairs.iter_mut().enumerate() {
                            add_pairs(pairs, codes, lanes(x.add(r * x_stride + run * RUN + 4 * q)));
                        }
                        if i % group == group - 1 {
                            for (dots, pairs) in dots.iter_mut().zip(pairs) {
                                widen(dots, pairs);
                            }
                        }
                    }
                    if i % quads == quads - 1 {
                        let scales = [0, 1].map(|side| scale::<F>(chunk, within, half, side));
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x_scale = _mm256_set1_ps(head(r).scale);
                            let minus = minus::<F>(head(r), half);
                            for side in 0..2 {
                                let dot = _mm256_cvtepi32_ps(_mm256_add_epi32(dots[r][side], minus));
                                sums[side] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scales[side], x_scale), sums[side]);
                            }
                        }
                    }
                });
                if F::SCALES.minimum() {
                    for side in 0..2 {
                        let minimum = minimum::<F>(chunk, within, side);
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm256_set1_ps(head(r).scaled_sum);
                            sums[side] = _mm256_fnmadd_ps(minimum, x, sums[side]);
                        }
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (side, &sum) in sums.iter().enumerate() {
                // SAFETY: this function's contract.
                unsafe { _mm256_storeu_ps(out.add(r * out_stride + LANES * side), sum) };
            }
        }
    }
}

/// What the codes' offset takes from a row's sum. Shifted in the vector register: what goes there through a scalar one costs a tenth
/// of the time of a product in 4 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn minus<F: Format>(head: &RunHead, half: usize) -> __m256i {
    let offset = F::LAYOUT.offset();
    if offset == 0 {
        return _mm256_setzero_si256();
    }
    let mut minus = [_mm256_set1_epi32(head.minus(F::SCALES.per_run(), half))];
    in_turn::integers(&mut minus);
    // A shift: the offset is a constant and a power of 2.
    _mm256_mullo_epi32(minus[0], _mm256_set1_epi32(offset))
}

/// Sums of floats stay on the stack, which so becomes aligned: registers that are put there meanwhile would else lie across two
/// lines, wherever the caller's stack ends.
#[inline]
#[target_feature(enable = "avx2")]
fn in_memory<const R: usize>(sums: &mut [[__m256; 2]; R]) {
    // SAFETY: no instruction.
    unsafe { asm!("/* {} */", in(reg) sums.as_mut_ptr(), options(nostack, preserves_flags)) };
}

/// Quads that share lines follow each other where all are summed together.
const fn order(group: usize, i: usize) -> usize {
    if group == QUADS { i / 2 + i % 2 * 4 } else { i }
}

/// Four bytes in every lane.
///
/// # Safety
/// They may be read; the CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn lanes(x: *const u8) -> __m256i {
    // SAFETY: this function's contract.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}
