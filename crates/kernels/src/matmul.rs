//! The products of training: `C (+)= α · A · B` on f32 matrices in any orientation, many in one call.

use crate::Compute;

/// What operands are rounded to before they are multiplied; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// Not at all.
    F32,
    /// Both to bf16.
    Bf16,
}

/// A matrix of f32: element (i, j) is `values[row(i) · row_stride + j · col_stride]`, where `row(i)` is `index[i]` or `i`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "told above")]
pub struct View<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
    pub index: Option<&'a [u32]>,
}

impl<'a> View<'a> {
    /// All of a row-major matrix.
    pub fn dense(values: &'a [f32], rows: usize, cols: usize) -> Self {
        View { values, rows, cols, row_stride: cols, col_stride: 1, index: None }
    }

    /// Rows and columns exchanged.
    pub fn transposed(self) -> Self {
        assert!(self.index.is_none(), "a gathered matrix is not transposed");
        View {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn at(&self, i: usize, j: usize) -> f32 {
        let row = self.index.map_or(i, |index| index[i] as usize);
        self.values[row * self.row_stride + j * self.col_stride]
    }
}

/// The right side of a product.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// Packed while it is multiplied.
    View(View<'a>),
    /// Packed before.
    Packed(&'a PackedOperand),
}

/// `C [m, n] (+)= alpha · A [m, k] · B [k, n]`; rows of C `c_stride` apart.
#[derive(Debug)]
#[allow(missing_docs, reason = "told above")]
pub struct Product<'a> {
    pub a: View<'a>,
    pub b: Operand<'a>,
    pub c: &'a mut [f32],
    pub c_stride: usize,
    pub alpha: f32,
    pub accumulate: bool,
}

/// A right operand packed once, used by many products.
#[derive(Debug, Default)]
pub struct PackedOperand {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl PackedOperand {
    /// Nothing yet.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Packs `b`, in the memory of what was packed before.
    pub fn pack(&mut self, _: &Compute, _: MatmulPrecision, b: View<'_>) {
        (self.rows, self.cols) = (b.rows, b.cols);
        self.values.clear();
        self.values.extend((0..b.rows * b.cols).map(|i| b.at(i / b.cols, i % b.cols)));
    }
}

/// Computes all products.
pub fn matmul(_: &Compute, _: MatmulPrecision, products: &mut [Product<'_>]) {
    for product in products {
        let b = match product.b {
            Operand::View(view) => view,
            Operand::Packed(packed) => View::dense(&packed.values, packed.rows, packed.cols),
        };
        for (i, row) in product.c.chunks_mut(product.c_stride).take(product.a.rows).enumerate() {
            for (j, c) in row[..b.cols].iter_mut().enumerate() {
                let sum: f32 = (0..b.rows).map(|k| product.a.at(i, k) * b.at(k, j)).sum();
                *c = product.alpha * sum + if product.accumulate { *c } else { 0.0 };
            }
        }
    }
}
