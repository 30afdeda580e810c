//! One f16 scale and integer codes: `int8` and `int4` in groups, of which llama.cpp's Q8_0 and Q4_0 are the
//! groups of 32, and Q5_0.
//!
//! Bytes of a block: the scale `d`, then for `int8` the codes as i8; for `int4` 16 bytes for each run of 32
//! weights, the first 16 of the run in the low halves; for Q5_0 the fifth bits of the 32 codes and their
//! lower four as in `int4`.

use half::f16;

use super::row::{
    Layout, Weights, codes_of, f16_at, pack_fifth_bits, pack_nibbles, put_f16, unpack_fifth_bits,
    unpack_nibbles,
};
use super::search::{Integers, Levels, best_scale, extreme, inverse, round_small};

/// `d·q`, `q` i8.
pub(super) struct Int8<const LEN: usize>;

/// `d·(q - 8)`, `q` of 4 bits.
pub(super) struct Int4<const LEN: usize>;

/// `d·(q - 16)`, `q` of 5 bits.
pub(super) struct Q5_0;

type FourBits = Integers<-8, 7>;
type FiveBits = Integers<-16, 15>;

/// Q8_0's rule: the nearest integer, halves away from zero.
#[inline(always)]
fn int8_code(value: f32) -> u8 {
    let magnitude = if value.abs() < 127.0 { value.abs() } else { 127.0 };
    let even = round_small(magnitude);
    // The difference is exact; it is a half only where ties-to-even went down.
    let away = if magnitude - even == 0.5 { even + 1.0 } else { even };
    Integers::<-127, 127>::code(away.copysign(value)).wrapping_sub(127)
}

macro_rules! int8 {
    ($len:literal, $bytes:literal) => {
        impl Layout<$len, $bytes> for Int8<$len> {
            #[inline(always)]
            fn decode(block: &[u8; $bytes], out: &mut [f32; $len]) {
                let d = f16_at(block, 0).to_f32();
                for (out, &code) in out.iter_mut().zip(&block[2..]) {
                    *out = f32::from(code as i8) * d;
                }
            }

            #[inline(always)]
            fn encode(block: &Weights<$len>, out: &mut [u8; $bytes]) {
                let exact = extreme(&block.x).abs() / 127.0;
                put_f16(out, 0, exact);
                // llama.cpp divides by the scale as it was before f16; only a saturated one is replaced.
                let inverse = inverse(exact.min(f16::MAX.to_f32()));
                codes_of(&block.x, &mut out[2..], |x| int8_code(x * inverse));
            }

            #[inline(always)]
            fn is_finite(block: &[u8; $bytes]) -> bool {
                f16_at(block, 0).is_finite()
            }
        }
    };
}

int8!(32, 34);
int8!(64, 66);
int8!(128, 130);

macro_rules! int4 {
    ($len:literal, $bytes:literal) => {
        impl Layout<$len, $bytes> for Int4<$len> {
            #[inline(always)]
            fn decode(block: &[u8; $bytes], out: &mut [f32; $len]) {
                let d = f16_at(block, 0).to_f32();
                let mut codes = [0; 32];
                for (run, out) in block[2..].as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0) {
                    unpack_nibbles(run, &mut codes);
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = f32::from(code as i8 - 8) * d;
                    }
                }
            }

            #[inline(always)]
            fn encode(block: &Weights<$len>, out: &mut [u8; $bytes]) {
                let d = put_f16(out, 0, best_scale::<FourBits>(&block.x, &block.error_weights()));
                let (mut codes, inverse) = ([0; $len], inverse(d));
                codes_of(&block.x, &mut codes, |x| FourBits::code(x * inverse));
                for (codes, run) in codes.as_chunks::<32>().0.iter().zip(out[2..].as_chunks_mut::<16>().0) {
                    pack_nibbles(codes, run);
                }
            }

            #[inline(always)]
            fn is_finite(block: &[u8; $bytes]) -> bool {
                f16_at(block, 0).is_finite()
            }
        }
    };
}

int4!(32, 18);
int4!(64, 34);
int4!(128, 66);

impl Layout<32, 22> for Q5_0 {
    #[inline(always)]
    fn decode(block: &[u8; 22], out: &mut [f32; 32]) {
        let d = f16_at(block, 0).to_f32();
        let mut codes = [0; 32];
        unpack_nibbles(&block[6..], &mut codes);
        unpack_fifth_bits(&block[2..6], &mut codes);
        for (out, code) in out.iter_mut().zip(codes) {
            *out = f32::from(code as i8 - 16) * d;
        }
    }

    #[inline(always)]
    fn encode(block: &Weights<32>, out: &mut [u8; 22]) {
        let d = put_f16(out, 0, best_scale::<FiveBits>(&block.x, &block.error_weights()));
        let (mut codes, inverse) = ([0; 32], inverse(d));
        codes_of(&block.x, &mut codes, |x| FiveBits::code(x * inverse));
        pack_fifth_bits(&codes, &mut out[2..6]);
        pack_nibbles(&codes, &mut out[6..]);
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 22]) -> bool {
        f16_at(block, 0).is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::int8_code;

    #[test]
    fn int8_rounds_halves_away_from_zero() {
        for step in 0..=127 * 8 {
            let eighths = step as f32 / 8.0;
            for value in [eighths, eighths.next_up(), eighths.next_down()] {
                let expected = value.round().min(127.0) as i8;
                assert_eq!(int8_code(value) as i8, expected, "{value:e}");
                assert_eq!(int8_code(-value) as i8, -expected, "{:e}", -value);
            }
        }
        assert_eq!((int8_code(1e30) as i8, int8_code(-1e30) as i8), (127, -127));
    }
}
