//! Weights in blocks that share a scale: the formats of GGUF files, our own integer groups, and FP8.
//!
//! A row of a matrix is cut into blocks of [`BlockFormat::block_len`] consecutive weights; each block
//! is stored in [`BlockFormat::block_bytes`] bytes, scales and codes together, and a row is its blocks
//! one after the other. The GGUF formats have the bytes that llama.cpp gives them, so a file's rows are
//! used as they stand; a row whose length is no multiple of the block (our own formats only) ends in a
//! block filled up with zeroes.
//!
//! | format | block | bytes | value of code `q` |
//! |---|---|---|---|
//! | `fp8` | 128 | 132 | `d·e4m3(q)`, `d` f32 |
//! | `q8_0` = `int8-g32` | 32 | 34 | `d·q`, `q` i8, `d` f16 |
//! | `int8-g64`, `int8-g128` | 64, 128 | 66, 130 | the same |
//! | `q4_0` = `int4-g32` | 32 | 18 | `d·(q - 8)` |
//! | `int4-g64`, `int4-g128` | 64, 128 | 34, 66 | the same; codes in runs of 32 as in `q4_0` |
//! | `q4_1`, `q5_1` | 32 | 20, 24 | `d·q + m` |
//! | `q5_0` | 32 | 22 | `d·(q - 16)` |
//! | `iq4_nl` | 32 | 18 | `d·table[q]` |
//! | `iq4_xs` | 256 | 136 | `d·s·table[q]`, `s` 6 bits of 32 weights |
//! | `q4_k`, `q5_k` | 256 | 144, 176 | `d·s·q - dmin·m`, `s` and `m` 6 bits of 32 weights |
//! | `q6_k` | 256 | 210 | `d·s·(q - 32)`, `s` i8 of 16 weights |
//!
//! `decode` is llama.cpp's arithmetic in llama.cpp's order, so its results are equal to the bit.
//! `encode` looks for the scales with the least error; only `q8_0` is what llama.cpp writes, byte for byte.

mod affine;
mod fp8_rows;
mod integer;
mod iq4;
mod k_quants;
mod q6_k;
mod row;
mod search;
mod superblock;

use row::{decode_row, encode_row, first_bad_block};

/// How a block of weights is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// E4M3 codes with one f32 scale: a row of a 128×128 block of `weight_scale_inv`.
    Fp8,
    /// 8 bits, f16 scale: llama.cpp's Q8_0, and `int8` in groups of 32.
    Q8_0,
    /// `int8` in groups of 64.
    Int8G64,
    /// `int8` in groups of 128.
    Int8G128,
    /// 4 bits, f16 scale: llama.cpp's Q4_0, and `int4` in groups of 32.
    Q4_0,
    /// `int4` in groups of 64.
    Int4G64,
    /// `int4` in groups of 128.
    Int4G128,
    /// 4 bits, f16 scale and minimum.
    Q4_1,
    /// 5 bits, f16 scale.
    Q5_0,
    /// 5 bits, f16 scale and minimum.
    Q5_1,
    /// 4 bits into a table of 16 levels, f16 scale.
    Iq4Nl,
    /// The same in superblocks of 256 with 6-bit scales.
    Iq4Xs,
    /// 4 bits in superblocks of 256, 6-bit scales and minima.
    Q4K,
    /// 5 bits in superblocks of 256, 6-bit scales and minima.
    Q5K,
    /// 6 bits in superblocks of 256, 8-bit scales of 16.
    Q6K,
}

/// Name, weights and bytes of a block, in the order of the enum.
const TABLE: [(BlockFormat, &str, usize, usize); 15] = [
    (BlockFormat::Fp8, "fp8", 128, 132),
    (BlockFormat::Q8_0, "q8_0", 32, 34),
    (BlockFormat::Int8G64, "int8-g64", 64, 66),
    (BlockFormat::Int8G128, "int8-g128", 128, 130),
    (BlockFormat::Q4_0, "q4_0", 32, 18),
    (BlockFormat::Int4G64, "int4-g64", 64, 34),
    (BlockFormat::Int4G128, "int4-g128", 128, 66),
    (BlockFormat::Q4_1, "q4_1", 32, 20),
    (BlockFormat::Q5_0, "q5_0", 32, 22),
    (BlockFormat::Q5_1, "q5_1", 32, 24),
    (BlockFormat::Iq4Nl, "iq4_nl", 32, 18),
    (BlockFormat::Iq4Xs, "iq4_xs", 256, 136),
    (BlockFormat::Q4K, "q4_k", 256, 144),
    (BlockFormat::Q5K, "q5_k", 256, 176),
    (BlockFormat::Q6K, "q6_k", 256, 210),
];

/// Evaluates an expression with `F` the layout of a format.
macro_rules! for_format {
    ($format:expr, $layout:ident => $body:expr) => {{
        macro_rules! with {
            ($type:ty) => {{
                type $layout = $type;
                $body
            }};
        }
        match $format {
            BlockFormat::Fp8 => with!(fp8_rows::Fp8),
            BlockFormat::Q8_0 => with!(integer::Int8<32>),
            BlockFormat::Int8G64 => with!(integer::Int8<64>),
            BlockFormat::Int8G128 => with!(integer::Int8<128>),
            BlockFormat::Q4_0 => with!(integer::Int4<32>),
            BlockFormat::Int4G64 => with!(integer::Int4<64>),
            BlockFormat::Int4G128 => with!(integer::Int4<128>),
            BlockFormat::Q4_1 => with!(affine::Q4_1),
            BlockFormat::Q5_0 => with!(integer::Q5_0),
            BlockFormat::Q5_1 => with!(affine::Q5_1),
            BlockFormat::Iq4Nl => with!(iq4::Iq4Nl),
            BlockFormat::Iq4Xs => with!(iq4::Iq4Xs),
            BlockFormat::Q4K => with!(k_quants::Q4K),
            BlockFormat::Q5K => with!(k_quants::Q5K),
            BlockFormat::Q6K => with!(q6_k::Q6K),
        }
    }};
}

impl BlockFormat {
    /// All formats.
    pub fn all() -> impl Iterator<Item = BlockFormat> {
        TABLE.iter().map(|row| row.0)
    }

    /// Weights of a block.
    pub const fn block_len(self) -> usize {
        TABLE[self as usize].2
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        TABLE[self as usize].3
    }

    /// Bytes of a row of `cols` weights: whole blocks.
    pub const fn row_bytes(self, cols: usize) -> usize {
        cols.div_ceil(self.block_len()) * self.block_bytes()
    }

    /// This format, or the nearest whose blocks divide a row of `cols` weights: blocks of 256 give way to
    /// blocks of 32 of as many bits or more. Formats of integers and FP8 fill up their last block.
    pub const fn fitting(self, cols: usize) -> Self {
        if cols.is_multiple_of(self.block_len()) {
            return self;
        }
        match self {
            BlockFormat::Q4K => BlockFormat::Q5_0.fitting(cols),
            BlockFormat::Q5K => BlockFormat::Q5_1.fitting(cols),
            BlockFormat::Q6K => BlockFormat::Q8_0,
            BlockFormat::Iq4Xs => BlockFormat::Iq4Nl.fitting(cols),
            BlockFormat::Q4_1 | BlockFormat::Q5_0 | BlockFormat::Q5_1 | BlockFormat::Iq4Nl => {
                BlockFormat::Q8_0
            }
            BlockFormat::Fp8 | BlockFormat::Q8_0 | BlockFormat::Int8G64 | BlockFormat::Int8G128 => self,
            BlockFormat::Q4_0 | BlockFormat::Int4G64 | BlockFormat::Int4G128 => self,
        }
    }

    /// The name used in configurations and on the command line.
    pub const fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// The format of this name; `int8-g32` and `int4-g32` are `q8_0` and `q4_0`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "int8-g32" => Some(BlockFormat::Q8_0),
            "int4-g32" => Some(BlockFormat::Q4_0),
            _ => TABLE.iter().find(|row| row.1 == name).map(|row| row.0),
        }
    }

    /// Decodes one row of `out.len()` weights; what the last block holds beyond them is dropped.
    ///
    /// # Panics
    /// If `blocks.len() != self.row_bytes(out.len())`.
    #[inline]
    pub fn decode(self, blocks: &[u8], out: &mut [f32]) {
        assert_eq!(blocks.len(), self.row_bytes(out.len()), "bytes of a row of {} weights", out.len());
        for_format!(self, F => decode_row::<F, _, _>(blocks, out))
    }

    /// Encodes one row of `values.len()` weights, the last block filled up with zeroes.
    ///
    /// The bytes of a block depend on its own weights only. Formats that search for their scale minimise
    /// `Σ importance·√(σ² + x²)·(x - x̂)²`, `σ²` twice the block's mean square: llama.cpp's weighting,
    /// which favours large weights a little. `importance` is the mean square of the activation that multiplies
    /// each column (llama.cpp's imatrix), in any unit; negative and NaN count as 0, and a block without any
    /// importance is treated as if all were equal. `fp8` and `int8` have nothing to choose and ignore it.
    ///
    /// Values beyond what a format can hold saturate; a NaN is stored as 0. The scale is never infinite or
    /// NaN: one beyond f16 becomes ±65504, with the codes that fit it.
    ///
    /// # Panics
    /// If `out.len() != self.row_bytes(values.len())`, or if there is not one importance for each value.
    pub fn encode(self, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        self.encode_inlined(values, importance, out);
    }

    /// [`BlockFormat::encode`] as a part of its caller, with all it calls: compiled for the caller's ISA, it
    /// takes a half to a quarter of the time. The bytes are the same on every ISA. It is much code: call it
    /// from one place per ISA.
    #[inline(always)]
    pub fn encode_inlined(self, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        assert_eq!(out.len(), self.row_bytes(values.len()), "bytes of a row of {} weights", values.len());
        assert!(importance.is_none_or(|given| given.len() == values.len()), "one importance per weight");
        for_format!(self, F => encode_row::<F, _, _>(values, importance, out))
    }

    /// The first block whose scale or minimum is not finite, or that is cut short: what makes a file from
    /// outside unfit for use. `None` if all is well. Codes are not looked at; of `fp8`'s, two are NaN.
    pub fn first_bad_block(self, blocks: &[u8]) -> Option<usize> {
        for_format!(self, F => first_bad_block::<F, _, _>(blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (position, format) in BlockFormat::all().enumerate() {
            assert_eq!(format as usize, position);
            assert_eq!(BlockFormat::from_name(format.name()), Some(format));
        }
        assert_eq!(BlockFormat::from_name("int4-g32"), Some(BlockFormat::Q4_0));
        assert_eq!(BlockFormat::from_name("q2_k"), None);
        assert_eq!(BlockFormat::Q4K.row_bytes(512), 288);
        assert_eq!(BlockFormat::Int8G64.row_bytes(65), 132);
    }
}
