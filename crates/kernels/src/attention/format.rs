//! How cached numbers are stored, and what a cache block looks like in bytes.
//!
//! ```text
//! block of 64 tokens:  numbers [64, row_bytes]   f32, bf16: c^KV and k^R side by side
//!                                                int8, fp8: c^KV alone, padded to whole cache lines
//!                      scales  [64, groups] f32  int8, fp8: of every 128 numbers of c^KV
//!                      sums    [64, groups] i32  int8: of the same numbers as stored, times -128
//!                      rotary  [64, rope] bf16   int8, fp8: k^R
//! ```
//!
//! The rotary key stays bf16: it is a ninth of the numbers, its scores decide where a head looks,
//! and rotation mixes channels of very different size. Groups keep a large channel of the latent
//! from coarsening the rest. The sums let a kernel multiply by unsigned bytes (`q + 128`), which
//! is what `vpdpbusd` wants on one side.

use std::fmt;
use std::ops::Range;

use fathom_numeric::fp8::{self, F8E4M3};
use fathom_numeric::round;

use super::BLOCK_TOKENS;
use crate::math::per_isa;

/// Numbers of `c^KV` that share a scale.
pub(super) const GROUP: usize = 128;

/// How cached numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheFormat {
    /// 4 bytes per number: what is cached is what was computed.
    F32,
    /// 2 bytes per number.
    Bf16,
    /// `c^KV` as signed bytes with an f32 scale per 128 numbers, `k^R` as bf16. Attention then
    /// multiplies bytes where the processor has a unit for it (AVX-512 VNNI).
    Int8,
    /// `c^KV` as FP8 E4M3 with an f32 scale per 128 numbers, `k^R` as bf16.
    Fp8,
}

impl CacheFormat {
    /// All formats, the most exact first.
    pub const ALL: [CacheFormat; 4] =
        [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Int8, CacheFormat::Fp8];

    /// The word for it: `f32`, `bf16`, `int8` or `fp8`.
    pub const fn name(self) -> &'static str {
        match self {
            CacheFormat::F32 => "f32",
            CacheFormat::Bf16 => "bf16",
            CacheFormat::Int8 => "int8",
            CacheFormat::Fp8 => "fp8",
        }
    }

    /// Bytes of a number of the latent, without scales.
    pub const fn number_bytes(self) -> usize {
        match self {
            CacheFormat::F32 => 4,
            CacheFormat::Bf16 => 2,
            CacheFormat::Int8 | CacheFormat::Fp8 => 1,
        }
    }

    /// Bytes of one token in one layer, for a latent of `latent` and a rotary key of `rope`
    /// numbers, scales and padding included.
    pub const fn row_bytes(self, latent: usize, rope: usize) -> usize {
        Layout::new(self, latent, rope).block_bytes / BLOCK_TOKENS
    }
}

impl fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where everything is in a block. All parts begin on cache lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) format: CacheFormat,
    pub(super) latent: usize,
    pub(super) rope: usize,
    /// From one token's numbers to the next one's.
    pub(super) row_bytes: usize,
    /// Scales per token.
    pub(super) groups: usize,
    scales: usize,
    sums: usize,
    rotary: usize,
    pub(super) block_bytes: usize,
}

impl Layout {
    pub(super) const fn new(format: CacheFormat, latent: usize, rope: usize) -> Self {
        let (row_bytes, groups) = match format {
            CacheFormat::F32 => (4 * (latent + rope), 0),
            CacheFormat::Bf16 => (2 * (latent + rope), 0),
            CacheFormat::Int8 | CacheFormat::Fp8 => (latent.next_multiple_of(64), latent.div_ceil(GROUP)),
        };
        let scales = BLOCK_TOKENS * row_bytes;
        let sums = scales + BLOCK_TOKENS * 4 * groups;
        let rotary =
            if matches!(format, CacheFormat::Int8) { sums + BLOCK_TOKENS * 4 * groups } else { sums };
        let rotary_bytes = if groups > 0 { 2 * rope } else { 0 };
        let block_bytes = rotary + BLOCK_TOKENS * rotary_bytes;
        Self { format, latent, rope, row_bytes, groups, scales, sums, rotary, block_bytes }
    }

    pub(super) const fn width(&self) -> usize {
        self.latent + self.rope
    }
}

/// One block to read.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    layout: Layout,
    pub(super) bytes: &'a [u8],
}

impl<'a> Block<'a> {
    pub(super) fn new(layout: Layout, bytes: &'a [u8]) -> Self {
        assert_eq!(bytes.len(), layout.block_bytes);
        Self { layout, bytes }
    }

    /// The stored numbers of all tokens, `row_bytes` apart.
    pub(super) fn numbers(&self) -> &'a [u8] {
        &self.bytes[..BLOCK_TOKENS * self.layout.row_bytes]
    }

    /// Scales of `count` tokens, `[count, groups]`.
    pub(super) fn scales(&self, token: usize, count: usize) -> &'a [f32] {
        let groups = self.layout.groups;
        bytemuck::cast_slice(&self.bytes[self.layout.scales + 4 * token * groups..][..4 * count * groups])
    }

    /// -128 times the sums of `count` tokens' stored numbers, `[count, groups]`.
    pub(super) fn sums(&self, token: usize, count: usize) -> &'a [i32] {
        let groups = self.layout.groups;
        bytemuck::cast_slice(&self.bytes[self.layout.sums + 4 * token * groups..][..4 * count * groups])
    }

    /// Rotary keys of `count` tokens, `[count, rope]`, where they are stored apart.
    pub(super) fn rotary(&self, token: usize, count: usize) -> &'a [u16] {
        let rope = self.layout.rope;
        bytemuck::cast_slice(&self.bytes[self.layout.rotary + 2 * token * rope..][..2 * count * rope])
    }
}

/// Writes `values [latent + rope]` as token `token` of a block.
pub(super) fn encode(isa: crate::Isa, layout: Layout, block: &mut [u8], token: usize, values: &[f32]) {
    let numbers = token * layout.row_bytes..(token + 1) * layout.row_bytes;
    match layout.format {
        CacheFormat::F32 => {
            bytemuck::cast_slice_mut::<u8, f32>(&mut block[numbers]).copy_from_slice(values);
        }
        CacheFormat::Bf16 => narrow(isa, values, bytemuck::cast_slice_mut(&mut block[numbers])),
        CacheFormat::Int8 | CacheFormat::Fp8 => {
            let (latent, rotary) = values.split_at(layout.latent);
            for (group, values) in latent.chunks(GROUP).enumerate() {
                let at = token * layout.row_bytes + group * GROUP;
                let stored = &mut block[at..at + values.len()];
                let index = 4 * (token * layout.groups + group);
                let scale = if layout.format == CacheFormat::Int8 {
                    let (scale, sum) = encode_int8(isa, values, bytemuck::cast_slice_mut(stored));
                    block[layout.sums + index..][..4].copy_from_slice(&sum.to_ne_bytes());
                    scale
                } else {
                    encode_fp8(isa, values, stored)
                };
                block[layout.scales + index..][..4].copy_from_slice(&scale.to_ne_bytes());
            }
            let at = layout.rotary + 2 * token * layout.rope;
            narrow(isa, rotary, bytemuck::cast_slice_mut(&mut block[at..at + 2 * layout.rope]));
        }
    }
}

per_isa! {
    /// The largest magnitude.
    pub(super) fn largest(values: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        let (chunks, rest) = values.as_chunks::<16>();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = if value.abs() > *lane { value.abs() } else { *lane };
            }
        }
        lanes.iter().copied().chain(rest.iter().map(|value| value.abs())).fold(0.0, f32::max)
    }
}

per_isa! {
    fn narrow(values: &[f32], out: &mut [u16]) {
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = round::to_bf16_bits(value));
    }
}

/// `value ≈ stored · scale`, the largest magnitude at ±127. Returns the scale and -128 times the sum
/// of what is stored.
fn encode_int8(isa: crate::Isa, values: &[f32], out: &mut [i8]) -> (f32, i32) {
    let (inverse, scale) = scales(largest(isa, values), 127.0);
    let sum = round_int8(isa, values, inverse, out);
    (scale, -128 * sum)
}

per_isa! {
    fn round_int8(values: &[f32], inverse: f32, out: &mut [i8]) -> i32 {
        let mut sum = 0i32;
        for (out, value) in out.iter_mut().zip(values) {
            // Adding 1.5 · 2²³ rounds to an integer, ties to even, and leaves it in the low bits.
            *out = (value * inverse + 12_582_912.0).to_bits() as i8;
            sum += i32::from(*out);
        }
        sum
    }
}

/// `value ≈ stored · scale`, the largest magnitude at 448. Returns the scale.
fn encode_fp8(isa: crate::Isa, values: &[f32], out: &mut [u8]) -> f32 {
    let (inverse, scale) = scales(largest(isa, values), fp8::MAX);
    out.iter_mut().zip(values).for_each(|(out, value)| *out = F8E4M3::from_f32(value * inverse).0);
    scale
}

/// What to multiply by before and after rounding, so that `largest` becomes `target`.
pub(super) fn scales(largest: f32, target: f32) -> (f32, f32) {
    // So small a magnitude would overflow the inverse; it is zero beside any other token's.
    if largest > f32::MIN_POSITIVE * target { (target / largest, largest / target) } else { (0.0, 0.0) }
}

/// Columns `cols` of tokens `tokens` of a block as f32, `out_stride` apart.
pub(super) fn decode(
    isa: crate::Isa,
    block: Block<'_>,
    tokens: Range<usize>,
    cols: Range<usize>,
    out: &mut [f32],
    out_stride: usize,
) {
    let layout = block.layout;
    assert!(tokens.end <= BLOCK_TOKENS && cols.end <= layout.width());
    let numbers = &block.bytes[tokens.start * layout.row_bytes..tokens.end * layout.row_bytes];
    match layout.format {
        CacheFormat::F32 => {
            let rows = Stored { stride: layout.row_bytes / 4, cols };
            copy_rows(isa, bytemuck::cast_slice(numbers), rows, out, out_stride);
        }
        CacheFormat::Bf16 => {
            let rows = Stored { stride: layout.row_bytes / 2, cols };
            widen_rows(isa, bytemuck::cast_slice(numbers), rows, out, out_stride);
        }
        CacheFormat::Int8 | CacheFormat::Fp8 => {
            let latent = cols.start.min(layout.latent)..cols.end.min(layout.latent);
            let mut first = latent.start;
            while first < latent.end {
                let end = latent.end.min((first / GROUP + 1) * GROUP);
                let rows = Stored { stride: layout.row_bytes, cols: first..end };
                let out = &mut out[first - cols.start..];
                let scales = (&block.scales(tokens.start, tokens.len())[first / GROUP..], layout.groups);
                match layout.format {
                    CacheFormat::Int8 => {
                        decode_int8(isa, bytemuck::cast_slice(numbers), rows, scales, out, out_stride);
                    }
                    _ => decode_fp8(isa, numbers, rows, scales, out, out_stride),
                }
                first = end;
            }
            let rotary = cols.start.max(layout.latent)..cols.end.max(layout.latent);
            if !rotary.is_empty() {
                let rows = Stored {
                    stride: layout.rope,
                    cols: rotary.start - layout.latent..rotary.end - layout.latent,
                };
                let out = &mut out[rotary.start - cols.start..];
                widen_rows(isa, block.rotary(tokens.start, tokens.len()), rows, out, out_stride);
            }
        }
    }
}

/// Some columns of stored rows.
#[derive(Clone)]
struct Stored {
    stride: usize,
    cols: Range<usize>,
}

per_isa! {
    fn copy_rows(numbers: &[f32], rows: Stored, out: &mut [f32], out_stride: usize) {
        for (row, out) in numbers.chunks_exact(rows.stride).zip(out.chunks_mut(out_stride)) {
            out[..rows.cols.len()].copy_from_slice(&row[rows.cols.clone()]);
        }
    }
}

per_isa! {
    fn widen_rows(numbers: &[u16], rows: Stored, out: &mut [f32], out_stride: usize) {
        for (row, out) in numbers.chunks_exact(rows.stride).zip(out.chunks_mut(out_stride)) {
            let row = &row[rows.cols.clone()];
            let (whole, rest) = row.as_chunks::<32>();
            let (out_whole, out_rest) = out[..row.len()].as_chunks_mut::<32>();
            for (out, row) in out_whole.iter_mut().zip(whole) {
                out.iter_mut().zip(row).for_each(|(out, &bits)| *out = round::from_bf16_bits(bits));
            }
            out_rest.iter_mut().zip(rest).for_each(|(out, &bits)| *out = round::from_bf16_bits(bits));
        }
    }
}

per_isa! {
    fn decode_int8(numbers: &[i8], rows: Stored, scales: (&[f32], usize), out: &mut [f32], out_stride: usize) {
        let rows_and_scales = numbers.chunks_exact(rows.stride).zip(scales.0.iter().step_by(scales.1));
        for ((row, scale), out) in rows_and_scales.zip(out.chunks_mut(out_stride)) {
            let row = &row[rows.cols.clone()];
            out.iter_mut().zip(row).for_each(|(out, &stored)| *out = f32::from(stored) * scale);
        }
    }
}

per_isa! {
    /// NaN is never stored, so the exponent 15 needs no care; for the exponent 0 the mantissa
    /// counts units of 2^-9.
    fn decode_fp8(numbers: &[u8], rows: Stored, scales: (&[f32], usize), out: &mut [f32], out_stride: usize) {
        let rows_and_scales = numbers.chunks_exact(rows.stride).zip(scales.0.iter().step_by(scales.1));
        for ((row, scale), out) in rows_and_scales.zip(out.chunks_mut(out_stride)) {
            for (out, &stored) in out.iter_mut().zip(&row[rows.cols.clone()]) {
                let bits = u32::from(stored);
                let normal = f32::from_bits(((bits & 0x7f) << 20) + (120 << 23));
                let subnormal = (bits & 7) as f32 * (1.0 / 512.0);
                let magnitude = if bits & 0x78 == 0 { subnormal } else { normal };
                *out = f32::from_bits(magnitude.to_bits() | (bits & 0x80) << 24) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn bytes_of_a_token_are_those_of_the_formats() {
        let bytes = CacheFormat::ALL.map(|format| format.row_bytes(512, 64));
        assert_eq!(bytes, [2304, 1152, 672, 656]);
        assert_eq!(CacheFormat::Int8.row_bytes(33, 6), 64 + 4 + 4 + 12);
    }

    #[test]
    fn every_fp8_number_is_read_as_its_meaning() {
        let stored: Vec<u8> = (0..=255u8).filter(|bits| bits & 0x7f != 0x7f).collect();
        for isa in Isa::available() {
            let mut out = vec![0.0; stored.len()];
            let rows = Stored { stride: stored.len(), cols: 0..stored.len() };
            decode_fp8(isa, &stored, rows, (&[0.5], 1), &mut out, stored.len());
            for (&bits, out) in stored.iter().zip(out) {
                assert_eq!(out, F8E4M3(bits).to_f32() * 0.5, "{isa} {bits:#x}");
            }
        }
    }

    /// Every value within `bound` of its group's largest magnitude.
    #[track_caller]
    fn check(format: CacheFormat, latent: usize, rope: usize, bound: f32) {
        let layout = Layout::new(format, latent, rope);
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) * if i / GROUP == 1 { 100.0 } else { 0.01 };
        let values: Vec<f32> = (0..latent + rope).map(value).collect();
        for isa in Isa::available() {
            // Words, so that the bytes lie on multiples of four.
            let mut words = vec![0u64; layout.block_bytes.div_ceil(8)];
            let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..layout.block_bytes];
            for token in [0, 1, 63] {
                encode(isa, layout, bytes, token, &values);
            }
            let block = Block::new(layout, bytes);
            for (token, first, len) in
                [(0, 0, latent + rope), (1, latent / 2, latent / 2), (63, latent, rope)]
            {
                let mut out = vec![f32::NAN; len];
                decode(isa, block, token..token + 1, first..first + len, &mut out, len);
                for (i, out) in out.iter().enumerate() {
                    let col = first + i;
                    let group = if col < latent {
                        col / GROUP * GROUP..latent.min(col / GROUP * GROUP + GROUP)
                    } else {
                        col..col + 1
                    };
                    let bound = if col < latent { bound } else { 1.0 / 256.0 };
                    let largest = values[group].iter().fold(0.0f32, |max, value| max.max(value.abs()));
                    let allowed = if format == CacheFormat::F32 { 0.0 } else { bound * largest };
                    assert!(
                        (out - values[col]).abs() <= allowed,
                        "{isa} {format} {col}: {out} for {}",
                        values[col]
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_written_is_read_within_the_formats_step() {
        for (latent, rope) in [(512, 64), (7, 2), (33, 8), (300, 64)] {
            check(CacheFormat::F32, latent, rope, 0.0);
            check(CacheFormat::Bf16, latent, rope, 1.0 / 256.0);
            check(CacheFormat::Int8, latent, rope, 0.5 / 127.0 + 1e-6);
            check(CacheFormat::Fp8, latent, rope, 1.0 / 16.0);
        }
    }

    #[test]
    fn zeroes_and_the_smallest_numbers_stay_finite() {
        for format in CacheFormat::ALL {
            for value in [0.0, f32::MIN_POSITIVE, 1e-40] {
                let layout = Layout::new(format, 5, 2);
                let mut words = vec![0u64; layout.block_bytes.div_ceil(8)];
                let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..layout.block_bytes];
                encode(Isa::Scalar, layout, bytes, 0, &[value; 7]);
                let mut out = [f32::NAN; 7];
                decode(Isa::Scalar, Block::new(layout, bytes), 0..1, 0..7, &mut out, 7);
                assert!(out.iter().all(|out| (out - value).abs() <= 1e-30), "{format} {value}: {out:?}");
            }
        }
    }
}
