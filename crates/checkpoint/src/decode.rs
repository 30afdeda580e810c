//! Stored floats to `f32`: loops over whole slices that the compiler turns into vector code.
//!
//! What the bits mean is `fathom_numeric`'s to say; the tests hold every loop to it, for every bit pattern.

use crate::Dtype;
use fathom_numeric::fp8;

static E4M3: [f32; 256] = fp8::DECODE;

const EXPONENT: u32 = 0x7f80_0000;

/// Decodes `bytes`, elements of `dtype`, into `out`.
///
/// # Panics
/// If the lengths disagree, or `dtype` is not F32, F16, BF16 or F8_E4M3 (`TensorView::expect_float` asks).
pub(crate) fn floats(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.size(), "one {dtype} per output");
    match dtype {
        Dtype::F32 => each(bytes, out, f32::from_le_bytes),
        Dtype::BF16 => each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Dtype::F16 => each(bytes, out, |b| half_to_f32(u16::from_le_bytes(b))),
        Dtype::F8E4M3 => scaled_e4m3(bytes, 1.0, out),
        _ => panic!("{dtype} is not a weight format"),
    }
}

/// Decodes E4M3 codes and multiplies each by `scale`. By table: computing the bits and scaling them by 2^120
/// is vector code, yet measured at a seventh of the speed, because small codes are `f32` subnormals there.
pub(crate) fn scaled_e4m3(codes: &[u8], scale: f32, out: &mut [f32]) {
    for (value, &code) in out.iter_mut().zip(codes) {
        *value = E4M3[code as usize] * scale;
    }
}

/// The value of an E8M0 scale.
pub(crate) fn e8m0(code: u8) -> f32 {
    match code {
        0xff => f32::NAN,
        // 2^-127 is below the smallest normal f32.
        0 => f32::from_bits(0x0040_0000),
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// Position of the first NaN or infinity.
pub(crate) fn first_non_finite(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 1024;
    let is_bad = |value: &f32| value.to_bits() & EXPONENT == EXPONENT;
    // No early exit within a chunk: that is what lets the scan be vector code.
    let any_bad = |chunk: &[f32]| chunk.iter().fold(false, |any, value| any | is_bad(value));
    let chunk = values.chunks(CHUNK).position(any_bad)? * CHUNK;
    Some(chunk + values[chunk..].iter().position(is_bad).expect("this chunk has one"))
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (value, &element) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = decode(element);
    }
}

/// Selections instead of branches, and no arithmetic on `f32` subnormals: those cost a CPU a hundred cycles
/// each, and F16 weights below 6e-5 would be such if decoded by scaling.
fn half_to_f32(half: u16) -> f32 {
    /// Difference of the exponent biases, 127 - 15, in place.
    const REBIAS: u32 = 112 << 23;
    /// 2^-14, the smallest normal half.
    const MIN_NORMAL: u32 = 113 << 23;
    let half = u32::from(half);
    let bits = (half & 0x7fff) << 13;
    let exponent = half & 0x7c00;
    // The mantissa as one of a number in [2^-14, 2^-13), less the leading one that a subnormal lacks.
    let subnormal = (f32::from_bits(bits | MIN_NORMAL) - f32::from_bits(MIN_NORMAL)).to_bits();
    let normal = (bits + REBIAS) | if exponent == 0x7c00 { EXPONENT } else { 0 };
    let magnitude = if exponent == 0 { subnormal } else { normal };
    f32::from_bits(magnitude | ((half & 0x8000) << 16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_numeric::{bf16, f16};

    fn same(got: f32, want: f32, code: u32) {
        assert!(
            got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
            "code {code:#x}: got {got}, want {want}"
        );
    }

    #[test]
    fn every_16_bit_pattern_decodes_as_numeric_says() {
        let codes: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
        let mut out = vec![0.0; codes.len()];
        floats(Dtype::BF16, &bytes, &mut out);
        for (&code, &got) in codes.iter().zip(&out) {
            same(got, bf16::from_bits(code).to_f32(), code.into());
        }
        floats(Dtype::F16, &bytes, &mut out);
        for (&code, &got) in codes.iter().zip(&out) {
            same(got, f16::from_bits(code).to_f32(), code.into());
        }
    }

    #[test]
    fn every_8_bit_pattern_decodes_as_numeric_says() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut out = vec![0.0; 256];
        floats(Dtype::F8E4M3, &codes, &mut out);
        for (&code, &got) in codes.iter().zip(&out) {
            same(got, fp8::F8E4M3(code).to_f32(), code.into());
        }
        for code in 0..255u8 {
            assert_eq!(f64::from(e8m0(code)), 2f64.powi(i32::from(code) - 127), "code {code}");
        }
        assert!(e8m0(255).is_nan());
    }

    #[test]
    fn f32_need_not_be_aligned() {
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE, f32::MAX];
        let mut bytes = vec![0xaa];
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let mut out = [0.0; 4];
        floats(Dtype::F32, &bytes[1..], &mut out);
        assert_eq!(out.map(f32::to_bits), values.map(f32::to_bits));
    }

    #[test]
    fn finds_the_first_non_finite_value() {
        let check = |length: usize, bad: &[(usize, f32)], want: Option<usize>| {
            let mut values = vec![f32::MAX; length];
            for &(position, value) in bad {
                values[position] = value;
            }
            assert_eq!(first_non_finite(&values), want, "length {length}, {bad:?}");
        };
        check(0, &[], None);
        check(5000, &[], None);
        check(5000, &[(0, f32::NAN)], Some(0));
        check(5000, &[(4999, f32::INFINITY)], Some(4999));
        check(5000, &[(2047, f32::NEG_INFINITY), (2048, f32::NAN)], Some(2047));
        check(1024, &[(1023, -f32::NAN)], Some(1023));
    }
}
