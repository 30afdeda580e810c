//! Rows of weights become blocks: `BlockFormat::encode`, compiled for the machine's ISA, rows in parallel.
//!
//! The search for scales that lose least is most of the work of quantizing; on the widest ISA it takes a
//! quarter of the time of portable code, for the same bytes.

use std::sync::Mutex;

use fathom_numeric::blocks::BlockFormat;

use crate::Compute;
use crate::math::per_isa;
use crate::memory::Scratch;
use crate::shared::SharedSlice;

/// Numbers that one unit of a parallel region encodes.
const UNIT: usize = 1 << 14;

per_isa! {
    pub(crate) fn encode(
        format: BlockFormat,
        values: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        format.encode_inlined(values, importance, out);
    }
}

/// One row on the calling thread: what [`BlockFormat::encode`] writes, sooner.
///
/// # Panics
/// As [`BlockFormat::encode`].
pub fn row(
    compute: &Compute,
    format: BlockFormat,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    encode(compute.isa, format, values, importance, out);
}

/// Rows of `cols` weights to `out` `[rows, format.row_bytes(cols)]`, on all threads. `fetch(row, values)` fills
/// `values` `[cols]`. `importance` `[cols]` holds for every row.
///
/// # Errors
/// The first error that `fetch` returned; `out` is then partly written.
///
/// # Panics
/// If `out` is not whole rows, or `importance` is not `[cols]`.
pub fn rows<E: Send>(
    compute: &Compute,
    format: BlockFormat,
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    fetch: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let row_bytes = format.row_bytes(cols);
    if row_bytes == 0 {
        return Ok(());
    }
    assert!(out.len().is_multiple_of(row_bytes), "{} bytes are not rows of {row_bytes}", out.len());
    let count = out.len() / row_bytes;
    let each = (UNIT / cols).max(1);
    let failure = Mutex::new(None);
    let out = SharedSlice::new(out);
    compute.pool.run(count.div_ceil(each), |unit, scratch: &mut Scratch| {
        let [values] = scratch.floats([cols]);
        for row in unit * each..count.min((unit + 1) * each) {
            if let Err(error) = fetch(row, values) {
                failure.lock().expect("no thread panics while it holds this").get_or_insert(error);
                return;
            }
            // SAFETY: every row is in one unit, and its bytes are its own range.
            let out = unsafe { out.range_mut(row * row_bytes, row_bytes) };
            encode(compute.isa, format, values, importance, out);
        }
    });
    match failure.into_inner().expect("no thread panicked") {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_isa_writes_the_bytes_of_the_definition() {
        for format in BlockFormat::all() {
            // Short last blocks, where the format has them, and rows of several units.
            for (count, cols) in [(1, 256), (3, 33), (70, 512)] {
                let value = |at: usize| ((at * 7919 % 1013) as f32 - 500.0) * 0.003 * (1 + at % 5) as f32;
                let values: Vec<f32> = (0..count * cols).map(value).collect();
                let importance: Vec<f32> = (0..cols).map(|col| (col % 11) as f32 * 0.3).collect();
                for importance in [None, Some(&importance[..])] {
                    let row_bytes = format.row_bytes(cols);
                    let mut want = vec![0; count * row_bytes];
                    for (values, out) in values.chunks(cols).zip(want.chunks_mut(row_bytes)) {
                        format.encode(values, importance, out);
                    }
                    for isa in Isa::available() {
                        let compute = Compute::with_isa(isa, 2);
                        let mut got = vec![0xAA; want.len()];
                        let fetch = |row: usize, out: &mut [f32]| {
                            out.copy_from_slice(&values[row * cols..][..cols]);
                            Ok::<(), ()>(())
                        };
                        rows(&compute, format, cols, importance, &mut got, fetch).expect("nothing fails");
                        assert!(got == want, "{} [{count}, {cols}] on {isa}", format.name());
                        row(&compute, format, &values[..cols], importance, &mut got[..row_bytes]);
                        assert!(got == want, "{} row on {isa}", format.name());
                    }
                }
            }
        }
    }

    #[test]
    fn an_error_of_the_source_is_returned() {
        let compute = Compute::with_isa(Isa::Scalar, 2);
        let fetch = |row: usize, _: &mut [f32]| if row == 7 { Err("seventh") } else { Ok(()) };
        let mut out = vec![0; 34 * 20];
        assert_eq!(rows(&compute, BlockFormat::Q8_0, 32, None, &mut out, fetch), Err("seventh"));
    }
}
