//! The left operand: rows of activations, converted once for all the matrices that read them.

use bytemuck::{Pod, Zeroable};
use fathom_numeric::round;

use super::format::{Precision, Precisions};
use super::quantized::layout::{CHUNK_COLS_MAX, RUN};
use crate::math::per_isa;
use crate::memory::AlignedBuffer;
use crate::shared::SharedSlice;
use crate::{Compute, Isa};

/// Zero columns after every row of floats or halves, so that a kernel may read whole chunks of weights
/// beginning at any column of the row.
const TAIL: usize = CHUNK_COLS_MAX;

/// Columns of a tile of bf16.
const TILE_COLS: usize = 32;

/// Rows of a product from which on bf16 runs on the tile unit; a single row is bound by memory,
/// and widening weights into f32 lanes reads them just as fast.
const TILE_ROWS_MIN: usize = 2;

/// Rows handed to one unit of the conversion.
const UNIT_ROWS: usize = 16;

/// `x [rows, cols]` in the forms that the kernels of some weight formats read. Keeps its memory from call
/// to call.
#[derive(Debug, Default)]
pub struct Activations {
    rows: usize,
    cols: usize,
    precisions: Precisions,
    /// bf16 is held in 16 bits, for what multiplies such; else as f32 lanes.
    in_halves: bool,
    /// bf16 in 16 bits is held beside int8, for products of many rows with decoded weights.
    decodes: bool,
    floats: AlignedBuffer<f32>,
    rounded: AlignedBuffer<f32>,
    halves: AlignedBuffer<u16>,
    codes: AlignedBuffer<i8>,
    heads: AlignedBuffer<RunHead>,
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

/// What 32 int8 columns of a row share.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RunHead {
    /// `x = scale · code`.
    pub(crate) scale: f32,
    /// `scale · Σ code`, for weights with a minimum.
    pub(crate) scaled_sum: f32,
    /// `-Σ code`, for codes with an offset.
    pub(crate) minus_sum: i32,
    /// The same of either half.
    pub(crate) minus_half_sums: [i32; 2],
    /// Fills up two words.
    pub(crate) unused: u32,
}

impl RunHead {
    /// `-Σ code` over the run, or one of its halves.
    #[inline(always)]
    pub(crate) fn minus(&self, per_run: usize, half: usize) -> i32 {
        if per_run == 1 { self.minus_sum } else { self.minus_half_sums[half] }
    }
}

/// Rows of int8 activations, `stride` (a multiple of [`RUN`]) codes apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a> {
    pub(crate) codes: &'a [i8],
    /// One per run.
    pub(crate) heads: &'a [RunHead],
    pub(crate) stride: usize,
}

/// Rows of f32 or bf16 activations, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand<'a> {
    Floats(&'a [f32]),
    Halves(&'a [u16]),
}

impl Activations {
    /// Takes some rows of `x`, in any order, for products with weights of certain formats.
    ///
    /// # Panics
    /// If a source row leaves `x`.
    pub fn gather(
        &mut self,
        compute: &Compute,
        precisions: impl Into<Precisions>,
        x: Rows<'_>,
        rows: Gathered<impl Fn(usize) -> usize + Sync>,
    ) {
        let Gathered { rows, largest, source_rows } = rows;
        (self.rows, self.cols, self.precisions) = (rows, x.cols, precisions.into());
        self.in_halves = multiplies_halves(compute.isa, largest);
        let int8 = self.precisions.contains(Precision::Int8);
        self.decodes = int8 && decodes(compute.isa, largest);
        let stride = self.stride();
        let source = |row: usize| {
            let row = source_rows(row);
            &x.values[row * x.stride..][..x.cols]
        };
        if self.precisions.contains(Precision::F32) {
            self.floats.reserve(rows * stride);
            fill(compute, rows, stride, self.floats.as_mut_slice(), source, copy);
        }
        let bf16 = self.precisions.contains(Precision::Bf16);
        if bf16 && self.in_halves || self.decodes {
            self.halves.reserve(rows * stride);
            fill(compute, rows, stride, self.halves.as_mut_slice(), source, round_halves);
        }
        if bf16 && !self.in_halves {
            self.rounded.reserve(rows * stride);
            fill(compute, rows, stride, self.rounded.as_mut_slice(), source, round_floats);
        }
        // A product of all rows reads no codes where it decodes.
        if int8 && !(self.decodes && largest == rows) {
            self.fill_codes(compute, x, source_rows);
        }
    }

    /// Takes all rows of `x` in order.
    pub fn prepare(&mut self, compute: &Compute, precisions: impl Into<Precisions>, x: Rows<'_>) {
        let rows = x.rows();
        self.gather(compute, precisions, x, Gathered { rows, largest: rows, source_rows: |row| row });
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns held.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn holds(&self, precision: Precision) -> bool {
        self.precisions.contains(precision)
    }

    /// Elements from one row of floats or halves to the next.
    pub(crate) fn stride(&self) -> usize {
        // An odd number of lines of bf16: otherwise the rows of a tile would share a few sets of the cache.
        ((self.cols + TAIL).div_ceil(TILE_COLS) | 1) * TILE_COLS
    }

    /// All rows from row `row` and column `col` on, as f32 or bf16, `stride()` apart.
    pub(crate) fn operand(&self, precision: Precision, row: usize, col: usize) -> Operand<'_> {
        assert!(self.holds(precision));
        let (first, end) = (row * self.stride() + col, self.rows * self.stride());
        match precision {
            Precision::F32 => Operand::Floats(&self.floats.as_slice()[first..end]),
            Precision::Bf16 if self.in_halves => Operand::Halves(&self.halves.as_slice()[first..end]),
            Precision::Bf16 => Operand::Floats(&self.rounded.as_slice()[first..end]),
            Precision::Int8 => unreachable!("codes are no numbers of their own"),
        }
    }

    /// Whether bf16 is held in 16 bits.
    #[cfg(vector_kernels)]
    pub(crate) fn in_halves(&self) -> bool {
        self.in_halves
    }

    /// Whether products of a group of so many rows decode the weights of block formats.
    #[cfg(vector_kernels)]
    pub(crate) fn decodes(&self, group_rows: usize) -> bool {
        self.decodes && group_rows >= super::quantized::decoded::ROWS_MIN
    }

    /// All rows from row `row` and column `col` on, as bf16 beside int8, and their stride.
    #[cfg(vector_kernels)]
    pub(crate) fn halves(&self, row: usize, col: usize) -> (&[u16], usize) {
        assert!(self.decodes);
        (&self.halves.as_slice()[row * self.stride() + col..self.rows * self.stride()], self.stride())
    }

    /// All rows from row `row` and column `col` (a multiple of [`RUN`]) on, as int8.
    pub(crate) fn bytes(&self, row: usize, col: usize) -> Bytes<'_> {
        assert!(self.holds(Precision::Int8) && col.is_multiple_of(RUN));
        let stride = self.codes_stride();
        let (first, end) = (row * stride + col, self.rows * stride);
        Bytes {
            codes: &self.codes.as_slice()[first..end],
            heads: &self.heads.as_slice()[first / RUN..end / RUN],
            stride,
        }
    }

    /// Room for a whole chunk of weights beginning at any run of the row.
    fn codes_stride(&self) -> usize {
        self.cols.next_multiple_of(RUN) + CHUNK_COLS_MAX
    }

    fn fill_codes(&mut self, compute: &Compute, x: Rows<'_>, source_rows: impl Fn(usize) -> usize + Sync) {
        let (rows, stride) = (self.rows, self.codes_stride());
        let strides = [stride, stride / RUN];
        // Rows of which there are more than of their sources, as of tokens that go to several experts, are quantized
        // once, behind the rows, and copied.
        let quantized = if rows > x.rows() { x.rows() } else { 0 };
        self.codes.reserve((rows + quantized) * stride);
        self.heads.reserve((rows + quantized) * strides[1]);
        let (codes, once) = self.codes.as_mut_slice().split_at_mut(rows * stride);
        let (heads, heads_once) = self.heads.as_mut_slice().split_at_mut(rows * strides[1]);
        let source = |row: usize| &x.values[row * x.stride..][..x.cols];
        if quantized == 0 {
            return for_rows(compute, rows, strides, (codes, heads), |row, codes, heads| {
                quantize(compute.isa, source(source_rows(row)), codes, heads);
            });
        }
        for_rows(compute, quantized, strides, (once, heads_once), |row, codes, heads| {
            quantize(compute.isa, source(row), codes, heads);
        });
        for_rows(compute, rows, strides, (codes, heads), |row, codes, heads| {
            let row = source_rows(row);
            codes.copy_from_slice(&once[row * stride..][..stride]);
            heads.copy_from_slice(&heads_once[row * strides[1]..][..strides[1]]);
        });
    }
}

/// Calls `fill` with each row's codes and heads, which are `strides` apart, in parallel.
fn for_rows(
    compute: &Compute,
    rows: usize,
    strides: [usize; 2],
    (codes, heads): (&mut [i8], &mut [RunHead]),
    fill: impl Fn(usize, &mut [i8], &mut [RunHead]) + Sync,
) {
    let (codes, heads) = (SharedSlice::new(codes), SharedSlice::new(heads));
    compute.pool.run(rows.div_ceil(UNIT_ROWS), |unit, _| {
        for row in unit * UNIT_ROWS..rows.min((unit + 1) * UNIT_ROWS) {
            // SAFETY: every row belongs to one unit.
            let codes = unsafe { codes.range_mut(row * strides[0], strides[0]) };
            // SAFETY: as above.
            let heads = unsafe { heads.range_mut(row * strides[1], strides[1]) };
            fill(row, codes, heads);
        }
    });
}

per_isa! {
    /// Each run of 32 columns in steps of its largest magnitude / 127; zeroes after the last column.
    fn quantize(values: &[f32], codes: &mut [i8], heads: &mut [RunHead]) {
        let mut padded;
        let (codes, _) = codes.as_chunks_mut::<RUN>();
        for (index, (codes, head)) in codes.iter_mut().zip(heads).enumerate() {
            let values = match values.get(index * RUN..) {
                None | Some([]) => {
                    (*codes, *head) = ([0; RUN], RunHead::default());
                    continue;
                }
                Some(rest) => match rest.first_chunk::<RUN>() {
                    Some(values) => values,
                    None => {
                        padded = [0.0; RUN];
                        padded[..rest.len()].copy_from_slice(rest);
                        &padded
                    }
                },
            };
            // The bits of magnitudes are in the order of the magnitudes, and integers compare in lanes.
            let largest = values.iter().fold(0u32, |max, value| max.max(value.to_bits() & 0x7fff_ffff));
            let largest = f32::from_bits(largest);
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            let mut sums = [0i32; 2];
            for (half, sum) in sums.iter_mut().enumerate() {
                for i in half * RUN / 2..(half + 1) * RUN / 2 {
                    let code = nearest(values[i] * inverse);
                    codes[i] = code as i8;
                    *sum = sum.wrapping_add(code);
                }
            }
            let scale = largest / 127.0;
            let sum = sums[0].wrapping_add(sums[1]);
            *head = RunHead {
                scale,
                scaled_sum: scale * sum as f32,
                minus_sum: sum.wrapping_neg(),
                minus_half_sums: sums.map(i32::wrapping_neg),
                unused: 0,
            };
        }
    }
}

/// The nearest integer of a magnitude up to 127, ties to even: adding `1.5 · 2²³` leaves it in the low
/// bits. (Not a number becomes some number, as the product it is in is lost anyway.)
#[inline(always)]
fn nearest(value: f32) -> i32 {
    const ROUND: f32 = 12_582_912.0;
    ((value + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
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

/// Whether products whose largest has so many rows multiply bf16 in 16 bits.
fn multiplies_halves(isa: Isa, largest: usize) -> bool {
    #[cfg(vector_kernels)]
    return match isa {
        Isa::Amx => largest >= TILE_ROWS_MIN,
        Isa::Avx512 => super::pairs::available(),
        Isa::Avx2 | Isa::Scalar => false,
    };
    #[cfg(not(vector_kernels))]
    return false;
}

/// Whether products with block formats whose largest has so many rows decode their weights.
pub(super) fn decodes(isa: Isa, largest: usize) -> bool {
    #[cfg(vector_kernels)]
    return largest >= super::quantized::decoded::ROWS_MIN && super::quantized::decoded::available(isa);
    #[cfg(not(vector_kernels))]
    return false;
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
