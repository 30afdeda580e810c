//! The safetensors header: 8 bytes of little-endian length, that many bytes of JSON, then the data.
//!
//! The JSON maps each tensor name to `{"dtype", "shape", "data_offsets": [begin, end]}`, offsets counted
//! from the end of the header. The format demands that the tensors tile the data exactly, without overlap
//! and without holes, so that no byte can mean two things (<https://github.com/huggingface/safetensors>,
//! "Format"). The `safetensors` crate checks the same; it is not used for reading because its errors name
//! neither the file nor what was expected, and because it lets a repeated name pass. The tests hold this
//! parser to it.

use crate::{Dtype, Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Longest header accepted, in bytes: the bound that the reference implementation sets.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor as a header describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Bytes from the start of the file; within the file, and as long as dtype and shape say.
    pub(crate) range: Range<usize>,
}

/// Reads and checks the header of `bytes`, which is the whole of `file`. Entries come in the order of
/// their data.
pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<Vec<Entry>> {
    let (json, data_start) = split(file, bytes)?;
    let malformed = |reason: String| Error::MalformedHeader { file: file.to_owned(), reason };
    let text = std::str::from_utf8(json).map_err(|error| malformed(format!("it is not UTF-8: {error}")))?;
    let RawHeader(raw) = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;

    let mut entries = Vec::with_capacity(raw.len());
    for (name, tensor) in raw {
        entries.push(entry(file, name, tensor)?);
    }
    reject_duplicates(file, &entries)?;
    entries.sort_by_key(|entry| (entry.range.start, entry.range.end));
    let data_length = reject_gaps(file, &entries)?;

    // Nothing ties the offsets to the file before the next lines do.
    let expected = (data_start as u64).saturating_add(data_length as u64);
    let got = bytes.len() as u64;
    if got < expected {
        return Err(Error::Truncated { file: file.to_owned(), expected, got });
    }
    if got > expected {
        return Err(Error::TrailingBytes { file: file.to_owned(), expected, got });
    }
    for entry in &mut entries {
        // Cannot overflow: both ends are at most `data_length`, and the file is longer than that.
        entry.range = entry.range.start + data_start..entry.range.end + data_start;
    }
    Ok(entries)
}

/// The JSON bytes, and where the data begins.
fn split<'a>(file: &Path, bytes: &'a [u8]) -> Result<(&'a [u8], usize)> {
    let got = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::Truncated { file: file.to_owned(), expected: 8, got });
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(Error::HeaderTooLarge { file: file.to_owned(), limit: MAX_HEADER_BYTES, got: length });
    }
    match rest.get(..length as usize) {
        Some(json) => Ok((json, 8 + length as usize)),
        None => Err(Error::Truncated { file: file.to_owned(), expected: 8 + length, got }),
    }
}

/// Checks one tensor by itself. Its range is still counted from the start of the data.
fn entry(file: &Path, name: String, raw: RawTensor) -> Result<Entry> {
    let RawTensor { dtype: dtype_name, shape, data_offsets: [begin, end] } = raw;
    let Some(dtype) = Dtype::from_name(&dtype_name) else {
        return Err(Error::UnsupportedDtype { file: file.to_owned(), tensor: name, got: dtype_name });
    };
    let Some(expected) = dtype.byte_len(&shape) else {
        return Err(Error::ShapeOverflow { file: file.to_owned(), tensor: name, shape });
    };
    if begin.checked_add(expected) != Some(end) {
        let (expected, got) = (expected as u64, end.saturating_sub(begin) as u64);
        // With `end` before `begin` and an empty shape both counts would read 0.
        if end < begin {
            let reason = format!("tensor {name:?} has data_offsets [{begin}, {end}], expected begin <= end");
            return Err(Error::MalformedHeader { file: file.to_owned(), reason });
        }
        return Err(Error::ByteLength { file: file.to_owned(), tensor: name, dtype, shape, expected, got });
    }
    Ok(Entry { name, dtype, shape, range: begin..end })
}

fn reject_duplicates(file: &Path, entries: &[Entry]) -> Result<()> {
    let mut seen = HashSet::with_capacity(entries.len());
    match entries.iter().find(|entry| !seen.insert(entry.name.as_str())) {
        None => Ok(()),
        Some(entry) => Err(Error::DuplicateTensor {
            tensor: entry.name.clone(),
            first: file.to_owned(),
            second: file.to_owned(),
        }),
    }
}

/// Checks that the sorted entries tile the data, and returns its length.
fn reject_gaps(file: &Path, entries: &[Entry]) -> Result<usize> {
    let mut expected = 0;
    for entry in entries {
        if entry.range.start != expected {
            return Err(Error::Offsets {
                file: file.to_owned(),
                tensor: entry.name.clone(),
                expected: expected as u64,
                got: entry.range.start as u64,
            });
        }
        expected = entry.range.end;
    }
    Ok(expected)
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// All tensors in the order of the file, repeated names included (a map would hide them).
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
                let mut tensors = Vec::new();
                let mut metadata_seen = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // Free text for people; its form is checked, its content is not used.
                        map.next_value::<Option<HashMap<String, String>>>()?;
                        if std::mem::replace(&mut metadata_seen, true) {
                            return Err(A::Error::duplicate_field("__metadata__"));
                        }
                        continue;
                    }
                    let tensor = map
                        .next_value::<RawTensor>()
                        .map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
                    tensors.push((name, tensor));
                }
                Ok(RawHeader(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
