//! Writing one GGUF file: metadata and shapes first, then the tensors in their order, then the name.

use super::header::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, VERSION};
use super::types;
use super::value::{Value, write_text};
use crate::write::{FileWriter, Layout, Placed, TensorPlan, lengths};
use crate::{Error, Result};
use std::collections::HashSet;
use std::path::Path;

/// ggml keeps names in 64 bytes, the last of them zero.
const NAME_BYTES_MAX: usize = 63;

/// Streams a GGUF file (version 3, little-endian, data aligned to 32 bytes). Dropped before
/// [`GgufWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct GgufWriter(FileWriter);

impl GgufWriter {
    /// Begins `path` (or where a symbolic link of that name leads). `plan` has GGUF names and dimensions
    /// outermost first, in the order of writing; a file already there stays until [`GgufWriter::finish`].
    ///
    /// # Errors
    /// [`Error::BadPlan`] for a name or key that is there twice or too long, a dtype that GGUF has no code for,
    /// or rows that are not whole blocks; [`Error::NotRegular`], [`Error::NoSpace`], or I/O.
    pub fn create(path: &Path, metadata: &[(String, Value)], plan: Vec<TensorPlan>) -> Result<Self> {
        FileWriter::create(path, lay_out(path, metadata, plan)?).map(Self)
    }

    /// Begins the next tensor of the plan, which must be `name`.
    ///
    /// # Errors
    /// [`Error::WriteLength`] if the one before is incomplete, [`Error::WriteOrder`] if another is next.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.0.begin(name)
    }

    /// Appends `bytes` to the tensor begun last.
    ///
    /// # Errors
    /// [`Error::WriteLength`] if they are more than planned, [`Error::NoSpace`], or I/O.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write(bytes)
    }

    /// Appends `values`, rounded to the planned dtype (F32, F16 or BF16; to nearest, ties to even).
    ///
    /// # Errors
    /// As [`GgufWriter::write`]; [`Error::WrongDtype`] for a tensor planned in blocks.
    pub fn write_f32(&mut self, values: &[f32]) -> Result<()> {
        self.0.write_f32(values)
    }

    /// Completes the file and puts it under its name.
    ///
    /// # Errors
    /// [`Error::WriteLength`] or [`Error::WriteOrder`] if a tensor is incomplete or missing, [`Error::NoSpace`],
    /// or I/O.
    pub fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

fn lay_out(path: &Path, metadata: &[(String, Value)], plan: Vec<TensorPlan>) -> Result<Layout> {
    let bad = |name: &str, reason: String| {
        let (path, tensor) = (path.to_owned(), name.to_owned());
        Error::BadPlan { path, tensor, reason }
    };
    let lengths = lengths(path, &plan)?;
    let mut keys = HashSet::with_capacity(metadata.len());
    if let Some((key, _)) =
        metadata.iter().find(|(key, _)| !keys.insert(key.as_str()) || key.as_str() == ALIGNMENT_KEY)
    {
        return Err(bad(key, "this key is there twice, or is the writer's own".to_owned()));
    }
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((plan.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(key, &mut header);
        header.extend(value.code().to_le_bytes());
        value.write(&mut header);
    }
    let mut offsets = Vec::with_capacity(plan.len());
    let mut data_bytes = 0u64;
    for (TensorPlan { name, dtype, shape }, length) in plan.iter().zip(&lengths) {
        let Some(code) = types::code(*dtype) else {
            return Err(bad(name, format!("GGUF has no {dtype}; choose one of {}", types::SUPPORTED)));
        };
        let columns = shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(dtype.block_len()) {
            let reason = format!(
                "its rows of {columns} are not whole blocks of {dtype} ({}); choose another format for it",
                dtype.block_len()
            );
            return Err(bad(name, reason));
        }
        if name.len() > NAME_BYTES_MAX || shape.len() > 4 || shape.contains(&0) {
            let reason = format!("GGUF allows {NAME_BYTES_MAX} bytes of name and 1 to 4 dimensions above 0");
            return Err(bad(name, reason));
        }
        write_text(name, &mut header);
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&dim| header.extend((dim as u64).to_le_bytes()));
        header.extend(code.to_le_bytes());
        header.extend(data_bytes.to_le_bytes());
        offsets.push(data_bytes);
        let aligned =
            data_bytes.checked_add(*length).and_then(|end| end.checked_next_multiple_of(ALIGNMENT as u64));
        data_bytes = aligned.ok_or_else(|| bad(name, "the sum of sizes overflows".to_owned()))?;
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    let data_start = header.len() as u64;
    let tensors = plan
        .into_iter()
        .zip(offsets.into_iter().zip(lengths))
        .map(|(TensorPlan { name, dtype, .. }, (offset, length))| {
            // Saturated, the file is refused for want of space.
            Placed { name, dtype, start: data_start.saturating_add(offset), length }
        })
        .collect();
    Ok(Layout { header, tensors, file_bytes: data_start.saturating_add(data_bytes) })
}
