//! A weight matrix of a known shape: decoded to `f32` row by row, or handed out in the blocks it is stored in.
//!
//! FP8 weights come with one scale per block: value = code * scale, although the tensor of scales is called
//! `weight_scale_inv` (DeepSeek-V3 README_WEIGHTS.md). The block of element (r, c) is (r / block rows,
//! c / block columns), so the last blocks of a matrix that is no multiple of the block are smaller: the
//! real `kv_a_proj_with_mqa` has 576 rows, four blocks of 128 and one of 64. Dividing the rows evenly among
//! the scales instead gives wrong weights there.

use crate::{Dtype, Error, Result, TensorView, decode};
use fathom_numeric::blocks::BlockFormat;
use fathom_numeric::fp8;
use std::ops::Range;

/// A two-dimensional weight whose shape and dtype have been checked. `Sync`: threads may decode different
/// rows at once.
#[derive(Clone, Debug)]
pub struct Matrix<'a> {
    view: TensorView<'a>,
    rows: usize,
    cols: usize,
    encoding: Encoding,
}

/// How the bytes of a row become numbers.
#[derive(Clone, Debug)]
enum Encoding {
    /// One after the other.
    Plain,
    /// FP8 codes, with scales in another tensor.
    Scaled(BlockScales),
    /// Blocks with their scales in them.
    Blocks(BlockFormat),
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
    /// Checks `view` against `[rows, cols]`, stored in blocks of `format` if that is given; `scales` is asked
    /// for only if it is FP8.
    pub(crate) fn new(
        view: TensorView<'a>,
        [rows, cols]: [usize; 2],
        format: Option<BlockFormat>,
        scales: impl FnOnce() -> ScaleSource<'a>,
    ) -> Result<Self> {
        let encoding = match (view.dtype, format) {
            (Dtype::Block(stored), _) => {
                view.expect_shape(&[rows, cols])?;
                Encoding::Blocks(stored)
            }
            (Dtype::U8, Some(format)) => {
                view.expect_shape(&[rows, format.row_bytes(cols)])?;
                Encoding::Blocks(format)
            }
            (_, Some(_)) => return Err(view.wrong_dtype("U8 (config.json says that it is quantized)")),
            (Dtype::F8E4M3, None) => {
                view.expect_shape(&[rows, cols])?;
                Encoding::Scaled(BlockScales::read(&view, scales())?)
            }
            _ => {
                view.expect_shape(&[rows, cols])?;
                view.expect_float()?;
                Encoding::Plain
            }
        };
        Ok(Self { view, rows, cols, encoding })
    }

    /// Number of rows (outputs of the linear map).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs of the linear map).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What the elements are stored as; blocks where it is quantized, in whatever the file carries them.
    pub fn dtype(&self) -> Dtype {
        match self.encoding {
            Encoding::Blocks(format) => Dtype::Block(format),
            _ => self.view.dtype,
        }
    }

    /// The format of the blocks that [`Matrix::row_blocks`] gives; `None` if it is not stored in blocks.
    pub fn block_format(&self) -> Option<BlockFormat> {
        match self.encoding {
            Encoding::Blocks(format) => Some(format),
            _ => None,
        }
    }

    /// The blocks of row `row`, [`BlockFormat::row_bytes`]`(cols)` bytes, as they stand in the file.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a scale, or what a code and its scale make, is no finite number.
    ///
    /// # Panics
    /// If the matrix is not stored in blocks, or has no such row.
    pub fn row_blocks(&self, row: usize) -> Result<&'a [u8]> {
        let format = self.block_format().expect("asked only where `block_format` says so");
        let length = format.row_bytes(self.cols);
        let blocks = &self.view.bytes[row * length..][..length];
        let suspect = match format {
            // Codes of FP8 can be NaN too.
            BlockFormat::Fp8 => true,
            _ => format.first_bad_block(blocks).is_some(),
        };
        if suspect {
            let mut values = vec![0.0; self.cols];
            format.decode(blocks, &mut values);
            self.view.expect_finite(&values, row, self.cols)?;
        }
        Ok(blocks)
    }

    /// Whether [`Matrix::fp8_row`] can be asked: FP8 with scales of their own, 128 columns each.
    pub fn has_fp8_rows(&self) -> bool {
        matches!(&self.encoding, Encoding::Scaled(scales) if scales.block[1] == fp8::BLOCK)
    }

    /// Writes row `row` in blocks of [`BlockFormat::Fp8`]: scale, then 128 codes, the last block filled up
    /// with zeroes. `out` is `BlockFormat::Fp8.row_bytes(cols)` bytes.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a code is NaN, or a code times its scale is infinite.
    ///
    /// # Panics
    /// If [`Matrix::has_fp8_rows`] is false, there is no such row, or `out` has another length.
    pub fn fp8_row(&self, row: usize, out: &mut [u8]) -> Result<()> {
        assert!(self.has_fp8_rows(), "fp8_row of a matrix without 128-column FP8 scales");
        let Encoding::Scaled(scales) = &self.encoding else { unreachable!("checked above") };
        assert_eq!(out.len(), BlockFormat::Fp8.row_bytes(self.cols), "out is a row of blocks");
        let codes = &self.view.bytes[row * self.cols..][..self.cols];
        let mut finite = true;
        let blocks = out.chunks_exact_mut(BlockFormat::Fp8.block_bytes());
        for ((block, codes), &scale) in blocks.zip(codes.chunks(fp8::BLOCK)).zip(scales.of_row(row)) {
            let (head, tail) = block.split_at_mut(4);
            head.copy_from_slice(&scale.to_le_bytes());
            tail[..codes.len()].copy_from_slice(codes);
            tail[codes.len()..].fill(0);
            let nan = codes.iter().fold(false, |any, &code| any | (code & 0x7f == 0x7f));
            finite &= !nan && (scale * fp8::MAX).is_finite();
        }
        if !finite {
            let mut values = vec![0.0; self.cols];
            self.rows_f32(row..row + 1, &mut values)?;
        }
        Ok(())
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
        let row_len = self.row_len();
        let stored = &self.view.bytes[rows.start * row_len..rows.end * row_len];
        // Row by row, so that the finiteness scan reads what was just written from the cache.
        for ((row, stored), out) in
            rows.zip(stored.chunks_exact(row_len)).zip(out.chunks_exact_mut(self.cols))
        {
            match &self.encoding {
                Encoding::Plain => decode::floats(self.view.dtype, stored, out),
                Encoding::Scaled(scales) => scales.decode_row(row, stored, out),
                Encoding::Blocks(format) => format.decode(stored, out),
            }
            self.view.expect_finite(out, row, self.cols)?;
        }
        Ok(())
    }

    /// Gives the matrix's pages back to the kernel; it may still be read, at the price of reading it again.
    pub fn release(&self) {
        self.view.release();
    }

    /// Bytes of a row.
    fn row_len(&self) -> usize {
        match self.encoding {
            Encoding::Blocks(format) => format.row_bytes(self.cols),
            _ => self.cols * self.view.dtype.size(),
        }
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

    /// The scales of a row, one for each `block[1]` columns.
    fn of_row(&self, row: usize) -> &[f32] {
        &self.values[row / self.block[0] * self.per_row_of_blocks..][..self.per_row_of_blocks]
    }

    fn decode_row(&self, row: usize, codes: &[u8], out: &mut [f32]) {
        let width = self.block[1];
        for ((codes, out), &scale) in codes.chunks(width).zip(out.chunks_mut(width)).zip(self.of_row(row)) {
            decode::scaled_e4m3(codes, scale, out);
        }
    }
}
