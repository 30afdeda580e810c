//! One packed matrix from one or two stored ones: blocks move as they are where they can.

use std::ops::Range;

use fathom_checkpoint::Matrix;
use fathom_kernels::Compute;
use fathom_kernels::gemm::{PANEL, PackedMatrix, WeightFormat};
use fathom_numeric::blocks::BlockFormat;

use crate::Result;

/// What is packed, and how.
pub(super) struct Source<'a, 'm> {
    pub(super) compute: &'a Compute,
    pub(super) format: WeightFormat,
    pub(super) matrices: &'a [Matrix<'m>],
    /// The columns that are taken, of every row.
    pub(super) columns: Range<usize>,
}

impl<'a, 'm> Source<'a, 'm> {
    /// All columns of some matrices of equal width.
    pub(super) fn whole(compute: &'a Compute, format: WeightFormat, matrices: &'a [Matrix<'m>]) -> Self {
        Self { compute, format, matrices, columns: 0..matrices[0].cols() }
    }

    /// Packs `rows` rows, of which row `r` is row `locate(r)` = (matrix, row) of the sources, or zero.
    pub(super) fn pack(
        &self,
        rows: usize,
        locate: impl Fn(usize) -> Option<(usize, usize)> + Sync,
    ) -> Result<PackedMatrix> {
        match self.format {
            WeightFormat::Block(format) if self.is_stored_as(format) => {
                self.pack_blocks(format, rows, locate)
            }
            _ => self.pack_floats(rows, locate),
        }
    }

    /// Whether the columns are whole blocks of `format` in every source.
    fn is_stored_as(&self, format: BlockFormat) -> bool {
        let stored = |matrix: &Matrix<'_>| {
            matrix.block_format() == Some(format) || format == BlockFormat::Fp8 && matrix.has_fp8_rows()
        };
        let aligned = |col: usize| col.is_multiple_of(format.block_len()) || col == self.matrices[0].cols();
        self.matrices.iter().all(stored) && aligned(self.columns.start) && aligned(self.columns.end)
    }

    fn pack_blocks(
        &self,
        format: BlockFormat,
        rows: usize,
        locate: impl Fn(usize) -> Option<(usize, usize)> + Sync,
    ) -> Result<PackedMatrix> {
        let first = self.columns.start / format.block_len() * format.block_bytes();
        let whole = self.columns.len() == self.matrices[0].cols();
        let row_bytes = format.row_bytes(self.matrices[0].cols());
        let fetch = |row: usize, out: &mut [u8]| {
            let Some((source, row)) = locate(row) else { return Ok(false) };
            let matrix = &self.matrices[source];
            if matrix.block_format().is_some() {
                out.copy_from_slice(&matrix.row_blocks(row)?[first..first + out.len()]);
            } else if whole {
                matrix.fp8_row(row, out)?;
            } else {
                let mut blocks = vec![0; row_bytes];
                matrix.fp8_row(row, &mut blocks)?;
                out.copy_from_slice(&blocks[first..first + out.len()]);
            }
            Ok(true)
        };
        PackedMatrix::from_blocks(self.compute, format, [rows, self.columns.len()], fetch)
    }

    fn pack_floats(
        &self,
        rows: usize,
        locate: impl Fn(usize) -> Option<(usize, usize)> + Sync,
    ) -> Result<PackedMatrix> {
        let cols = self.columns.len();
        let whole = cols == self.matrices[0].cols();
        PackedMatrix::build(self.compute, self.format, [rows, cols], |panel, values| {
            let mut buffer = if whole { Vec::new() } else { vec![0.0; self.matrices[0].cols()] };
            for (lane, out) in values.chunks_exact_mut(cols).enumerate() {
                let row = panel * PANEL + lane;
                let Some((source, row)) = (row < rows).then(|| locate(row)).flatten() else { continue };
                if whole {
                    self.matrices[source].rows_f32(row..row + 1, out)?;
                } else {
                    self.matrices[source].rows_f32(row..row + 1, &mut buffer)?;
                    out.copy_from_slice(&buffer[self.columns.clone()]);
                }
            }
            Ok(())
        })
    }
}

/// Rows `rows` of `source`, transposed.
pub(super) fn transposed(
    compute: &Compute,
    format: WeightFormat,
    source: &Matrix<'_>,
    rows: Range<usize>,
) -> Result<PackedMatrix> {
    let (a, b) = (rows.len(), source.cols());
    let mut values = vec![0.0; a * b];
    source.rows_f32(rows, &mut values)?;
    let turned: Vec<f32> = (0..b).flat_map(|col| values.iter().skip(col).step_by(b).copied()).collect();
    Ok(PackedMatrix::from_rows(compute, format, [b, a], &turned))
}
