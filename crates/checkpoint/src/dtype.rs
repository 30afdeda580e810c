//! What the elements of stored tensors are: the types of the safetensors format, and blocks.

use fathom_numeric::blocks::BlockFormat;
use std::fmt;

/// What a stored tensor is made of. `Display` and [`Dtype::name`] give the format's own spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8-bit.
    U8,
    /// Signed 8-bit.
    I8,
    /// Unsigned 16-bit.
    U16,
    /// Signed 16-bit.
    I16,
    /// Unsigned 32-bit.
    U32,
    /// Signed 32-bit.
    I32,
    /// Unsigned 64-bit.
    U64,
    /// Signed 64-bit.
    I64,
    /// 8-bit float, 4 exponent bits (the `fn` variant: no infinities). Weights of the V3 release.
    F8E4M3,
    /// 8-bit float, 5 exponent bits. Recognised, not decoded.
    F8E5M2,
    /// A power of two in one byte: 2^(code - 127), 255 is NaN. Scales only.
    F8E8M0,
    /// IEEE half.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// IEEE single.
    F32,
    /// IEEE double. Recognised, not decoded.
    F64,
    /// Blocks of weights that share a scale; every row (last dimension) is whole blocks. GGUF says so of
    /// a tensor; safetensors carry the bytes as U8, `docs/formats/quantized-safetensors.md`.
    Block(BlockFormat),
}

const TABLE: [(Dtype, &str, usize); 16] = [
    (Dtype::Bool, "BOOL", 1),
    (Dtype::U8, "U8", 1),
    (Dtype::I8, "I8", 1),
    (Dtype::U16, "U16", 2),
    (Dtype::I16, "I16", 2),
    (Dtype::U32, "U32", 4),
    (Dtype::I32, "I32", 4),
    (Dtype::U64, "U64", 8),
    (Dtype::I64, "I64", 8),
    (Dtype::F8E4M3, "F8_E4M3", 1),
    (Dtype::F8E5M2, "F8_E5M2", 1),
    (Dtype::F8E8M0, "F8_E8M0", 1),
    (Dtype::F16, "F16", 2),
    (Dtype::BF16, "BF16", 2),
    (Dtype::F32, "F32", 4),
    (Dtype::F64, "F64", 8),
];

impl Dtype {
    /// The spelling in a safetensors header, such as `F8_E4M3`; of blocks, the format's name, such as `q4_k`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Block(format) => format.name(),
            _ => self.row().map_or("", |row| row.1),
        }
    }

    /// Bytes per element; of blocks, bytes per block.
    pub fn size(self) -> usize {
        match self {
            Dtype::Block(format) => format.block_bytes(),
            _ => self.row().map_or(1, |row| row.2),
        }
    }

    /// Elements that are stored together: 1, or those of a block.
    pub fn block_len(self) -> usize {
        match self {
            Dtype::Block(format) => format.block_len(),
            _ => 1,
        }
    }

    /// The type with this spelling in a safetensors header. Blocks have none.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The type that a quantization plan calls so: `f32`, `f16`, `bf16`, or a block format.
    pub fn from_format(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Dtype::F32),
            "f16" => Some(Dtype::F16),
            "bf16" => Some(Dtype::BF16),
            _ => BlockFormat::from_name(name).map(Dtype::Block),
        }
    }

    /// What safetensors carry a tensor of this type and shape as: blocks as the bytes of each row.
    pub fn carried(self, shape: &[usize]) -> (Dtype, Vec<usize>) {
        let mut shape = shape.to_vec();
        let Dtype::Block(format) = self else { return (self, shape) };
        if let Some(columns) = shape.last_mut() {
            *columns = format.row_bytes(*columns);
        }
        (Dtype::U8, shape)
    }

    /// Bytes of a tensor of this type; `None` if the product of any of its dimensions overflows `usize`,
    /// even where another dimension of zero makes the tensor empty: nobody who multiplies a few of them
    /// need check again.
    pub fn byte_len(self, shape: &[usize]) -> Option<usize> {
        let (outer, columns) = match shape {
            [outer @ .., columns] => (outer, *columns),
            [] => (shape, 1),
        };
        let row = columns.max(1).div_ceil(self.block_len()).checked_mul(self.size())?;
        let bytes = outer.iter().try_fold(row, |bytes, &dim| bytes.checked_mul(dim.max(1)))?;
        // The number of elements too, which blocks store in less than a byte each.
        outer.iter().try_fold(columns.max(1), |elements, &dim| elements.checked_mul(dim.max(1)))?;
        Some(if shape.contains(&0) { 0 } else { bytes })
    }

    fn row(self) -> Option<&'static (Dtype, &'static str, usize)> {
        TABLE.iter().find(|row| row.0 == self)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (dtype, name, size) in TABLE {
            assert_eq!(Dtype::from_name(name), Some(dtype));
            assert_eq!((dtype.name(), dtype.size(), dtype.block_len()), (name, size, 1));
        }
        for format in BlockFormat::all() {
            let dtype = Dtype::Block(format);
            assert_eq!(Dtype::from_format(dtype.name()), Some(dtype));
            assert_eq!(Dtype::from_name(dtype.name()), None);
        }
        assert_eq!(Dtype::from_format("bf16"), Some(Dtype::BF16));
        assert_eq!(Dtype::from_format("BF16"), None);
        assert_eq!(Dtype::from_name("F4"), None);
        assert_eq!(Dtype::from_name("f32"), None);
    }

    #[test]
    fn byte_lengths_do_not_wrap() {
        let check = |dtype: Dtype, shape: &[usize], want| {
            assert_eq!(dtype.byte_len(shape), want, "{dtype} {shape:?}");
        };
        check(Dtype::F32, &[], Some(4));
        check(Dtype::BF16, &[3, 5], Some(30));
        check(Dtype::F8E4M3, &[7], Some(7));
        check(Dtype::F32, &[0, 9], Some(0));
        check(Dtype::F32, &[usize::MAX, 0], None);
        check(Dtype::F32, &[usize::MAX / 4 + 1], None);
        check(Dtype::U8, &[1 << 32, 1 << 32], None);
        let q4_0 = Dtype::Block(BlockFormat::Q4_0);
        check(q4_0, &[3, 64], Some(3 * 36));
        check(q4_0, &[3, 33], Some(3 * 36));
        check(q4_0, &[], Some(18));
        check(q4_0, &[1 << 33, 1 << 31], None);
        assert_eq!(q4_0.carried(&[3, 64]), (Dtype::U8, vec![3, 36]));
        assert_eq!(Dtype::F32.carried(&[3, 64]), (Dtype::F32, vec![3, 64]));
    }
}
