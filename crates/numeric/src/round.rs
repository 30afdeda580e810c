//! Rounding `f32` to bf16 precision.
//!
//! A bf16 matrix product in Fathom means: both operands rounded to bf16, products exact, sums in
//! `f32`. Kernels that work in `f32` lanes therefore round their activations first, so that every
//! ISA computes the same products and differs only in the order of its sums.

/// The bits of the bf16 nearest to `value` (ties to even). NaN stays NaN, infinities stay. Free of
/// branches, so that loops over it become vector code.
#[inline(always)]
pub fn to_bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Rounding up must not turn a NaN's payload into infinity: keep it, quiet.
    let nan = (bits >> 16) | 0x40;
    if value.is_nan() { nan as u16 } else { nearest as u16 }
}

/// The value of bf16 bits.
#[inline(always)]
pub fn from_bf16_bits(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bf16 nearest to `value` (ties to even), as `f32`.
#[inline(always)]
pub fn to_bf16_precision(value: f32) -> f32 {
    from_bf16_bits(to_bf16_bits(value))
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

    /// Against the `half` crate, over the patterns that matter: every upper half, with lower halves
    /// around the tie.
    #[test]
    fn agrees_with_the_half_crate() {
        for upper in 0..=u32::from(u16::MAX) {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(upper << 16 | lower);
                assert_eq!(
                    to_bf16_bits(value),
                    half::bf16::from_f32(value).to_bits(),
                    "{:#010x}",
                    value.to_bits()
                );
            }
        }
    }
}
