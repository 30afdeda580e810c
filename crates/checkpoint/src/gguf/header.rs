//! The head of a GGUF file: magic, version, counts, metadata, tensor descriptions; then the aligned data.
//!
//! Layout as in <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Version 2 and 3 do not differ
//! for little-endian files; version 1 had narrower counts and is gone from use.

use super::cursor::Cursor;
use super::metadata::Metadata;
use super::types;
use crate::header::Entry;
use crate::{Dtype, Error, Result};
use std::collections::HashSet;
use std::path::Path;

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
pub(super) const VERSION: u32 = 3;
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
/// Where data is aligned to unless the file says otherwise.
pub(super) const ALIGNMENT: usize = 32;

/// ggml's limit.
const DIMS_MAX: u32 = 4;

/// Bytes that a key and its value, or a tensor's description, take at least.
const ENTRY_BYTES_MIN: usize = 12;

/// Everything before the data.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) metadata: Metadata,
    tensors: Cursor<'a>,
    count: usize,
}

impl std::fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cursor at {}", self.position())
    }
}

fn malformed(file: &Path, reason: String) -> Error {
    Error::MalformedHeader { file: file.to_owned(), reason }
}

impl<'a> Header<'a> {
    /// Reads the metadata of `bytes`, which is the whole of `file`.
    pub(super) fn parse(file: &Path, bytes: &'a [u8]) -> Result<Self> {
        let unsupported = |format, mend| Error::UnsupportedFormat { path: file.to_owned(), format, mend };
        if !bytes.starts_with(&MAGIC) {
            return Err(malformed(file, "it does not begin with GGUF: download the file again".to_owned()));
        }
        let fail = |reason| malformed(file, reason);
        let mut cursor = Cursor::new(bytes, MAGIC.len());
        match cursor.u32().map_err(fail)? {
            2 | 3 => {}
            1 => return Err(unsupported("a GGUF file of version 1", "convert the model again")),
            version if version.swap_bytes() <= 0xffff => {
                return Err(unsupported(
                    "a big-endian GGUF file",
                    "take the little-endian file of the same model",
                ));
            }
            version => {
                let reason =
                    format!("GGUF version {version} is unknown, expected 2 or 3: is Fathom too old?");
                return Err(malformed(file, reason));
            }
        }
        let tensors = cursor.count("tensors", ENTRY_BYTES_MIN).map_err(fail)?;
        let keys = cursor.count("keys", ENTRY_BYTES_MIN).map_err(fail)?;
        let mut entries = Vec::with_capacity(keys.min(1024));
        let mut seen = HashSet::with_capacity(keys.min(1024));
        for number in 0..keys {
            let key = cursor.text().map_err(|reason| fail(format!("key {number}: {reason}")))?;
            let value = cursor.value().map_err(|reason| fail(format!("key {key:?}: {reason}")))?;
            if !seen.insert(key) {
                return Err(fail(format!("key {key:?} appears twice")));
            }
            entries.push((key.to_owned(), value));
        }
        Ok(Self { metadata: Metadata::new(file, entries), tensors: cursor, count: tensors })
    }

    /// Reads and checks the tensor descriptions. They come in the order of their data.
    pub(super) fn tensors(mut self, bytes: &[u8]) -> Result<(Metadata, Vec<Entry>)> {
        let file = self.metadata.file().to_owned();
        let alignment = match self.metadata.unsigned(ALIGNMENT_KEY)? {
            None => ALIGNMENT,
            Some(alignment @ 1..=0x1_0000_0000) if alignment.is_power_of_two() => alignment as usize,
            Some(_) => return Err(self.metadata.wrong(ALIGNMENT_KEY, "a power of two")),
        };
        let mut raw = Vec::with_capacity(self.count.min(1 << 16));
        let mut seen = HashSet::with_capacity(self.count.min(1 << 16));
        for number in 0..self.count {
            let tensor = RawTensor::read(&mut self.tensors, &file, number)?;
            if !seen.insert(tensor.name) {
                let (first, second) = (file.clone(), file);
                return Err(Error::DuplicateTensor { tensor: tensor.name.to_owned(), first, second });
            }
            raw.push(tensor);
        }
        // Cannot overflow: the position lies within the file, which was mapped.
        let data_start = self.tensors.position().next_multiple_of(alignment);
        let mut entries = Vec::with_capacity(raw.len());
        for tensor in raw {
            entries.push(tensor.place(&file, data_start, alignment, bytes.len())?);
        }
        entries.sort_by_key(|entry| (entry.range.start, entry.range.end));
        for pair in entries.windows(2) {
            if pair[1].range.start < pair[0].range.end {
                return Err(Error::Overlap {
                    file,
                    first: pair[0].name.clone(),
                    second: pair[1].name.clone(),
                });
            }
        }
        Ok((self.metadata, entries))
    }
}

/// One description, not yet checked against the file.
struct RawTensor<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: u64,
}

impl<'a> RawTensor<'a> {
    fn read(cursor: &mut Cursor<'a>, file: &Path, number: usize) -> Result<Self> {
        let name = cursor.text().map_err(|reason| malformed(file, format!("tensor {number}: {reason}")))?;
        let fail = |reason: String| malformed(file, format!("tensor {name:?}: {reason}"));
        let dims = cursor.u32().map_err(fail)?;
        if dims > DIMS_MAX {
            return Err(fail(format!("{dims} dimensions, expected at most {DIMS_MAX}")));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            let dim = cursor.u64().map_err(fail)?;
            let dim = usize::try_from(dim).ok().filter(|&dim| dim > 0);
            shape.push(dim.ok_or_else(|| fail("a dimension is 0 or beyond memory".to_owned()))?);
        }
        shape.reverse();
        let code = cursor.u32().map_err(fail)?;
        let offset = cursor.u64().map_err(fail)?;
        let (file, tensor) = (file.to_owned(), name.to_owned());
        let dtype = types::from_code(code).map_err(|got| Error::GgufType { file, tensor, got })?;
        Ok(Self { name, dtype, shape, offset })
    }

    fn place(self, file: &Path, data_start: usize, alignment: usize, file_bytes: usize) -> Result<Entry> {
        let Self { name, dtype, shape, offset } = self;
        let fail = |reason: String| malformed(file, format!("tensor {name:?}: {reason}"));
        let columns = shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(dtype.block_len()) {
            return Err(fail(format!("rows of {columns} are not whole blocks of {dtype}")));
        }
        let Some(length) = dtype.byte_len(&shape) else {
            let (file, tensor) = (file.to_owned(), name.to_owned());
            return Err(Error::ShapeOverflow { file, tensor, shape });
        };
        if !offset.is_multiple_of(alignment as u64) {
            return Err(fail(format!("its data begins at {offset}, expected a multiple of {alignment}")));
        }
        let end = offset.checked_add(length as u64).and_then(|end| end.checked_add(data_start as u64));
        match end {
            Some(end) if end <= file_bytes as u64 => {
                let end = end as usize;
                Ok(Entry { name: name.to_owned(), dtype, shape, range: end - length..end })
            }
            end => Err(Error::Truncated {
                file: file.to_owned(),
                expected: end.unwrap_or(u64::MAX),
                got: file_bytes as u64,
            }),
        }
    }
}
