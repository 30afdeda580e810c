//! Rounding `f32` to bf16 precision.
//!
//! A bf16 matrix product in Fathom means: both operands rounded to bf16, products exact, sums in
//! `f32`. Kernels that work in `f32` lanes therefore round their activations first, so that every
//! ISA computes the same products and differs only in the order of its sums.

/// The bf16 nearest to `value` (ties to even), as `f32`. NaN stays NaN, infinities stay.
pub fn to_bf16_precision(value: f32) -> f32 {
    half::bf16::from_f32(value).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_even() {
        // 1 + 2^-8 lies halfway between 1 and 1 + 2^-7: even wins.
        assert_eq!(to_bf16_precision(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(to_bf16_precision(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert!(to_bf16_precision(f32::NAN).is_nan());
        assert_eq!(to_bf16_precision(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert_eq!(to_bf16_precision(-0.0).to_bits(), (-0.0f32).to_bits());
    }
}
