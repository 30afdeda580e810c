//! Files become records, in order and a few at a time, whatever their size.

mod json;
mod lines;
mod open;
mod parquet;
mod plan;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub(crate) use json::{Template, read_messages};
pub(crate) use open::open;
pub(crate) use plan::{InputFile, benchmark_files, input_files};

use super::config::{Format, SourceConfig};
use crate::Result;
use lines::{Lines, Separation};

/// Bytes of records that are handed on together.
const BATCH_BYTES: usize = 1 << 20;

/// Some records of a file: bytes that nobody has looked at yet.
#[derive(Debug, Default)]
pub(crate) struct RawRecords {
    bytes: Vec<u8>,
    /// Where each ends, and which line, row or document of the file it is, from 1.
    ends: Vec<(usize, u64)>,
}

impl RawRecords {
    fn push(&mut self, bytes: &[u8], place: u64) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push((self.bytes.len(), place));
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes and place of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(end, _)| end));
        starts.zip(&self.ends).map(|(start, &(end, place))| (&self.bytes[start..end], place))
    }
}

/// A file that is being read.
pub(crate) enum Reader {
    Lines(Lines),
    Parquet(parquet::Rows),
}

impl Reader {
    /// Opens `file`; `read` counts what has been read of it, for the progress.
    pub(crate) fn open(file: &InputFile, source: &SourceConfig, read: Arc<AtomicU64>) -> Result<Self> {
        let path = &file.path;
        if file.format == Format::Parquet {
            return Ok(Self::Parquet(parquet::Rows::open(path, source, read)?));
        }
        let separation = match file.format {
            Format::Jsonl => Separation::Line,
            _ => Separation::of(&source.documents),
        };
        Ok(Self::Lines(Lines::new(path, open(path, read)?, separation, source.max_record_bytes)))
    }

    /// The next records, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<RawRecords>> {
        let mut records = RawRecords::default();
        match self {
            Self::Lines(lines) => lines.read(&mut records)?,
            Self::Parquet(rows) => rows.read(&mut records)?,
        }
        Ok((!records.is_empty()).then_some(records))
    }
}

/// What a place in a file of this format is called.
pub(crate) fn place_name(format: Format) -> &'static str {
    match format {
        Format::Parquet => "row",
        Format::Txt => "the document at line",
        _ => "line",
    }
}

/// All JSON objects of a JSONL file, which is small.
pub(crate) fn json_lines(path: &Path, mut take: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
    let limit = 64 << 20;
    let mut lines = Lines::new(path, open(path, Arc::default())?, Separation::Line, limit);
    loop {
        let mut records = RawRecords::default();
        lines.read(&mut records)?;
        if records.is_empty() {
            return Ok(());
        }
        for (bytes, place) in records.iter() {
            take(bytes, place)?;
        }
    }
}
