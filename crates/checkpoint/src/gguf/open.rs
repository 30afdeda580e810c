//! From the path of a GGUF file to everything in it and in its other parts.
//!
//! A model too large for one file comes as `name-00001-of-0000N.gguf`, …: the first part has all the metadata,
//! each has a share of the tensors, and any of them may be named to open the whole.

use super::header::Header;
use super::metadata::Metadata;
use super::names;
use crate::header::Entry;
use crate::mapping::Mapping;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

const SPLIT_COUNT: &str = "split.count";
const SPLIT_NUMBER: &str = "split.no";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// Parts of one model, far above any that exists.
const PARTS_MAX: u64 = 9999;

/// A mapped part, and the weights in it under their Hugging Face names.
pub(crate) type Part = (Mapping, Vec<Entry>);

/// Whether `path` names a GGUF file. Decided by the name alone, as for every other format.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The metadata of the GGUF file at `path`, of any architecture; of the first part if it has several.
///
/// # Errors
/// A file that cannot be read, is no GGUF file, or whose metadata are malformed; a missing first part.
pub fn read_metadata(path: &Path) -> Result<Metadata> {
    let mapping = Mapping::open(path)?;
    let metadata = Header::parse(path, mapping.bytes())?.metadata;
    match parts(&metadata)? {
        Some(parts) if parts[0] != path => Ok(Header::parse(&parts[0], open(&parts[0])?.bytes())?.metadata),
        _ => Ok(metadata),
    }
}

/// Maps all parts and names their weights.
pub(crate) fn open_all(path: &Path) -> Result<(Metadata, Vec<Part>)> {
    let mapping = Mapping::open(path)?;
    let asked = Header::parse(path, mapping.bytes())?.metadata;
    let Some(parts) = parts(&asked)? else {
        expect_architecture(&asked)?;
        let entries = weights(&mapping)?.1;
        return Ok((asked, vec![(mapping, entries)]));
    };
    let mut first = None;
    let mut opened = Vec::with_capacity(parts.len());
    let mut tensors = 0;
    for (number, part) in parts.iter().enumerate() {
        let mapping = open(part)?;
        let header = Header::parse(part, mapping.bytes())?.metadata;
        expect_part(&header, number, parts.len())?;
        if number == 0 {
            expect_architecture(&header)?;
            first = Some(header);
        }
        let (stored, entries) = weights(&mapping)?;
        tensors += stored;
        opened.push((mapping, entries));
    }
    let metadata = first.expect("there are at least two parts");
    match metadata.unsigned(SPLIT_TENSORS)? {
        Some(expected) if expected != tensors as u64 => Err(split_error(
            metadata.file(),
            format!("{SPLIT_TENSORS} is {expected}, but all parts together hold {tensors} tensors"),
        )),
        _ => Ok((metadata, opened)),
    }
}

/// The number of tensors of a part, and its weights under their Hugging Face names.
fn weights(mapping: &Mapping) -> Result<(usize, Vec<Entry>)> {
    let header = Header::parse(mapping.path(), mapping.bytes())?;
    let (_, stored) = header.tensors(mapping.bytes())?;
    let mut entries = Vec::with_capacity(stored.len());
    for tensor in &stored {
        let start = tensor.range.start;
        for piece in names::pieces(&tensor.name, tensor.dtype, &tensor.shape, tensor.range.len()) {
            let range = start + piece.bytes.start..start + piece.bytes.end;
            entries.push(Entry { name: piece.name, dtype: tensor.dtype, shape: piece.shape, range });
        }
    }
    Ok((stored.len(), entries))
}

fn expect_architecture(metadata: &Metadata) -> Result<()> {
    const KEY: &str = "general.architecture";
    match metadata.text(KEY)? {
        Some(names::ARCHITECTURE) => Ok(()),
        Some(other) => {
            Err(Error::GgufArchitecture { file: metadata.file().to_owned(), got: other.to_owned() })
        }
        None => Err(metadata.wrong(KEY, "the text \"deepseek2\"")),
    }
}

fn split_error(file: &Path, reason: String) -> Error {
    Error::GgufSplit { file: file.to_owned(), reason }
}

/// All parts in order, or `None` if the file is whole.
fn parts(metadata: &Metadata) -> Result<Option<Vec<PathBuf>>> {
    let file = metadata.file();
    let count = match metadata.unsigned(SPLIT_COUNT)? {
        None | Some(0 | 1) => return Ok(None),
        Some(count @ 2..=PARTS_MAX) => count as usize,
        Some(_) => return Err(metadata.wrong(SPLIT_COUNT, "at most 9999 parts")),
    };
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let suffix = format!("-of-{count:05}.gguf");
    let prefix = name.strip_suffix(&suffix).and_then(|name| {
        let (prefix, number) = name.split_at_checked(name.len().checked_sub(6)?)?;
        number.strip_prefix('-')?.bytes().all(|byte| byte.is_ascii_digit()).then_some(prefix)
    });
    let Some(prefix) = prefix else {
        let expected = format!("name-00001{suffix}");
        return Err(split_error(
            file,
            format!("it is one of {count} parts, which are expected to be called {expected}"),
        ));
    };
    let part = |number: usize| file.with_file_name(format!("{prefix}-{:05}{suffix}", number + 1));
    Ok(Some((0..count).map(part).collect()))
}

fn open(part: &Path) -> Result<Mapping> {
    if !part.exists() {
        return Err(split_error(
            part,
            "this part is not there: download it into the same directory".to_owned(),
        ));
    }
    Mapping::open(part)
}

fn expect_part(metadata: &Metadata, number: usize, count: usize) -> Result<()> {
    let got = (metadata.unsigned(SPLIT_NUMBER)?, metadata.unsigned(SPLIT_COUNT)?);
    if got == (Some(number as u64), Some(count as u64)) {
        return Ok(());
    }
    let show = |value: Option<u64>| value.map_or_else(|| "missing".to_owned(), |value| value.to_string());
    let reason = format!(
        "expected {SPLIT_NUMBER} {number} and {SPLIT_COUNT} {count}, got {} and {}: the parts are of different models",
        show(got.0),
        show(got.1)
    );
    Err(split_error(metadata.file(), reason))
}
