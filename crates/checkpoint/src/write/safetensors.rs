//! One `.safetensors` file.

use super::file::FileWriter;
use super::plan::{self, TensorPlan};
use crate::Result;
use std::path::Path;

/// Writes one `.safetensors` file, tensor after tensor in the order of the plan. Dropped before
/// [`SafetensorsWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct SafetensorsWriter(FileWriter);

impl SafetensorsWriter {
    /// Begins `path` (or where a symbolic link of that name leads), to be written as `plan` says. A file
    /// already there stays until [`SafetensorsWriter::finish`] replaces it.
    ///
    /// # Errors
    /// A name planned twice, a size that overflows, [`Error::NotRegular`](crate::Error::NotRegular), no space,
    /// or I/O.
    pub fn create(path: &Path, plan: Vec<TensorPlan>) -> Result<Self> {
        let lengths = plan::lengths(path, &plan)?;
        FileWriter::create(path, plan::lay_out(plan, &lengths)).map(Self)
    }

    /// Begins the next tensor of the plan, which must be `name`.
    ///
    /// # Errors
    /// [`Error::WriteLength`](crate::Error::WriteLength) if the one before is incomplete,
    /// [`Error::WriteOrder`](crate::Error::WriteOrder) if another is next.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.0.begin(name)
    }

    /// Appends `bytes` to the tensor begun last.
    ///
    /// # Errors
    /// [`Error::WriteLength`](crate::Error::WriteLength) if they are more than planned,
    /// [`Error::NoSpace`](crate::Error::NoSpace), or I/O.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write(bytes)
    }

    /// Appends `values`, rounded to the planned dtype (F32, F16 or BF16; to nearest, ties to even).
    ///
    /// # Errors
    /// As [`SafetensorsWriter::write`]; [`Error::WrongDtype`](crate::Error::WrongDtype) for a tensor planned as
    /// anything else.
    pub fn write_f32(&mut self, values: &[f32]) -> Result<()> {
        self.0.write_f32(values)
    }

    /// Completes the file and puts it under its name.
    ///
    /// # Errors
    /// [`Error::WriteLength`](crate::Error::WriteLength) or [`Error::WriteOrder`](crate::Error::WriteOrder) if a
    /// tensor is incomplete or missing, [`Error::NoSpace`](crate::Error::NoSpace), or I/O.
    pub fn finish(self) -> Result<()> {
        self.0.finish()
    }
}
