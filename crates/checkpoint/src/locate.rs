//! From the path that a user gave to the file that opens the checkpoint.

use crate::gguf::is_gguf;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Name of an unsharded checkpoint.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Name of a sharded checkpoint's index.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

const GGUF: (&str, &str) = ("a GGUF file, and no directory", "give the path of the .gguf file itself");
const PICKLE: (&str, &str) = (
    "a PyTorch pickle",
    "take the safetensors files of the same model, or convert it with `save_pretrained(dir, safe_serialization=True)`",
);

/// What there is to open.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// One file with everything in it.
    Single(PathBuf),
    /// An index beside its shards.
    Index(PathBuf),
    /// A GGUF file, or one part of several.
    Gguf(PathBuf),
}

/// Finds the checkpoint at `path`: a directory, a `.safetensors` file, an index, or a `.gguf` file.
pub(crate) fn locate(path: &Path) -> Result<Found> {
    let metadata = fs::metadata(path).map_err(Error::io(path, "open"))?;
    if !metadata.is_dir() {
        return locate_file(path);
    }
    // A directory with both is read as transformers reads it: the single file first.
    let (single, index) = (path.join(SINGLE), path.join(INDEX));
    // A dangling link must say which file is missing, so links count as present here.
    if single.exists() || single.is_symlink() {
        return Ok(Found::Single(single));
    }
    if index.exists() || index.is_symlink() {
        return Ok(Found::Index(index));
    }
    let mut names: Vec<PathBuf> = fs::read_dir(path)
        .map_err(Error::io(path, "list"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    names.sort();
    match names.iter().find_map(|name| foreign(name)) {
        Some(error) => Err(error),
        None => Err(Error::NoCheckpoint { dir: path.to_owned() }),
    }
}

fn locate_file(path: &Path) -> Result<Found> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(".safetensors") {
        return Ok(Found::Single(path.to_owned()));
    }
    if name.ends_with(".safetensors.index.json") {
        return Ok(Found::Index(path.to_owned()));
    }
    if is_gguf(path) {
        return Ok(Found::Gguf(path.to_owned()));
    }
    Err(foreign(path).unwrap_or(Error::UnsupportedFormat {
        path: path.to_owned(),
        format: "not a .safetensors file",
        mend: "give the directory of a Hugging Face model, or one .safetensors or .gguf file",
    }))
}

/// The error for a file of another known weight format.
fn foreign(path: &Path) -> Option<Error> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let is_pickle = (name.starts_with("pytorch_model")
        && (name.ends_with(".bin") || name.ends_with(".json")))
        || name.ends_with(".pt")
        || name.ends_with(".pth");
    let (format, mend) = match () {
        () if is_gguf(path) => GGUF,
        () if is_pickle => PICKLE,
        () => return None,
    };
    Some(Error::UnsupportedFormat { path: path.to_owned(), format, mend })
}
