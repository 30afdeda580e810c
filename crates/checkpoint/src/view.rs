//! One tensor: its description and its bytes, borrowed from the mapping.

use crate::mapping::Mapping;
use crate::{Dtype, Error, Result, decode};
use std::path::Path;

/// A tensor of an open checkpoint. Copying it copies references.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// What an element is.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: &'a [usize],
    /// Row-major elements (or blocks), little-endian, `dtype.byte_len(shape)` bytes. Not aligned: a header of
    /// any length may precede them.
    pub bytes: &'a [u8],
    /// The file that holds it, for messages.
    pub file: &'a Path,
    pub(crate) mapping: &'a Mapping,
    /// Where `bytes` begins in the file.
    pub(crate) start: usize,
}

impl<'a> TensorView<'a> {
    /// Gives the tensor's pages back to the kernel. The view stays valid; the next access reads them again.
    pub fn release(&self) {
        self.mapping.release(self.start..self.start + self.bytes.len());
    }

    /// The elements as `f32`, for F32, F16, BF16 and unscaled F8_E4M3. NaN and infinities pass: logits
    /// files hold whatever a model computed.
    ///
    /// # Errors
    /// [`Error::WrongDtype`] for any other type.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.expect_float()?;
        let mut values = vec![0.0; self.bytes.len() / self.dtype.size()];
        decode::floats(self.dtype, self.bytes, &mut values);
        Ok(values)
    }

    /// The elements as `i64`, for I32, I64, U8 and BOOL.
    ///
    /// # Errors
    /// [`Error::WrongDtype`] for any other type.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        let ints = |size: usize, read: fn(&[u8]) -> i64| self.bytes.chunks_exact(size).map(read).collect();
        Ok(match self.dtype {
            Dtype::U8 | Dtype::Bool => ints(1, |b| i64::from(b[0])),
            Dtype::I32 => ints(4, |b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Dtype::I64 => ints(8, |b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])),
            _ => return Err(self.wrong_dtype("I32, I64, U8 or BOOL")),
        })
    }

    /// Fails unless the shape is `expected`.
    pub(crate) fn expect_shape(&self, expected: &[usize]) -> Result<()> {
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::WrongShape {
            file: self.file.to_owned(),
            tensor: self.name.to_owned(),
            expected: expected.to_vec(),
            got: self.shape.to_vec(),
        })
    }

    /// Fails unless [`decode::floats`] knows the type.
    pub(crate) fn expect_float(&self) -> Result<()> {
        match self.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8E4M3 => Ok(()),
            _ => Err(self.wrong_dtype("F32, F16, BF16 or F8_E4M3")),
        }
    }

    pub(crate) fn wrong_dtype(&self, expected: &'static str) -> Error {
        let (file, tensor) = (self.file.to_owned(), self.name.to_owned());
        Error::WrongDtype { file, tensor, expected, got: self.dtype }
    }

    /// Fails if `values`, decoded from row `row`, column 0 on, are not all finite. `cols` is the row length.
    pub(crate) fn expect_finite(&self, values: &[f32], row: usize, cols: usize) -> Result<()> {
        let Some(position) = decode::first_non_finite(values) else { return Ok(()) };
        Err(Error::NonFinite {
            file: self.file.to_owned(),
            tensor: self.name.to_owned(),
            row: row + position / cols,
            col: position % cols,
            value: values[position],
        })
    }
}
