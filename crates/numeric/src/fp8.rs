//! FP8 E4M3 (the `fn` variant: no infinities) and its 128×128 block scales.
//!
//! Bits `s eeee mmm`, bias 7: `(-1)^s · 2^(e-7) · 1.mmm`, subnormal `2^-6 · 0.mmm` for `e = 0`.
//! `S.1111.111` is NaN; the largest finite value is ±448. DeepSeek-V3 stores a weight matrix
//! `[rows, cols]` with `weight_scale_inv` `[⌈rows/128⌉, ⌈cols/128⌉]`: `value = q · scale_inv` of
//! the block that holds the element. It multiplies, whatever its name says. The last blocks of a
//! ragged matrix are smaller, never shifted (V3 §3.3; README_WEIGHTS of the released model).

use bytemuck::{Pod, Zeroable};

/// Rows and columns of one scale block in the released checkpoints.
pub const BLOCK: usize = 128;

/// The largest finite E4M3 value.
pub const MAX: f32 = 448.0;

/// One E4M3 number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E4M3(pub u8);

impl F8E4M3 {
    /// The exact value of these bits; NaN for `0x7f` and `0xff`.
    pub const fn to_f32(self) -> f32 {
        let sign = (self.0 as u32 & 0x80) << 24;
        let exponent = (self.0 as u32 >> 3) & 0xf;
        let mantissa = self.0 as u32 & 0x7;
        let magnitude = match (exponent, mantissa) {
            (0xf, 0x7) => return f32::NAN,
            // 2^-9 per unit of a subnormal mantissa: exact in f32.
            (0, m) => (m as f32 * (1.0 / 512.0)).to_bits(),
            (e, m) => ((e + 120) << 23) | (m << 20),
        };
        f32::from_bits(sign | magnitude)
    }

    /// The nearest E4M3 number, ties to even; magnitudes beyond 448 saturate, NaN stays NaN.
    pub fn from_f32(value: f32) -> Self {
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        let magnitude = value.abs();
        if magnitude.is_nan() {
            return Self(sign | 0x7f);
        }
        if magnitude >= MAX {
            return Self(sign | 0x7e);
        }
        // One unit in the last place at this magnitude; below 2^-6 the spacing stays 2^-9.
        let exponent = (magnitude.to_bits() >> 23) as i32 - 127;
        let unit_exponent = exponent.max(-6) - 3;
        let unit = f32::from_bits(((unit_exponent + 127) as u32) << 23);
        // Both the division by a power of two and the product below are exact.
        let rounded = (magnitude / unit).round_ties_even() * unit;
        Self(sign | Self::encode_exact(rounded))
    }

    /// Bits of a non-negative value that E4M3 holds exactly.
    fn encode_exact(value: f32) -> u8 {
        let bits = value.to_bits();
        let exponent = (bits >> 23) as i32 - 127;
        if exponent < -6 {
            return (value * 512.0) as u8;
        }
        (((exponent + 7) as u8) << 3) | ((bits >> 20) & 7) as u8
    }
}

/// Every E4M3 code's value, for decoders that look up instead of computing.
pub const DECODE: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = F8E4M3(code as u8).to_f32();
        code += 1;
    }
    table
};

/// A matrix in E4M3 with one scale per block of [`BLOCK`]×[`BLOCK`].
#[derive(Clone, Debug, PartialEq)]
pub struct BlockScaled {
    /// `[rows, cols]` codes, row-major.
    pub codes: Vec<F8E4M3>,
    /// `[⌈rows/128⌉, ⌈cols/128⌉]`: what a code is multiplied by.
    pub scale_inv: Vec<f32>,
}

/// Quantizes `weights` `[rows, cols]` to E4M3 with the scale `amax / 448` of each block, as the
/// released V3 checkpoints were made; `power_of_two` rounds scales up to a power of two (V3.1's
/// `scale_fmt: ue8m0`). A block of zeros gets the scale 1.
///
/// # Panics
/// If `weights.len() != rows * cols`.
pub fn quantize_blocks(weights: &[f32], rows: usize, cols: usize, power_of_two: bool) -> BlockScaled {
    assert_eq!(weights.len(), rows * cols, "weights are [{rows}, {cols}]");
    let (block_rows, block_cols) = (rows.div_ceil(BLOCK), cols.div_ceil(BLOCK));
    let mut amax = vec![0.0f32; block_rows * block_cols];
    for (index, weight) in weights.iter().enumerate() {
        let block = block_of(index / cols, index % cols, block_cols);
        amax[block] = amax[block].max(weight.abs());
    }
    let scale_inv: Vec<f32> = amax.iter().map(|&amax| block_scale(amax, power_of_two)).collect();
    let codes = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| {
            F8E4M3::from_f32(weight / scale_inv[block_of(index / cols, index % cols, block_cols)])
        })
        .collect();
    BlockScaled { codes, scale_inv }
}

/// Index of the scale that covers element (`row`, `col`) when a row of blocks holds `block_cols`.
pub fn block_of(row: usize, col: usize, block_cols: usize) -> usize {
    (row / BLOCK) * block_cols + col / BLOCK
}

fn block_scale(amax: f32, power_of_two: bool) -> f32 {
    match (amax > 0.0, power_of_two) {
        (false, _) => 1.0,
        (true, false) => amax / MAX,
        (true, true) => (amax / MAX).log2().ceil().exp2(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_the_landmarks() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ] {
            assert_eq!(F8E4M3(code).to_f32(), value, "code {code:#04x}");
        }
        assert!(F8E4M3(0x7f).to_f32().is_nan() && F8E4M3(0xff).to_f32().is_nan());
        assert!(F8E4M3(0x80).to_f32().is_sign_negative());
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in 0..=255u8 {
            let value = F8E4M3(code).to_f32();
            let again = F8E4M3::from_f32(value);
            assert!(again.0 == code || value.is_nan(), "code {code:#04x} became {:#04x}", again.0);
            assert_eq!(DECODE[code as usize].to_bits(), value.to_bits());
        }
    }

    /// Against a search through all codes: nearest, and of two equally near the even one.
    #[test]
    fn encodes_to_the_nearest_code() {
        let mut value = 1.0e-4f32;
        while value < 600.0 {
            let encoded = F8E4M3::from_f32(value).0;
            let distance = |code: u8| (f64::from(F8E4M3(code).to_f32()) - f64::from(value)).abs();
            let nearest = (0..=0x7e)
                .min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
                .expect("the range is not empty");
            assert_eq!(encoded, nearest, "value {value}");
            assert_eq!(F8E4M3::from_f32(-value).0, nearest | 0x80);
            value *= 1.003;
        }
        // Halfway between 1 (mantissa 0) and 1.125 (mantissa 1).
        assert_eq!(F8E4M3::from_f32(1.0625).0, 0x38);
        assert_eq!(F8E4M3::from_f32(1.1875).0, 0x3a);
    }

    #[test]
    fn ragged_blocks_have_their_own_scales() {
        let (rows, cols) = (130, 129);
        let weights: Vec<f32> = (0..rows * cols)
            .map(|index| if index / cols >= 128 { 1000.0 } else { 0.5 } * if index % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        for power_of_two in [false, true] {
            let quantized = quantize_blocks(&weights, rows, cols, power_of_two);
            assert_eq!(quantized.scale_inv.len(), 4);
            for (index, weight) in weights.iter().enumerate() {
                let scale = quantized.scale_inv[block_of(index / cols, index % cols, 2)];
                let value = quantized.codes[index].to_f32() * scale;
                assert!((value - weight).abs() <= weight.abs() / 16.0, "{value} for {weight}");
                assert!(!power_of_two || scale.log2().fract() == 0.0);
            }
        }
    }
}
