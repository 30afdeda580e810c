//! Files of conversations become a masked dataset.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fathom_text::Message;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{ChatEncoder, ChatExample};
use crate::dataset::Source;
use crate::{Dataset, DatasetWriter, Error, Result};

/// Lines that are encoded together, on all threads.
const BATCH: usize = 1024;
/// Tokens of a shard.
const SHARD: u64 = 1 << 26;
/// No conversation is longer; what lies beyond is not read.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// What to make of which files.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// JSONL files, in order.
    pub files: Vec<PathBuf>,
    /// A model's directory, for its tokenizer and chat template.
    pub tokenizer: PathBuf,
    /// Where the dataset goes.
    pub out: PathBuf,
    /// Share of the conversations that are kept for validation, by a hash of their text.
    pub validation: f64,
}

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChatReport {
    /// Lines read, empty ones left out.
    pub conversations: u64,
    /// Documents written: more than conversations where earlier answers look different as history.
    pub documents: u64,
    /// Tokens written.
    pub tokens: u64,
    /// Tokens of answers.
    pub learnt_tokens: u64,
}

#[derive(Deserialize)]
struct Line {
    messages: Vec<Message>,
}

/// Writes the dataset of `options` and says what is in it. `progress` is told of conversations so far; a `Break` stops
/// the work, and no dataset appears.
///
/// # Errors
/// A file that cannot be read; a line that is no conversation, by file and number; a dataset that is there already; a full
/// disk.
pub fn prepare_chat(
    options: &ChatOptions,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(Dataset, ChatReport)> {
    if !(0.0..1.0).contains(&options.validation) {
        let (field, got) = ("validation", options.validation.to_string());
        return Err(Error::BadOption { field, expected: "a share from 0 to below 1", got });
    }
    let encoder = ChatEncoder::from_dir(&options.tokenizer)?;
    let mut writer = DatasetWriter::create(&options.out, &options.tokenizer, true, SHARD)?;
    let mut report = ChatReport::default();
    for file in &options.files {
        let mut lines = Lines::open(file)?;
        loop {
            let batch = lines.take(BATCH)?;
            if batch.is_empty() {
                break;
            }
            let encoded: Vec<Result<Vec<ChatExample>>> =
                batch.par_iter().map(|(number, text)| encode(&encoder, file, *number, text)).collect();
            for ((_, text), examples) in batch.iter().zip(encoded) {
                report.conversations += 1;
                let validation = is_validation(text, options.validation);
                for example in examples? {
                    report.count(&example);
                    writer.append(validation, &example.ids, Some(&example.learn), text.len() as u64)?;
                }
            }
            if progress(report.conversations).is_break() {
                return Err(Error::Stopped);
            }
        }
    }
    let source = Source {
        name: "conversations".to_owned(),
        license: String::new(),
        epochs: 1.0,
        documents: report.documents,
        tokens: report.tokens,
    };
    Ok((writer.finish(vec![source])?, report))
}

fn encode(encoder: &ChatEncoder, file: &Path, line: u64, text: &str) -> Result<Vec<ChatExample>> {
    let bad = |reason| Error::BadConversation { file: file.to_owned(), line, reason };
    let parsed: Line = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    encoder.encode(&parsed.messages).map_err(bad)
}

/// The same conversation lies on the same side in every run.
fn is_validation(text: &str, share: f64) -> bool {
    (twox_hash::XxHash3_64::oneshot(text.as_bytes()) as f64) < share * 2f64.powi(64)
}

impl ChatReport {
    fn count(&mut self, example: &ChatExample) {
        self.documents += 1;
        self.tokens += example.ids.len() as u64;
        self.learnt_tokens += example.learn.iter().filter(|learn| **learn).count() as u64;
    }
}

/// The lines of a file that are not empty, with their numbers.
struct Lines<'a> {
    file: &'a Path,
    reader: BufReader<File>,
    number: u64,
}

impl<'a> Lines<'a> {
    fn open(file: &'a Path) -> Result<Self> {
        let reader = BufReader::new(File::open(file).map_err(Error::io(file, "open"))?);
        Ok(Self { file, reader, number: 0 })
    }

    /// At most `count` further lines.
    fn take(&mut self, count: usize) -> Result<Vec<(u64, String)>> {
        let mut lines = Vec::new();
        while lines.len() < count {
            let mut bytes = Vec::new();
            let limited = &mut std::io::Read::take(&mut self.reader, LINE_BYTES_MAX);
            let read = limited.read_until(b'\n', &mut bytes).map_err(Error::io(self.file, "read"))?;
            if read == 0 {
                break;
            }
            self.number += 1;
            let bad = |reason: &str| Error::BadConversation {
                file: self.file.to_owned(),
                line: self.number,
                reason: reason.to_owned(),
            };
            if read as u64 == LINE_BYTES_MAX {
                return Err(bad("the line is longer than 64 MiB"));
            }
            let text = String::from_utf8(bytes).map_err(|_| bad("the line is not UTF-8"))?;
            if !text.trim().is_empty() {
                lines.push((self.number, text));
            }
        }
        Ok(lines)
    }
}
