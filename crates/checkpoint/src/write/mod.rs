//! Writing safetensors (and, in `gguf/write.rs`, GGUF): the shapes first, then the bytes, then the names.
//!
//! [`SafetensorsWriter`] writes one file, [`ShardedWriter`] a checkpoint of as many as are needed. Both know
//! every byte's place before they write one, take the tensors in the planned order in pieces of any size,
//! and put the result under its name only when it is whole and on the disk.

mod file;
mod plan;
mod safetensors;
mod sharded;
mod space;

pub(crate) use file::FileWriter;
pub use file::destination;
pub use plan::TensorPlan;
pub(crate) use plan::{Layout, Placed, lengths};
pub use safetensors::SafetensorsWriter;
pub use sharded::{ShardedWriter, WriteOptions};

use crate::{Dtype, Result};
use std::path::Path;

/// A tensor that is already in memory, for [`write_safetensors`].
#[derive(Clone, Debug)]
pub struct OutTensor<'a> {
    /// Its name in the file.
    pub name: String,
    /// What `bytes` are.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Row-major, little-endian.
    pub bytes: &'a [u8],
}

/// Writes `tensors` to `path`, replacing what was there; the old file stays until the new one is complete.
///
/// # Errors
/// A name twice, a length that is not shape × dtype, something there that is no regular file, no space, or I/O.
pub fn write_safetensors(path: &Path, tensors: &[OutTensor<'_>]) -> Result<()> {
    let plan = tensors.iter().map(|t| TensorPlan::new(t.name.clone(), t.dtype, t.shape.clone())).collect();
    let mut writer = SafetensorsWriter::create(path, plan)?;
    for tensor in tensors {
        writer.begin(&tensor.name)?;
        writer.write(tensor.bytes)?;
    }
    writer.finish()
}
