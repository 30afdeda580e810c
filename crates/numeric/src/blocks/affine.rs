//! One f16 scale and one f16 minimum for 32 weights: llama.cpp's Q4_1 and Q5_1.
//!
//! Bytes of a block: scale `d`, minimum `m`, for Q5_1 the fifth bits of the codes, then the lower four bits
//! as in `int4`. The value of code `q` is `d·q + m`.

use super::row::{
    Layout, Weights, codes_of, f16_at, pack_fifth_bits, pack_nibbles, put_f16, unpack_fifth_bits,
    unpack_nibbles,
};
use super::search::{Integers, Levels, best_affine, inverse};

/// Codes of 4 bits.
pub(super) struct Q4_1;

/// Codes of 5 bits.
pub(super) struct Q5_1;

#[inline(always)]
fn decode(block: &[u8], codes: &[u8; 32], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0).to_f32(), f16_at(block, 2).to_f32());
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = f32::from(code) * d + m;
    }
}

/// Writes scale and minimum and returns the codes.
#[inline(always)]
fn encode<const HIGH: i32>(block: &Weights<32>, out: &mut [u8]) -> [u8; 32] {
    let best = best_affine::<HIGH, false>(&block.x, &block.error_weights());
    let (d, m) = (put_f16(out, 0, best.scale), put_f16(out, 2, best.min));
    let (mut codes, inverse) = ([0; 32], inverse(d));
    codes_of(&block.x, &mut codes, |x| Integers::<0, HIGH>::code((x - m) * inverse));
    codes
}

#[inline(always)]
fn is_finite(block: &[u8]) -> bool {
    f16_at(block, 0).is_finite() && f16_at(block, 2).is_finite()
}

impl Layout<32, 20> for Q4_1 {
    #[inline(always)]
    fn decode(block: &[u8; 20], out: &mut [f32; 32]) {
        let mut codes = [0; 32];
        unpack_nibbles(&block[4..], &mut codes);
        decode(block, &codes, out);
    }

    #[inline(always)]
    fn encode(block: &Weights<32>, out: &mut [u8; 20]) {
        let codes = encode::<15>(block, out);
        pack_nibbles(&codes, &mut out[4..]);
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 20]) -> bool {
        is_finite(block)
    }
}

impl Layout<32, 24> for Q5_1 {
    #[inline(always)]
    fn decode(block: &[u8; 24], out: &mut [f32; 32]) {
        let mut codes = [0; 32];
        unpack_nibbles(&block[8..], &mut codes);
        unpack_fifth_bits(&block[4..8], &mut codes);
        decode(block, &codes, out);
    }

    #[inline(always)]
    fn encode(block: &Weights<32>, out: &mut [u8; 24]) {
        let codes = encode::<31>(block, out);
        pack_fifth_bits(&codes, &mut out[4..8]);
        pack_nibbles(&codes, &mut out[8..]);
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 24]) -> bool {
        is_finite(block)
    }
}
