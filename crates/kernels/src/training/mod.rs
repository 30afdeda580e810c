//! The operations of a training step that are no matrix products, each with its backward pass beside it.
//!
//! Values are row-major f32 slices. What a backward pass needs besides its operation's inputs is returned by the
//! forward pass (`scale`, `sums`, …) and handed in again; nothing is kept here. A gradient with respect to a value is
//! called `d` and the value's name. Every row belongs to one unit, and sums over rows are taken in blocks of a fixed
//! size in a fixed order, so that results do not depend on the number of threads.
//!
//! | module | operation |
//! |---|---|
//! | [`rms_norm`] | `x / rms(x) · weight` |
//! | [`rope`] | rotary positions, adjacent pairs or halves |
//! | [`swiglu`] | `silu(gate) · up` |
//! | [`softmax`] | softmax and its logarithm over rows |
//! | [`cross_entropy`] | loss of rows of logits, and their gradient |

pub mod cross_entropy;
pub mod rms_norm;
pub mod rope;
pub mod softmax;
pub mod swiglu;
#[cfg(test)]
pub(crate) mod testing;

/// Where the gradient of a matrix goes: rows `stride` apart.
#[derive(Debug)]
pub struct Gradient<'a> {
    /// The buffer; the first row begins at its first element.
    pub values: &'a mut [f32],
    /// From the beginning of one row to the next.
    pub stride: usize,
    /// Added to what stands there, or written over it.
    pub accumulate: bool,
}

impl<'a> Gradient<'a> {
    /// Rows of `cols` numbers without gaps, to be written over.
    pub fn dense(values: &'a mut [f32], cols: usize) -> Self {
        Gradient { values, stride: cols, accumulate: false }
    }

    /// Added to what stands there.
    pub fn added(self) -> Self {
        Gradient { accumulate: true, ..self }
    }
}

/// Rows of `cols` numbers that one unit takes: enough numbers to be worth a turn of the pool's counter.
pub(crate) fn rows_per_unit(cols: usize) -> usize {
    const NUMBERS: usize = 1 << 13;
    NUMBERS.checked_div(cols).map_or(NUMBERS, |rows| rows.max(1))
}
