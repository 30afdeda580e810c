//! The embedding table, row-major: a step reads single rows of it.

use fathom_checkpoint::{Dtype, Matrix};
use fathom_kernels::encode;
use fathom_kernels::gemm::WeightFormat;
use fathom_kernels::{Compute, WeightBytes};
use fathom_numeric::{bf16, f16};

use crate::Result;
use crate::weights::{Embedding, table_row_bytes};

/// Reads all rows on all threads.
pub(super) fn read(compute: &Compute, format: WeightFormat, source: &Matrix<'_>) -> Result<Embedding> {
    let cols = source.cols();
    let mut rows = WeightBytes::zeroed(source.rows() * table_row_bytes(format, cols));
    let out = rows.as_mut_slice().expect("fresh bytes are nobody else's");
    fill(compute.threads(), source.rows(), out, |row, out| {
        if let WeightFormat::Block(format) = format
            && source.dtype() == Dtype::Block(format)
        {
            out.copy_from_slice(source.row_blocks(row)?);
            return Ok(());
        }
        let mut values = vec![0.0; cols];
        source.rows_f32(row..row + 1, &mut values)?;
        match format {
            WeightFormat::F32 => store(&values, f32::to_le_bytes, out),
            WeightFormat::F16 => store(&values, |value| f16::from_f32(value).to_le_bytes(), out),
            WeightFormat::Bf16 => store(&values, |value| bf16::from_f32(value).to_le_bytes(), out),
            WeightFormat::Block(format) => encode::row(compute, format, &values, None, out),
        }
        Ok(())
    })?;
    Ok(Embedding::Rows(format, rows))
}

fn store<const N: usize>(values: &[f32], bytes: impl Fn(f32) -> [u8; N], out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut();
    out.iter_mut().zip(values).for_each(|(out, &value)| *out = bytes(value));
}

/// `write(row, out)` for every row of `out`, rows divided among threads.
fn fill(
    threads: usize,
    rows: usize,
    out: &mut [u8],
    write: impl Fn(usize, &mut [u8]) -> Result<()> + Sync,
) -> Result<()> {
    let (each, width) = (rows.div_ceil(threads).max(1), out.len() / rows.max(1));
    let write = &write;
    std::thread::scope(|scope| {
        let part = |(index, out): (usize, &mut [u8])| {
            let mut rows = out.chunks_exact_mut(width).enumerate();
            rows.try_for_each(|(offset, out)| write(index * each + offset, out))
        };
        let parts = out.chunks_mut((each * width).max(1)).enumerate();
        let threads: Vec<_> = parts.map(|chunk| scope.spawn(move || part(chunk))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("decoding does not panic"))
    })
}
