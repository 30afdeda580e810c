//! Text files as lines, paragraphs, parts or wholes.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::RawRecords;
use crate::prepare::config::TextDocuments;
use crate::{Error, Result};

const BUFFER: usize = 1 << 18;

/// Where a record ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Separation {
    /// With the line; empty lines are none.
    Line,
    /// With the file.
    File,
    /// At lines that are exactly this, white space at the ends not counted.
    Separator(String),
}

impl Separation {
    pub(super) fn of(documents: &TextDocuments) -> Self {
        match documents {
            TextDocuments::File => Self::File,
            TextDocuments::Line => Self::Line,
            TextDocuments::Paragraph => Self::Separator(String::new()),
            TextDocuments::Separator(line) => Self::Separator(line.trim().to_owned()),
        }
    }
}

/// A text that is being cut into records.
pub(crate) struct Lines {
    path: PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
    separation: Separation,
    record_bytes_max: u64,
    /// Lines read.
    line: u64,
    /// The record that is being gathered, and the line that it began with.
    record: Vec<u8>,
    first_line: u64,
    ended: bool,
}

impl Lines {
    pub(super) fn new(
        path: &Path,
        reader: Box<dyn Read + Send>,
        separation: Separation,
        record_bytes_max: u64,
    ) -> Self {
        Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(BUFFER, reader),
            separation,
            record_bytes_max,
            line: 0,
            record: Vec::new(),
            first_line: 1,
            ended: false,
        }
    }

    /// Adds records until there are enough or the file ends.
    pub(super) fn read(&mut self, records: &mut RawRecords) -> Result<()> {
        while !records.is_full() && !self.ended {
            let start = self.record.len();
            let limit = self.record_bytes_max + 1 - start as u64;
            let taken = (&mut self.reader).take(limit).read_until(b'\n', &mut self.record);
            let taken = taken.map_err(Error::io(&self.path, "read"))?;
            if self.record.len() as u64 > self.record_bytes_max {
                return Err(self.too_long());
            }
            self.ended = taken == 0;
            self.line += u64::from(taken > 0);
            let line = &self.record[start..];
            let ends = self.ended
                || match &self.separation {
                    Separation::Line => true,
                    Separation::File => false,
                    Separation::Separator(separator) => line.trim_ascii() == separator.as_bytes(),
                };
            if ends {
                let separates = matches!(self.separation, Separation::Separator(_)) && !self.ended;
                self.end_record(if separates { start } else { self.record.len() }, records);
            }
        }
        Ok(())
    }

    /// Hands the first `length` bytes on, unless there is nothing in them, and forgets all.
    fn end_record(&mut self, length: usize, records: &mut RawRecords) {
        let record = self.record[..length].trim_ascii_end();
        if !record.trim_ascii_start().is_empty() {
            records.push(record, self.first_line);
        }
        self.record.clear();
        self.first_line = self.line + 1;
    }

    fn too_long(&self) -> Error {
        let (path, limit) = (self.path.clone(), self.record_bytes_max);
        let what = if self.separation == Separation::Line { "line" } else { "document at line" };
        Error::RecordTooLong { path, place: format!("{what} {}", self.first_line), limit }
    }
}
