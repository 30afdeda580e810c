//! Codes and scales of half a panel, decoded in registers.

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtph_ps, _mm256_loadu_si256,
    _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_slli_epi16,
    _mm256_srli_epi16,
};

use super::LANES;
use crate::gemm::PANEL;
use crate::gemm::quantized::layout::{Codes, Format, LEVELS, QUAD_BYTES, RUN, Scales};

/// Half a quad as unsigned bytes; `run` is at that half of a run's first line.
///
/// # Safety
/// The lines of the run may be read; the CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quad<F: Format>(run: *const u8, q: usize) -> __m256i {
    // SAFETY: this function's contract: lines below `run_bytes`.
    let line = |index: usize| unsafe { _mm256_loadu_si256(run.add(index * QUAD_BYTES).cast()) };
    let bits = |value: u8| _mm256_set1_epi8(value as i8);
    let lower = |q: usize| match q {
        0..4 => _mm256_and_si256(line(q), bits(15)),
        _ => _mm256_and_si256(_mm256_srli_epi16::<4>(line(q - 4)), bits(15)),
    };
    match F::CODES {
        Codes::Eight => line(q),
        Codes::Four => lower(q),
        Codes::Table => {
            // SAFETY: the table is 16 bytes.
            let levels = unsafe { _mm_loadu_si128(LEVELS.as_ptr().cast()) };
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), lower(q))
        }
        Codes::Five => {
            let bit = _mm256_and_si256(line(4), bits(1 << q));
            let bit = match q {
                0 => _mm256_slli_epi16::<4>(bit),
                1 => _mm256_slli_epi16::<3>(bit),
                2 => _mm256_slli_epi16::<2>(bit),
                3 => _mm256_slli_epi16::<1>(bit),
                4 => bit,
                5 => _mm256_srli_epi16::<1>(bit),
                6 => _mm256_srli_epi16::<2>(bit),
                _ => _mm256_srli_epi16::<3>(bit),
            };
            _mm256_or_si256(lower(q), bit)
        }
        Codes::Six => {
            let two = _mm256_and_si256(line(4 + q / 4), bits(3 << (2 * (q % 4))));
            let two = match q % 4 {
                0 => _mm256_slli_epi16::<4>(two),
                1 => _mm256_slli_epi16::<2>(two),
                2 => two,
                _ => _mm256_srli_epi16::<2>(two),
            };
            _mm256_or_si256(lower(q), two)
        }
    }
}

/// Scales of 8 rows.
///
/// # Safety
/// `chunk` points at a chunk; the CPU has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn scale<F: Format>(chunk: *const u8, run: usize, half: usize, side: usize) -> __m256 {
    // SAFETY: this function's contract: every place is within the scales of the chunk.
    unsafe {
        let halves =
            |index: usize| _mm256_cvtph_ps(_mm_loadu_si128(chunk.add(32 * index + 2 * LANES * side).cast()));
        let bytes = |index: usize| _mm_loadl_epi64(chunk.add(64 + PANEL * index + LANES * side).cast());
        let signed = |index| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes(index)));
        match F::SCALES {
            Scales::Group(group) => halves(run * RUN / group),
            Scales::RunAndMinimum => halves(0),
            Scales::Super => _mm256_mul_ps(halves(0), signed(run)),
            Scales::SuperHalves => _mm256_mul_ps(halves(0), signed(2 * run + half)),
            Scales::SuperAndMinimum => {
                _mm256_mul_ps(halves(0), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes(2 * run))))
            }
        }
    }
}

/// Minima of 8 rows.
///
/// # Safety
/// As [`scale`], of a format with minima.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn minimum<F: Format>(chunk: *const u8, run: usize, side: usize) -> __m256 {
    // SAFETY: this function's contract.
    unsafe {
        let minimum = _mm256_cvtph_ps(_mm_loadu_si128(chunk.add(32 + 2 * LANES * side).cast()));
        match F::SCALES {
            Scales::SuperAndMinimum => {
                let six = _mm_loadl_epi64(chunk.add(64 + PANEL * (2 * run + 1) + LANES * side).cast());
                _mm256_mul_ps(minimum, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(six)))
            }
            _ => minimum,
        }
    }
}
