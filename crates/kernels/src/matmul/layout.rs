//! How operands lie when they are packed: panels of a few lanes, each panel one stream along the depth.
//!
//! ```text
//! floats   [panel][depth][lanes] f32
//! ```
//!
//! A lane is a row of the left or a column of the right operand; the depth is what the product sums over.
//! The last panel is filled up with lanes that nobody reads the sums of.

use super::MatmulPrecision;
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
        Self { isa, precision, left: Scalar::LEFT, right: Scalar::RIGHT, depth: 256, rows: 144 }
    }

    pub(super) fn lanes(&self, side: Side) -> usize {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }

    /// f32 words of one lane.
    pub(super) fn words(&self, depth: usize) -> usize {
        depth
    }

    /// f32 words of an operand of `lanes` rows (left) or columns (right).
    pub(crate) fn len(&self, side: Side, lanes: usize, depth: usize) -> usize {
        lanes.next_multiple_of(self.lanes(side)) * self.words(depth)
    }
}
