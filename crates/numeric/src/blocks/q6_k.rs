//! llama.cpp's Q6_K: superblocks of sixteen parts of 16 weights, each with a scale of 8 bits.
//!
//! Bytes of a superblock: 128 bytes of the codes' lower four bits, 64 bytes of their upper two, 16 scales as
//! i8, `d` as f16. The value of code `q` is `d·scale·(q - 32)`.
//!
//! Each half of 128 weights has 64 bytes of lower and 32 bytes of upper bits. Byte `i` of 64 holds weights
//! `i` and `64 + i`, low half first; byte `i` of 32 holds weights `i`, `32 + i`, `64 + i` and `96 + i`, two
//! bits each from below.

use super::row::{Layout, Weights, codes_of, f16_at, pack_nibbles, put_f16_reaching, unpack_nibbles};
use super::search::{Integers, Levels, inverse};
use super::superblock::{LEN, signed_scales};

/// The format of that name.
pub(super) struct Q6K;

type SixBits = Integers<-32, 31>;

const UPPER: usize = 128;
const SCALES: usize = 192;
const D: usize = 208;

impl Layout<LEN, 210> for Q6K {
    #[inline(always)]
    fn decode(block: &[u8; 210], out: &mut [f32; LEN]) {
        let mut codes = [0; LEN];
        for (half, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            unpack_nibbles(&block[half * 64..(half + 1) * 64], codes);
            let upper = &block[UPPER + half * 32..][..32];
            for (quarter, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (code, upper) in codes.iter_mut().zip(upper) {
                    *code |= (upper >> (2 * quarter) & 3) << 4;
                }
            }
        }
        let d = f16_at(block, D).to_f32();
        let parts = codes.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0);
        for ((codes, out), &scale) in parts.zip(&block[SCALES..D]) {
            let scale = d * f32::from(scale as i8);
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from(code as i8 - 32);
            }
        }
    }

    #[inline(always)]
    fn encode(block: &Weights<LEN>, out: &mut [u8; 210]) {
        let store = |d| put_f16_reaching(out, D, d);
        let (d, scales) = signed_scales::<SixBits, 16>(&block.x, &block.error_weights(), -128.0, store);
        let mut codes = [0; LEN];
        let parts = codes.as_chunks_mut::<16>().0.iter_mut().zip(block.x.as_chunks::<16>().0);
        for (((codes, x), scale), stored) in parts.zip(scales).zip(&mut out[SCALES..D]) {
            *stored = scale as i8 as u8;
            let inverse = inverse(d * scale);
            codes_of(x, codes, |x| SixBits::code(x * inverse));
        }
        for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
            pack_nibbles(codes, &mut out[half * 64..(half + 1) * 64]);
            for (position, upper) in out[UPPER + half * 32..][..32].iter_mut().enumerate() {
                let bits = |quarter: usize| codes[32 * quarter + position] >> 4 << (2 * quarter);
                *upper = bits(0) | bits(1) | bits(2) | bits(3);
            }
        }
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 210]) -> bool {
        f16_at(block, D).is_finite()
    }
}
