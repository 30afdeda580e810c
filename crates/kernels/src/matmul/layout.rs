//! How operands lie when they are packed: panels of a few lanes, each panel one stream along the depth.
//!
//! ```text
//! floats   [panel][depth][lanes] f32
//! tiles    [panel][depth / 32][2 tiles]: left [16 lanes][32 steps] bf16, right [16 pairs of steps][16 lanes][2] bf16
//! ```
//!
//! A lane is a row of the left or a column of the right operand; the depth is what the product sums over.
//! The last panel is filled up with lanes that nobody reads the sums of; tiles are filled up with steps of zeroes.

use super::MatmulPrecision;
#[cfg(vector_kernels)]
use super::amx;
#[cfg(vector_kernels)]
use super::avx2::Avx2;
#[cfg(vector_kernels)]
use super::avx512::Avx512;
use super::micro::Kernel;
use super::scalar::Scalar;
use crate::Isa;

/// The left or the right operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// `A [m, k]`: lanes are rows.
    Left,
    /// `B [k, n]`: lanes are columns.
    Right,
}

/// The panels that an ISA multiplies in a precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(super) isa: Isa,
    pub(super) precision: MatmulPrecision,
    /// Lanes of a panel of the left and of the right operand.
    pub(super) left: usize,
    pub(super) right: usize,
    /// Depth after which blocks of results are stored: a right panel of that depth stays in the first-level
    /// cache.
    pub(super) depth: usize,
    /// Rows whose panels of that depth stay in the second-level cache.
    pub(super) rows: usize,
}

impl Layout {
    /// What `isa` multiplies.
    pub(crate) fn of(isa: Isa, precision: MatmulPrecision) -> Self {
        let of = |left, right, depth, rows| Self { isa, precision, left, right, depth, rows };
        match isa {
            Isa::Scalar => of(Scalar::LEFT, Scalar::RIGHT, 256, 128),
            #[cfg(vector_kernels)]
            Isa::Avx2 => of(Avx2::LEFT, Avx2::RIGHT, 256, 144),
            #[cfg(vector_kernels)]
            Isa::Amx if precision == MatmulPrecision::Bf16 && amx::available() => {
                of(amx::LANES, amx::LANES, 512, 512)
            }
            #[cfg(vector_kernels)]
            Isa::Avx512 | Isa::Amx => of(Avx512::LEFT, Avx512::RIGHT, 256, 240),
            #[cfg(not(vector_kernels))]
            _ => unreachable!("only the scalar ISA exists on this architecture"),
        }
    }

    pub(super) fn lanes(&self, side: Side) -> usize {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }

    /// Whether panels are bf16 tiles.
    pub(super) fn in_tiles(&self) -> bool {
        #[cfg(vector_kernels)]
        return self.isa == Isa::Amx && self.left == amx::LANES;
        #[cfg(not(vector_kernels))]
        return false;
    }

    /// f32 words of one lane.
    pub(super) fn words(&self, depth: usize) -> usize {
        #[cfg(vector_kernels)]
        if self.in_tiles() {
            return depth.next_multiple_of(amx::STEP) / 2;
        }
        depth
    }

    /// f32 words of an operand of `lanes` rows (left) or columns (right).
    pub(crate) fn len(&self, side: Side, lanes: usize, depth: usize) -> usize {
        lanes.next_multiple_of(self.lanes(side)) * self.words(depth)
    }
}
