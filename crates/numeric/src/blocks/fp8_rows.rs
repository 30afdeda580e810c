//! E4M3 codes with one f32 scale for 128 weights: a row of a 128×128 block of `weight_scale_inv`.
//!
//! Bytes of a block: the scale, f32, then 128 codes. The value of code `q` is `scale·e4m3(q)`.

use super::row::{Layout, Weights};
use super::search::extreme;
use crate::fp8::{BLOCK, DECODE, MAX};

/// The format of that name.
pub(super) struct Fp8;

/// [`F8E4M3::from_f32`](crate::fp8::F8E4M3::from_f32) without branches, for numbers.
#[inline(always)]
fn e4m3(value: f32) -> u8 {
    let magnitude = value.abs().min(MAX);
    // Normal: round the mantissa to 3 bits, ties to even, and move the exponent's bias from 127 to 7.
    let bits = magnitude.to_bits();
    let normal = (bits + 0x7_ffff + (bits >> 20 & 1)).wrapping_sub(120 << 23) >> 20;
    // Subnormal: the sum's last place is worth 2^-9, so its mantissa counts them.
    let subnormal = (magnitude + 16_384.0).to_bits() - 16_384f32.to_bits();
    let code = if magnitude < 1.0 / 64.0 { subnormal } else { normal };
    code as u8 | (value.to_bits() >> 24) as u8 & 0x80
}

impl Layout<BLOCK, 132> for Fp8 {
    /// `2^127`: the scale's rounding must not push the largest code over the end of f32.
    const LARGEST: f32 = f32::from_bits(254 << 23);

    #[inline(always)]
    fn decode(block: &[u8; 132], out: &mut [f32; BLOCK]) {
        let scale = scale(block);
        for (out, &code) in out.iter_mut().zip(&block[4..]) {
            *out = DECODE[usize::from(code)] * scale;
        }
    }

    /// As the released checkpoints were made, see [`crate::fp8::quantize_blocks`]; the block is a row.
    #[inline(always)]
    fn encode(block: &Weights<BLOCK>, out: &mut [u8; 132]) {
        let exact = extreme(&block.x).abs() / MAX;
        let scale = if exact > 0.0 { exact } else { 1.0 };
        out[..4].copy_from_slice(&scale.to_le_bytes());
        for (code, x) in out[4..].iter_mut().zip(&block.x) {
            *code = e4m3(x / scale);
        }
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 132]) -> bool {
        scale(block).is_finite()
    }
}

#[inline(always)]
fn scale(block: &[u8; 132]) -> f32 {
    f32::from_le_bytes([block[0], block[1], block[2], block[3]])
}

#[cfg(test)]
mod tests {
    use super::e4m3;
    use crate::fp8::{F8E4M3, MAX};

    #[test]
    fn rounds_as_the_plain_encoder_does() {
        // Every 997th pattern up to the first that saturates, and the ties of all codes.
        let patterns = (0..MAX.to_bits() + 2).step_by(997).map(f32::from_bits);
        let ties = (0..0x7e).map(|code| (F8E4M3(code).to_f32() + F8E4M3(code + 1).to_f32()) / 2.0);
        for value in patterns.chain(ties).chain([MAX, 460.0, f32::MAX]) {
            assert_eq!(e4m3(value), F8E4M3::from_f32(value).0, "{value:e}");
            assert_eq!(e4m3(-value), F8E4M3::from_f32(-value).0, "{:e}", -value);
        }
    }
}
