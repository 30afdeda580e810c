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
