//! How weights are stored, and what their products want of the activations.

use fathom_numeric::blocks::BlockFormat;

/// How the weights of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// 4 bytes per weight, products in f32.
    F32,
    /// 2 bytes per weight, products in f32.
    F16,
    /// 2 bytes per weight; activations are rounded to bf16 too, sums are f32.
    Bf16,
    /// Blocks that share a scale. [`BlockFormat::Fp8`] multiplies activations rounded to bf16; all others
    /// multiply activations in int8 groups of 32 by integer codes.
    Block(BlockFormat),
}

/// What the left operand of a product is rounded to: one preparation serves all the matrices that want the
/// same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// As they are.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// `scale · int8`, one scale for 32 columns.
    Int8,
}

impl WeightFormat {
    /// What activations are rounded to before they meet these weights.
    pub const fn precision(self) -> Precision {
        match self {
            WeightFormat::F32 | WeightFormat::F16 => Precision::F32,
            WeightFormat::Bf16 | WeightFormat::Block(BlockFormat::Fp8) => Precision::Bf16,
            WeightFormat::Block(_) => Precision::Int8,
        }
    }

    /// Bytes of `weights` weights, padding not counted.
    pub const fn bytes_of(self, weights: u64) -> u64 {
        match self {
            WeightFormat::F32 => weights * 4,
            WeightFormat::F16 | WeightFormat::Bf16 => weights * 2,
            WeightFormat::Block(format) => {
                (weights as u128 * format.block_bytes() as u128).div_ceil(format.block_len() as u128) as u64
            }
        }
    }

    /// The format's name as the command line and reports spell it.
    pub const fn name(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::F16 => "f16",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Block(format) => format.name(),
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16];
        let plain = plain.into_iter().find(|format| format.name() == name);
        plain.or_else(|| BlockFormat::from_name(name).map(WeightFormat::Block))
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of [`Precision`]s: what the matrices want that read the same activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precisions(u8);

impl Precisions {
    /// Whether `precision` is in the set.
    pub const fn contains(self, precision: Precision) -> bool {
        self.0 & (1 << precision as u8) != 0
    }
}

impl From<WeightFormat> for Precisions {
    fn from(format: WeightFormat) -> Self {
        Self(1 << format.precision() as u8)
    }
}

impl FromIterator<WeightFormat> for Precisions {
    fn from_iter<I: IntoIterator<Item = WeightFormat>>(formats: I) -> Self {
        formats.into_iter().fold(Self::default(), |set, format| Self(set.0 | Self::from(format).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_sets_hold_what_was_asked() {
        let formats = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Block(BlockFormat::Q4K)];
        for format in formats {
            assert_eq!(WeightFormat::from_name(format.name()), Some(format));
        }
        assert_eq!(WeightFormat::from_name("int3"), None);
        let set: Precisions =
            [WeightFormat::F16, WeightFormat::Block(BlockFormat::Fp8)].into_iter().collect();
        assert!(set.contains(Precision::F32) && set.contains(Precision::Bf16));
        assert!(!set.contains(Precision::Int8));
    }
}
