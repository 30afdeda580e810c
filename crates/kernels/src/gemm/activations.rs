//! The left operand: rows of activations, converted once for all the matrices that read them.

use fathom_numeric::round;

use super::packed::WeightFormat;
use crate::math::per_isa;
use crate::memory::AlignedBuffer;
use crate::shared::SharedSlice;
use crate::{Compute, Isa};

/// Zero columns after every row, so that a kernel may read a whole tile of 32 columns beginning
/// at any column of the row.
const TAIL: usize = 32;

/// Rows of a product from which on bf16 runs on the tile unit; a single row is bound by memory,
/// and widening weights into f32 lanes reads them just as fast.
const TILE_ROWS_MIN: usize = 2;

/// Rows handed to one unit of the conversion.
const UNIT_ROWS: usize = 16;

/// `x [rows, cols]` in the form the kernels of one weight format read. Keeps its memory from call
/// to call.
#[derive(Debug, Default)]
pub struct Activations {
    rows: usize,
    cols: usize,
    format: Option<WeightFormat>,
    form: Form,
    floats: AlignedBuffer<f32>,
    halves: AlignedBuffer<u16>,
}

/// Which rows to take.
#[derive(Clone, Copy, Debug)]
pub struct Gathered<F> {
    /// How many.
    pub rows: usize,
    /// Rows of the largest product they are for: all, or those of one expert. Decides on which
    /// unit the products run.
    pub largest: usize,
    /// Row `i` here is row `source_rows(i)` of the source; rows may repeat.
    pub source_rows: F,
}

/// How the rows are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// f32 lanes (rounded to bf16 if the weights are bf16).
    #[default]
    Floats,
    /// bf16, for the tile unit.
    Halves,
}

impl Activations {
    /// Takes some rows of `x`, in any order, for products with
    /// weights of `format`.
    ///
    /// # Panics
    /// If a source row leaves `x`.
    pub fn gather(
        &mut self,
        compute: &Compute,
        format: WeightFormat,
        x: Rows<'_>,
        rows: Gathered<impl Fn(usize) -> usize + Sync>,
    ) {
        let Gathered { rows, largest, source_rows } = rows;
        let isa = compute.isa;
        (self.rows, self.cols, self.format) = (rows, x.cols, Some(format));
        let tiles = format == WeightFormat::Bf16 && isa == Isa::Amx && largest >= TILE_ROWS_MIN;
        self.form = if tiles { Form::Halves } else { Form::Floats };
        let stride = self.stride();
        let source = |row: usize| {
            let row = source_rows(row);
            &x.values[row * x.stride..][..x.cols]
        };
        match self.form {
            Form::Floats => {
                self.floats.reserve(rows * stride);
                let convert = match format {
                    WeightFormat::F32 => copy,
                    WeightFormat::Bf16 => round_floats,
                };
                fill(compute, rows, stride, self.floats.as_mut_slice(), source, convert);
            }
            Form::Halves => {
                self.halves.reserve(rows * stride);
                fill(compute, rows, stride, self.halves.as_mut_slice(), source, round_halves);
            }
        }
    }

    /// Takes all rows of `x` in order.
    pub fn prepare(&mut self, compute: &Compute, format: WeightFormat, x: Rows<'_>) {
        let rows = x.rows();
        self.gather(compute, format, x, Gathered { rows, largest: rows, source_rows: |row| row });
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns held.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn format(&self) -> Option<WeightFormat> {
        self.format
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Elements from one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.cols.next_multiple_of(TAIL) + TAIL
    }

    /// All rows as f32, `stride()` apart.
    pub(crate) fn floats(&self) -> &[f32] {
        assert_eq!(self.form, Form::Floats);
        &self.floats.as_slice()[..self.rows * self.stride()]
    }

    /// All rows as bf16 bits, `stride()` apart.
    pub(crate) fn halves(&self) -> &[u16] {
        assert_eq!(self.form, Form::Halves);
        &self.halves.as_slice()[..self.rows * self.stride()]
    }
}

/// Rows of `cols` numbers inside a larger buffer, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The buffer; the first row begins at its first element.
    pub values: &'a [f32],
    /// Numbers per row.
    pub cols: usize,
    /// From the beginning of one row to the next, at least `cols`.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows without gaps: `values` is `[rows, cols]`.
    pub fn dense(values: &'a [f32], cols: usize) -> Self {
        Self { values, cols, stride: cols }
    }

    /// Whole rows in the buffer.
    pub fn rows(&self) -> usize {
        if self.values.len() < self.cols { 0 } else { (self.values.len() - self.cols) / self.stride + 1 }
    }
}

/// Converts rows in parallel, each followed by zeroes up to `stride`.
fn fill<'x, T: bytemuck::Pod + Send>(
    compute: &Compute,
    rows: usize,
    stride: usize,
    target: &mut [T],
    source: impl Fn(usize) -> &'x [f32] + Sync,
    convert: fn(Isa, &[f32], &mut [T]),
) {
    let target = SharedSlice::new(target);
    compute.pool.run(rows.div_ceil(UNIT_ROWS), |unit, _| {
        for row in unit * UNIT_ROWS..rows.min((unit + 1) * UNIT_ROWS) {
            let values = source(row);
            // SAFETY: every row belongs to one unit.
            let out = unsafe { target.range_mut(row * stride, stride) };
            let (head, tail) = out.split_at_mut(values.len());
            convert(compute.isa, values, head);
            tail.fill(T::zeroed());
        }
    });
}

fn copy(_: Isa, values: &[f32], out: &mut [f32]) {
    out.copy_from_slice(values);
}

per_isa! {
    fn round_floats(values: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = round::to_bf16_precision(*value));
    }
}

per_isa! {
    fn round_halves(values: &[f32], out: &mut [u16]) {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = round::to_bf16_bits(*value));
    }
}
