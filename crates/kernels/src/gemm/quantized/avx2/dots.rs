//! Products of codes with activations, which add up in 16 and 32 bits.
//!
//! Codes of up to 6 bits: `vpmaddubsw` adds two products in 16 bits and saturates, which a pair can't reach: it is at
//! most `2 · 127 · code`. So eight quads of 4-bit codes, four of 5 bits or two of 6 bits are summed there before
//! `vpmaddwd` widens them ([`group`]): two instructions for 32 products instead of four.
//!
//! Codes of 8 bits reach the limit. Even and odd columns are taken apart into words, and `vpmaddwd` multiplies
//! those: four instructions for 32 products, where `vpmaddubsw` with signs moved to the activations takes five, three of them
//! on two ports.
//!
//! Where there is AVX-VNNI, `vpdpbusd` multiplies and adds 32 bytes of any of them at once.

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_set1_epi16, _mm256_srli_epi16,
};

use crate::gemm::quantized::layout::Codes;
use crate::in_turn;

/// Quads whose products are added in 16 bits: `group · 2 · 127 · largest code` is at most 32,767.
pub(super) const fn group(codes: Codes) -> usize {
    match codes {
        Codes::Four => 8,
        Codes::Five => 4,
        Codes::Six => 2,
        Codes::Eight | Codes::Table => 1,
    }
}

/// Whether codes need all of 8 bits.
pub(super) const fn wide(codes: Codes) -> bool {
    matches!(codes, Codes::Eight | Codes::Table)
}

/// Adds the products of both halves of a quad with four columns of a row, two products per 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_pairs(pairs: &mut [__m256i; 2], codes: [__m256i; 2], x: __m256i) {
    for (pairs, code) in pairs.iter_mut().zip(codes) {
        *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(code, x));
    }
    in_turn::integers(pairs);
}

/// Even and odd columns of a quad.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn words(code: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(code, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(code)]
}

/// Adds the products of both halves of a quad with even and odd columns of a row.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_words(dots: &mut [__m256i; 2], codes: [[__m256i; 2]; 2], x: [__m256i; 2]) {
    for (dot, [even, odd]) in dots.iter_mut().zip(codes) {
        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(even, x[0]));
        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(odd, x[1]));
    }
    in_turn::integers(dots);
}

/// Whether the processor has AVX-VNNI.
pub(super) fn fours_available() -> bool {
    is_x86_feature_detected!("avxvnni")
}

/// Adds the products of both halves of a quad with four columns of a row, and keeps them in turn.
///
/// # Safety
/// The CPU has AVX-VNNI.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_fours(dots: &mut [__m256i; 2], codes: [__m256i; 2], x: __m256i) {
    for (dot, code) in dots.iter_mut().zip(codes) {
        // SAFETY: this function's contract.
        unsafe {
            asm!("{{vex}} vpdpbusd {dot}, {code}, {x}", dot = inout(ymm_reg) *dot, code = in(ymm_reg) code,
                x = in(ymm_reg) x, options(nostack, preserves_flags));
        }
    }
}

/// Adds pairs in 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn widen(dots: &mut [__m256i; 2], pairs: [__m256i; 2]) {
    for (dot, pairs) in dots.iter_mut().zip(pairs) {
        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
}
