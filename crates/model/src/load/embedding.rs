//! The embedding table, row-major: a step reads single rows of it.

use fathom_checkpoint::{Dtype, Matrix};
use fathom_kernels::gemm::WeightFormat;
use fathom_numeric::{bf16, f16};

use crate::Result;
use crate::weights::Embedding;

/// Reads all rows on `threads` threads.
pub(super) fn read(threads: usize, format: WeightFormat, source: &Matrix<'_>) -> Result<Embedding> {
    let (rows, cols) = (source.rows(), source.cols());
    Ok(match format {
        WeightFormat::F32 => {
            let convert = |value: &[f32], out: &mut [f32]| out.copy_from_slice(value);
            Embedding::F32(floats(threads, source, vec![0.0; rows * cols], convert)?)
        }
        WeightFormat::F16 => {
            let convert = |values: &[f32], out: &mut [f16]| {
                out.iter_mut().zip(values).for_each(|(out, &value)| *out = f16::from_f32(value));
            };
            Embedding::F16(floats(threads, source, vec![f16::ZERO; rows * cols], convert)?)
        }
        WeightFormat::Bf16 => {
            let convert = |values: &[f32], out: &mut [bf16]| {
                out.iter_mut().zip(values).for_each(|(out, &value)| *out = bf16::from_f32(value));
            };
            Embedding::Bf16(floats(threads, source, vec![bf16::ZERO; rows * cols], convert)?)
        }
        WeightFormat::Block(format) => {
            let mut blocks = vec![0; rows * format.row_bytes(cols)];
            let stored = source.dtype() == Dtype::Block(format);
            fill(threads, rows, &mut blocks, |row, out: &mut [u8]| {
                if stored {
                    out.copy_from_slice(source.row_blocks(row)?);
                } else {
                    let mut values = vec![0.0; cols];
                    source.rows_f32(row..row + 1, &mut values)?;
                    format.encode(&values, None, out);
                }
                Ok(())
            })?;
            Embedding::Blocks(format, blocks)
        }
    })
}

fn floats<T: Send>(
    threads: usize,
    source: &Matrix<'_>,
    mut out: Vec<T>,
    convert: impl Fn(&[f32], &mut [T]) + Sync,
) -> Result<Vec<T>> {
    fill(threads, source.rows(), &mut out, |row, out| {
        let mut values = vec![0.0; out.len()];
        source.rows_f32(row..row + 1, &mut values)?;
        convert(&values, out);
        Ok(())
    })?;
    Ok(out)
}

/// `write(row, out)` for every row of `out`, rows divided among threads.
fn fill<T: Send>(
    threads: usize,
    rows: usize,
    out: &mut [T],
    write: impl Fn(usize, &mut [T]) -> Result<()> + Sync,
) -> Result<()> {
    let (each, width) = (rows.div_ceil(threads).max(1), out.len() / rows.max(1));
    let write = &write;
    std::thread::scope(|scope| {
        let part = |(index, out): (usize, &mut [T])| {
            let rows = out.chunks_exact_mut(width).enumerate();
            rows.map(|(offset, out)| write(index * each + offset, out)).collect::<Result<()>>()
        };
        let parts = out.chunks_mut((each * width).max(1)).enumerate();
        let threads: Vec<_> = parts.map(|chunk| scope.spawn(move || part(chunk))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("decoding does not panic"))
    })
}
