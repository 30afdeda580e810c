//! Products in the order of the source.
//!
//! The compiler moves loads up as far as it can, sums of several rows then no longer fit the sixteen registers of AVX2,
//! and what does not fit lies on the stack, stored and read back in each turn of a loop: one such sum was a quarter of the
//! time of attention (docs/LOG.md, 2026-11-30). Sums that pass through here, after each row's products, are where the source has them.

use std::arch::asm;
use std::arch::x86_64::{__m256, __m256i};

/// Sums so far are made before what follows.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn integers<const N: usize>(sums: &mut [__m256i; N]) {
    for sum in sums {
        // SAFETY: no instruction.
        unsafe { asm!("/* {} */", inout(ymm_reg) * sum, options(nostack, preserves_flags)) };
    }
}

/// The same of floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn floats<const N: usize>(sums: &mut [__m256; N]) {
    for sum in sums {
        // SAFETY: no instruction.
        unsafe { asm!("/* {} */", inout(ymm_reg) * sum, options(nostack, preserves_flags)) };
    }
}
