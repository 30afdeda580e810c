//! Reading a tensor in another order: dimensions with strides of their own.

use std::ops::Range;

use crate::{Context, Tensor};

/// An order of reading: element `[i, j, …]` stands at `start + i · strides[0] + j · strides[1] + …`.
pub(crate) struct Strided {
    shape: Vec<usize>,
    strides: Vec<usize>,
    start: usize,
}

impl Strided {
    /// Row-major.
    pub(crate) fn dense(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        Self { shape: shape.to_vec(), strides, start: 0 }
    }

    /// Dimension `i` is dimension `order[i]` of before.
    pub(crate) fn permuted(self, order: &[usize]) -> Self {
        let pick = |of: &[usize]| order.iter().map(|&axis| of[axis]).collect();
        Self { shape: pick(&self.shape), strides: pick(&self.strides), start: self.start }
    }

    /// A part of one dimension.
    pub(crate) fn sliced(mut self, axis: usize, range: Range<usize>) -> Self {
        self.start += range.start * self.strides[axis];
        self.shape[axis] = range.len();
        self
    }

    /// Repeated to `shape`, which it fits.
    pub(crate) fn broadcast(self, shape: &[usize]) -> Self {
        let missing = shape.len() - self.shape.len();
        let stride = |axis: usize| match axis.checked_sub(missing) {
            Some(own) if self.shape[own] == shape[axis] => self.strides[own],
            _ => 0,
        };
        Self { strides: (0..shape.len()).map(stride).collect(), shape: shape.to_vec(), start: self.start }
    }

    /// Where row `row` (all dimensions but the last) begins.
    fn row_start(&self, mut row: usize) -> usize {
        let outer = self.shape.len().saturating_sub(1);
        let mut start = self.start;
        for axis in (0..outer).rev() {
            start += row % self.shape[axis] * self.strides[axis];
            row /= self.shape[axis];
        }
        start
    }
}

/// A new tensor: `x` read in the given order.
pub(crate) fn copy(context: &Context, x: &Tensor, order: &Strided) -> Tensor {
    let (width, stride) =
        (order.shape.last().copied().unwrap_or(1), order.strides.last().copied().unwrap_or(1));
    // Short rows are copied several at a time, so that a piece is worth a turn.
    let rows_of_piece = (fathom_kernels::parallel::PIECE / width.max(1)).max(1);
    let values = x.values();
    context.build(&order.shape[..], |y| {
        context.compute().for_pieces(y, (rows_of_piece * width).max(1), |piece, y| {
            for (row, y) in y.chunks_mut(width.max(1)).enumerate() {
                let start = order.row_start(piece * rows_of_piece + row);
                match stride {
                    1 => y.copy_from_slice(&values[start..][..y.len()]),
                    _ => y.iter_mut().enumerate().for_each(|(i, y)| *y = values[start + i * stride]),
                }
            }
        });
    })
}
