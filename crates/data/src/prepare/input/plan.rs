//! Which files a configuration means.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::open::unpacked_name;
use crate::prepare::config::{Benchmark, Format, PrepareConfig};
use crate::{Error, Result};

/// One file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputFile {
    /// Index of its source.
    pub(crate) source: usize,
    pub(crate) path: PathBuf,
    /// Never [`Format::Auto`].
    pub(crate) format: Format,
    pub(crate) bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub(crate) modified: u128,
}

/// All files of all sources: sources in their order, globs in theirs, files of a glob by name.
pub(crate) fn input_files(config: &PrepareConfig) -> Result<Vec<InputFile>> {
    let mut files: Vec<InputFile> = Vec::new();
    for (source, described) in config.source.iter().enumerate() {
        for path in matches(&described.name, &described.paths)? {
            if files.iter().any(|file| file.source == source && file.path == path) {
                continue;
            }
            let format = match described.format {
                Format::Auto => format_of(&path)?,
                format => format,
            };
            let metadata = std::fs::metadata(&path).map_err(Error::io(&path, "open"))?;
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified = modified.map_or(0, |since| since.as_nanos());
            files.push(InputFile { source, path, format, bytes: metadata.len(), modified });
        }
    }
    Ok(files)
}

/// All files of a benchmark.
pub(crate) fn benchmark_files(benchmark: &Benchmark) -> Result<Vec<PathBuf>> {
    matches(&benchmark.name, &benchmark.paths)
}

fn matches(name: &str, patterns: &[String]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for pattern in patterns {
        let no_files = |reason: String| {
            let (name, pattern) = (name.to_owned(), pattern.clone());
            Error::NoFiles { name, pattern, reason }
        };
        let paths = glob::glob(pattern).map_err(|error| no_files(error.to_string()))?;
        let before = found.len();
        for path in paths {
            let path = path.map_err(|error| {
                let path = error.path().to_owned();
                Error::Io { path, action: "read", source: error.into() }
            })?;
            if path.is_file() {
                found.push(path);
            }
        }
        if found.len() == before {
            return Err(no_files("no file matches".to_owned()));
        }
    }
    Ok(found)
}

pub(super) fn format_of(path: &Path) -> Result<Format> {
    let name = unpacked_name(path);
    let suffix = name.extension().map(|suffix| suffix.to_string_lossy().to_lowercase()).unwrap_or_default();
    match &*suffix {
        "jsonl" | "ndjson" | "json" => Ok(Format::Jsonl),
        "txt" | "text" | "md" => Ok(Format::Txt),
        "parquet" => Ok(Format::Parquet),
        _ => Err(Error::UnknownFormat { path: path.to_owned() }),
    }
}
