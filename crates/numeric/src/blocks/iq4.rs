//! Codes of 4 bits into a table of sixteen unequal levels: llama.cpp's IQ4_NL and IQ4_XS.
//!
//! IQ4_NL, 32 weights: `d` as f16, codes as in `int4`. IQ4_XS, 256 weights in eight parts of 32: `d` as f16,
//! the upper two bits of the parts' scales (part `j` at bit `2j` of two bytes), their lower four bits (two
//! parts to a byte), codes as in `int4` for each part. The value of code `q` is `d·(scale - 32)·table[q]`,
//! in IQ4_NL `d·table[q]`.

use super::row::{
    Layout, Weights, codes_of, f16_at, pack_nibbles, put_f16, put_f16_reaching, unpack_nibbles,
};
use super::search::{LANES, Lanes, Levels, best_scale, inverse};
use super::superblock::{LEN, PARTS, signed_scales};

/// 32 weights with one scale.
pub(super) struct Iq4Nl;

/// 256 weights with eight scales.
pub(super) struct Iq4Xs;

/// The levels, denser around zero as weights are; llama.cpp's `kvalues_iq4nl`.
const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Halfway between each level and the next.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut code = 0;
    while code < 15 {
        middles[code] = (TABLE[code] as f32 + TABLE[code + 1] as f32) / 2.0;
        code += 1;
    }
    middles
};

/// The table as levels of a search.
struct Table;

impl Levels for Table {
    /// Around both ends of the table, as it is not symmetric: ten starts at -127, six at 113.
    const STARTS: Lanes = {
        let mut starts = [0.0; LANES];
        let mut lane = 0;
        while lane < LANES {
            starts[lane] =
                if lane < 10 { -109.5 - 2.5 * lane as f32 } else { 107.0 + 3.0 * (lane - 10) as f32 };
            lane += 1;
        }
        starts
    };

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        let mut level = f32::from(TABLE[0]);
        for code in 0..15 {
            let step = f32::from(TABLE[code + 1]) - f32::from(TABLE[code]);
            level += if value >= MIDDLES[code] { step } else { 0.0 };
        }
        level
    }

    #[inline(always)]
    fn code(value: f32) -> u8 {
        MIDDLES.iter().map(|&middle| u8::from(value >= middle)).sum()
    }
}

/// Values of 32 codes in 16 bytes.
#[inline(always)]
fn decode_run(bytes: &[u8], scale: f32, out: &mut [f32; 32]) {
    let mut codes = [0; 32];
    unpack_nibbles(bytes, &mut codes);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(TABLE[usize::from(code)]);
    }
}

/// Codes of 32 weights in 16 bytes.
#[inline(always)]
fn encode_run(x: &[f32; 32], scale: f32, bytes: &mut [u8]) {
    let (mut codes, inverse) = ([0; 32], inverse(scale));
    codes_of(x, &mut codes, |x| Table::code(x * inverse));
    pack_nibbles(&codes, bytes);
}

impl Layout<32, 18> for Iq4Nl {
    #[inline(always)]
    fn decode(block: &[u8; 18], out: &mut [f32; 32]) {
        decode_run(&block[2..], f16_at(block, 0).to_f32(), out);
    }

    #[inline(always)]
    fn encode(block: &Weights<32>, out: &mut [u8; 18]) {
        let d = put_f16(out, 0, best_scale::<Table>(&block.x, &block.error_weights()));
        encode_run(&block.x, d, &mut out[2..]);
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 18]) -> bool {
        f16_at(block, 0).is_finite()
    }
}

impl Layout<LEN, 136> for Iq4Xs {
    #[inline(always)]
    fn decode(block: &[u8; 136], out: &mut [f32; LEN]) {
        let d = f16_at(block, 0).to_f32();
        let upper = u16::from_le_bytes([block[2], block[3]]);
        let parts = block[8..].as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
        for (j, (bytes, out)) in parts.enumerate() {
            let low = block[4 + j / 2] >> (4 * (j % 2)) & 15;
            let scale = low | ((upper >> (2 * j) & 3) << 4) as u8;
            decode_run(bytes, d * f32::from(scale as i8 - 32), out);
        }
    }

    #[inline(always)]
    fn encode(block: &Weights<LEN>, out: &mut [u8; 136]) {
        let store = |d| put_f16_reaching(out, 0, d);
        let (d, scales) = signed_scales::<Table, PARTS>(&block.x, &block.error_weights(), -32.0, store);
        let mut upper = 0;
        out[4..8].fill(0);
        for (j, scale) in scales.into_iter().enumerate() {
            let stored = (scale + 32.0) as u8;
            upper |= u16::from(stored >> 4) << (2 * j);
            out[4 + j / 2] |= (stored & 15) << (4 * (j % 2));
            let x = &block.x.as_chunks::<32>().0[j];
            encode_run(x, d * scale, &mut out[8 + 16 * j..][..16]);
        }
        out[2..4].copy_from_slice(&upper.to_le_bytes());
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 136]) -> bool {
        f16_at(block, 0).is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::{Levels, TABLE, Table};

    #[test]
    fn finds_the_nearest_level() {
        for step in -1300..1300 {
            let value = step as f32 / 10.0;
            let nearest = Table::nearest(value);
            assert_eq!(nearest, f32::from(TABLE[usize::from(Table::code(value))]));
            for level in TABLE {
                let other = (f32::from(level) - value).abs();
                assert!((nearest - value).abs() <= other, "{value}: {nearest}, but {level} is nearer");
            }
        }
    }
}
