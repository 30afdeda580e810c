//! A weight matrix of a known shape, decoded to `f32` row by row.
//!
//! FP8 weights come with one scale per block: value = code * scale, although the tensor of scales is called
//! `weight_scale_inv` (DeepSeek-V3 README_WEIGHTS.md). The block of element (r, c) is (r / block rows,
//! c / block columns), so the last blocks of a matrix that is no multiple of the block are smaller: the
//! real `kv_a_proj_with_mqa` has 576 rows, four blocks of 128 and one of 64. Dividing the rows evenly among
//! the scales instead gives wrong weights there.

use crate::{Dtype, Error, Result, TensorView, decode};
use std::ops::Range;

/// A two-dimensional weight whose shape and dtype have been checked. `Sync`: threads may decode different
/// rows at once.
#[derive(Clone, Debug)]
pub struct Matrix<'a> {
    view: TensorView<'a>,
    rows: usize,
    cols: usize,
    scales: Option<BlockScales>,
}

/// `weight_scale_inv` as `f32`.
#[derive(Clone, Debug)]
struct BlockScales {
    /// `[⌈rows / block[0]⌉, ⌈cols / block[1]⌉]`
    values: Vec<f32>,
    per_row_of_blocks: usize,
    block: [usize; 2],
}

/// Where an FP8 weight's scales come from.
pub(crate) struct ScaleSource<'a> {
    pub(crate) name: String,
    pub(crate) view: Option<TensorView<'a>>,
    pub(crate) block: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Checks `view` against `[rows, cols]`; `scales` is asked for only if it is FP8.
    pub(crate) fn new(
        view: TensorView<'a>,
        [rows, cols]: [usize; 2],
        scales: impl FnOnce() -> ScaleSource<'a>,
    ) -> Result<Self> {
        view.expect_shape(&[rows, cols])?;
        view.expect_float()?;
        let scales = match view.dtype {
            Dtype::F8E4M3 => Some(BlockScales::read(&view, scales())?),
            _ => None,
        };
        Ok(Self { view, rows, cols, scales })
    }

    /// Number of rows (outputs of the linear map).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs of the linear map).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What the elements are stored as.
    pub fn dtype(&self) -> Dtype {
        self.view.dtype
    }

    /// The stored elements, without the scales.
    pub fn view(&self) -> &TensorView<'a> {
        &self.view
    }

    /// Decodes `rows` into `out` `[rows.len(), cols]`, scales applied.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with the place of the first NaN or infinity; `out` is then partly written.
    ///
    /// # Panics
    /// If `rows` reaches beyond the matrix or `out` has another size.
    pub fn rows_f32(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert_eq!(out.len(), rows.len() * self.cols, "out is [rows, cols]");
        if self.cols == 0 {
            return Ok(());
        }
        let stored = &self.view.bytes[self.row_bytes(rows.clone())];
        let row_len = self.cols * self.view.dtype.size();
        // Row by row, so that the finiteness scan reads what was just written from the cache.
        for ((row, stored), out) in
            rows.zip(stored.chunks_exact(row_len)).zip(out.chunks_exact_mut(self.cols))
        {
            match &self.scales {
                Some(scales) => scales.decode_row(row, stored, out),
                None => decode::floats(self.view.dtype, stored, out),
            }
            self.view.expect_finite(out, row, self.cols)?;
        }
        Ok(())
    }

    /// Gives the matrix's pages back to the kernel; it may still be read, at the price of reading it again.
    pub fn release(&self) {
        self.view.release();
    }

    fn row_bytes(&self, rows: Range<usize>) -> Range<usize> {
        let row_len = self.cols * self.view.dtype.size();
        rows.start * row_len..rows.end * row_len
    }
}

impl BlockScales {
    fn read(weight: &TensorView<'_>, source: ScaleSource<'_>) -> Result<Self> {
        let ScaleSource { name, view, block } = source;
        let Some(view) = view else {
            let (file, tensor) = (weight.file.to_owned(), weight.name.to_owned());
            return Err(Error::MissingScale { file, tensor, scale: name });
        };
        let shape = [weight.shape[0].div_ceil(block[0]), weight.shape[1].div_ceil(block[1])];
        view.expect_shape(&shape)?;
        let values = match view.dtype {
            Dtype::F32 | Dtype::BF16 => view.to_f32()?,
            Dtype::F8E8M0 => view.bytes.iter().map(|&code| decode::e8m0(code)).collect(),
            _ => return Err(view.wrong_dtype("F32, BF16 or F8_E8M0")),
        };
        view.expect_finite(&values, 0, shape[1])?;
        Ok(Self { values, per_row_of_blocks: shape[1], block })
    }

    fn decode_row(&self, row: usize, codes: &[u8], out: &mut [f32]) {
        let width = self.block[1];
        let scales = &self.values[row / self.block[0] * self.per_row_of_blocks..][..self.per_row_of_blocks];
        for ((codes, out), &scale) in codes.chunks(width).zip(out.chunks_mut(width)).zip(scales) {
            decode::scaled_e4m3(codes, scale, out);
        }
    }
}
