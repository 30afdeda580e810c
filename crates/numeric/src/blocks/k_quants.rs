//! llama.cpp's Q4_K and Q5_K: superblocks of eight parts of 32 weights, each with a scale and a minimum of
//! 6 bits.
//!
//! Bytes of a superblock: `d` and `dmin` as f16, 12 bytes of scales and minima, for Q5_K 32 bytes of fifth
//! bits (bit `j` of byte `i` belongs to weight `i` of part `j`), then for each pair of parts 32 bytes, the
//! first of the pair in the low halves. The value of code `q` is `d·scale·q - dmin·min`.
//!
//! The 12 bytes: byte `j < 4` holds the scale of part `j`, byte `4 + j` its minimum, 6 bits each; their two
//! upper bits are the upper bits of scale and minimum of part `4 + j`, whose lower four share byte `8 + j`.

use super::row::{Layout, Weights, codes_of, f16_at, pack_nibbles, put_f16_reaching, unpack_nibbles};
use super::search::{Affine, Integers, Levels, inverse};
use super::superblock::{LEN, PARTS, affine_scales};

/// Codes of 4 bits.
pub(super) struct Q4K;

/// Codes of 5 bits.
pub(super) struct Q5K;

/// Scale and minimum of part `j`.
#[inline(always)]
fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        return (packed[j] & 63, packed[j + 4] & 63);
    }
    (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
}

/// The reverse of [`scale_and_min`] for all parts.
#[inline(always)]
fn pack_scales(chosen: &[Affine; PARTS], packed: &mut [u8]) {
    let six_bits = |j: usize| (chosen[j].scale as u8, chosen[j].min as u8);
    for j in 0..4 {
        let ((scale, min), (far_scale, far_min)) = (six_bits(j), six_bits(j + 4));
        packed[j] = scale | far_scale >> 4 << 6;
        packed[j + 4] = min | far_min >> 4 << 6;
        packed[j + 8] = far_scale & 15 | far_min << 4;
    }
}

#[inline(always)]
fn decode(block: &[u8], codes: &[u8; LEN], out: &mut [f32; LEN]) {
    let (d, d_min) = (f16_at(block, 0).to_f32(), f16_at(block, 2).to_f32());
    let parts = codes.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<32>().0);
    for (j, (codes, out)) in parts.enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], j);
        let (scale, min) = (d * f32::from(scale), d_min * f32::from(min));
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(code) - min;
        }
    }
}

/// Writes the scales and returns the codes.
#[inline(always)]
fn encode<const HIGH: i32>(block: &Weights<LEN>, out: &mut [u8]) -> [u8; LEN] {
    let (d, chosen) = affine_scales::<HIGH>(&block.x, &block.error_weights(), |d| Affine {
        scale: put_f16_reaching(out, 0, d.scale),
        min: -put_f16_reaching(out, 2, -d.min),
    });
    pack_scales(&chosen, &mut out[4..16]);
    let mut codes = [0; LEN];
    let parts = codes.as_chunks_mut::<32>().0.iter_mut().zip(block.x.as_chunks::<32>().0);
    for ((codes, x), chosen) in parts.zip(&chosen) {
        let (inverse, min) = (inverse(d.scale * chosen.scale), d.min * chosen.min);
        codes_of(x, codes, |x| Integers::<0, HIGH>::code((x - min) * inverse));
    }
    codes
}

#[inline(always)]
fn is_finite(block: &[u8]) -> bool {
    f16_at(block, 0).is_finite() && f16_at(block, 2).is_finite()
}

/// Pairs of parts share bytes: 32 of them for 64 codes.
#[inline(always)]
fn unpack_pairs(bytes: &[u8]) -> [u8; LEN] {
    let mut codes = [0; LEN];
    for (bytes, codes) in bytes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<64>().0) {
        unpack_nibbles(bytes, codes);
    }
    codes
}

#[inline(always)]
fn pack_pairs(codes: &[u8; LEN], bytes: &mut [u8]) {
    for (codes, bytes) in codes.as_chunks::<64>().0.iter().zip(bytes.as_chunks_mut::<32>().0) {
        pack_nibbles(codes, bytes);
    }
}

impl Layout<LEN, 144> for Q4K {
    #[inline(always)]
    fn decode(block: &[u8; 144], out: &mut [f32; LEN]) {
        decode(block, &unpack_pairs(&block[16..]), out);
    }

    #[inline(always)]
    fn encode(block: &Weights<LEN>, out: &mut [u8; 144]) {
        let codes = encode::<15>(block, out);
        pack_pairs(&codes, &mut out[16..]);
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 144]) -> bool {
        is_finite(block)
    }
}

impl Layout<LEN, 176> for Q5K {
    #[inline(always)]
    fn decode(block: &[u8; 176], out: &mut [f32; LEN]) {
        let mut codes = unpack_pairs(&block[48..]);
        for (j, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, fifth) in codes.iter_mut().zip(&block[16..48]) {
                *code |= (fifth >> j & 1) << 4;
            }
        }
        decode(block, &codes, out);
    }

    #[inline(always)]
    fn encode(block: &Weights<LEN>, out: &mut [u8; 176]) {
        let codes = encode::<31>(block, out);
        pack_pairs(&codes, &mut out[48..]);
        out[16..48].fill(0);
        for (j, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            for (code, fifth) in codes.iter().zip(&mut out[16..48]) {
                *fifth |= (code >> 4) << j;
            }
        }
    }

    #[inline(always)]
    fn is_finite(block: &[u8; 176]) -> bool {
        is_finite(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_survive_packing() {
        for step in 0..64 {
            let chosen: [Affine; PARTS] = std::array::from_fn(|j| Affine {
                scale: ((step * (j + 1)) % 64) as f32,
                min: ((step + 7 * j) % 64) as f32,
            });
            let mut packed = [0xff; 12];
            pack_scales(&chosen, &mut packed);
            for (j, chosen) in chosen.iter().enumerate() {
                let (scale, min) = scale_and_min(&packed, j);
                assert_eq!((f32::from(scale), f32::from(min)), (chosen.scale, chosen.min), "part {j}");
            }
        }
    }
}
