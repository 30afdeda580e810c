//! The element types of the safetensors format.

use std::fmt;

/// What one element of a stored tensor is. `Display` and [`Dtype::name`] give the format's own spelling.
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
    /// The spelling in a safetensors header, such as `F8_E4M3`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        self.row().2
    }

    /// The type with this spelling, if it is one of the above.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Bytes of a tensor of this type; `None` if the product of any of its dimensions overflows `usize`,
    /// even where another dimension of zero makes the tensor empty: nobody who multiplies a few of them
    /// need check again.
    pub fn byte_len(self, shape: &[usize]) -> Option<usize> {
        let bytes = shape.iter().try_fold(self.size(), |bytes, &dim| bytes.checked_mul(dim.max(1)))?;
        Some(if shape.contains(&0) { 0 } else { bytes })
    }

    fn row(self) -> &'static (Dtype, &'static str, usize) {
        &TABLE[self as usize]
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
    fn the_table_is_in_the_order_of_the_enum() {
        for (position, &(dtype, name, _)) in TABLE.iter().enumerate() {
            assert_eq!(dtype as usize, position);
            assert_eq!(Dtype::from_name(name), Some(dtype));
        }
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
    }
}
