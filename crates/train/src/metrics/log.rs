//! `metrics.jsonl`: append, read, and cut back to the step that a run resumes from.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::record::Record;

/// Name of the log in the folder of a run.
pub const FILE_NAME: &str = "metrics.jsonl";

/// A log that is open for more lines.
///
/// Each record is one write to the file, so a process that is killed loses none that it appended.
/// Only a machine that goes down may leave the last line torn; opening the log cuts that off.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log at `path` behind its last whole line; begins one if there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(Error::io(path, "open the log"))?;
        mend_end(&mut file).map_err(Error::io(path, "mend the end of"))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds one record; when this returns, it outlives the process.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        self.file.write_all(&line(record)).map_err(Error::io(&self.path, "append to"))
    }

    /// Removes every record of a step after `step`, and says how many those were.
    ///
    /// The file is replaced as a whole: after a crash it is the old or the new one.
    pub fn truncate_to(&mut self, step: u64) -> Result<usize> {
        let partial = self.path.with_extension("jsonl.partial");
        let removed = copy_until(&self.path, &partial, step)?;
        fs::rename(&partial, &self.path).map_err(Error::io(&self.path, "rename the shortened log to"))?;
        if let Some(dir) = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir, "sync the folder"))?;
        }
        *self = Self::open(&self.path)?;
        Ok(removed)
    }

    /// All records of the log at `path`, in order.
    pub fn read(path: &Path) -> Result<Vec<Record>> {
        Records::open(path)?.collect()
    }
}

fn line(record: &Record) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).expect("records have string keys and no other way to fail");
    line.push(b'\n');
    line
}

/// Ends the file in a whole line: a last line that lacks only its newline gets it, a torn one goes.
fn mend_end(file: &mut File) -> io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    let (start, tail) = last_line(file, length)?;
    if tail.is_empty() {
        return Ok(());
    }
    if serde_json::from_slice::<Record>(&tail).is_ok() { file.write_all(b"\n") } else { file.set_len(start) }
}

/// Where the bytes behind the last newline begin, and those bytes.
fn last_line(file: &mut File, length: u64) -> io::Result<(u64, Vec<u8>)> {
    const BLOCK: u64 = 64 * 1024;
    let mut start = length;
    let mut tail = Vec::new();
    while start > 0 {
        let from = start.saturating_sub(BLOCK);
        let mut block = vec![0; (start - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        let newline = block.iter().rposition(|&byte| byte == b'\n');
        let kept = newline.map_or(0, |at| at + 1);
        tail.splice(0..0, block[kept..].iter().copied());
        start = from + kept as u64;
        if newline.is_some() {
            break;
        }
    }
    Ok((start, tail))
}

/// Writes the records of `source` up to `step` to `target`, down to the disk.
fn copy_until(source: &Path, target: &Path, step: u64) -> Result<usize> {
    let mut out = BufWriter::new(File::create(target).map_err(Error::io(target, "create"))?);
    let mut removed = 0;
    for record in Records::open(source)? {
        let record = record?;
        if record.step() <= step {
            out.write_all(&line(&record)).map_err(Error::io(target, "write"))?;
        } else {
            removed += 1;
        }
    }
    let file = out.into_inner().map_err(|error| Error::io(target, "write")(error.into_error()))?;
    file.sync_all().map_err(Error::io(target, "sync"))?;
    Ok(removed)
}

/// The records of a log, read one by one. A torn last line counts as not written.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    lines: BufReader<File>,
    line: usize,
}

impl Records {
    /// Opens the log at `path` for reading.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open the log"))?;
        Ok(Self { path: path.to_owned(), lines: BufReader::new(file), line: 0 })
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        if let Err(error) = self.lines.read_until(b'\n', &mut bytes) {
            return Some(Err(Error::io(&self.path, "read")(error)));
        }
        if bytes.is_empty() {
            return None;
        }
        self.line += 1;
        match serde_json::from_slice(&bytes) {
            Ok(record) => Some(Ok(record)),
            Err(_) if bytes.last() != Some(&b'\n') => None,
            Err(error) => {
                Some(Err(Error::Line { file: self.path.clone(), line: self.line, reason: error.to_string() }))
            }
        }
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
