//! The tokenizer of a dataset: one that there is, or one trained on a part of the text.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::json;
use twox_hash::XxHash3_128;

use super::clean::{Judge, Words, normalize};
use super::config::{Format, Invalid, Kind, PrepareConfig};
use super::input::{InputFile, RawRecords, Reader, Template, place_name, read_messages};
use super::{Phase, Progress};
use crate::{Error, Result, publish};

const TOKENIZER: &str = "tokenizer.json";

/// The directory with the tokenizer. One that is to be trained is trained only once, and only if `may_train`.
pub(crate) fn directory(
    config: &PrepareConfig,
    files: &[InputFile],
    stages: &Path,
    may_train: bool,
    progress: &Progress<'_>,
) -> Result<PathBuf> {
    if let Some(path) = &config.tokenizer.path {
        return Ok(path.clone());
    }
    let template = &config.tokenizer.chat_template;
    let template = template.as_ref().map(|path| fs::read_to_string(path).map_err(Error::io(path, "read")));
    let template = template.transpose()?;
    let directory = stages.join(format!("tokenizer-{}", key(config, files, template.as_deref())));
    if directory.join(TOKENIZER).exists() {
        return Ok(directory);
    }
    if !may_train {
        return Err(Error::NoTokenizerYet { directory });
    }
    let mut sample = Sample::new(config, files, progress);
    let trained = config.tokenizer.training(template).train(&mut sample);
    if let Some(error) = sample.error {
        return Err(error);
    }
    if sample.texts == 0 {
        return Err(Error::NoDocuments { out: config.out.clone(), read: sample.read });
    }
    let trained = trained?;
    fs::create_dir_all(&directory).map_err(Error::io(&directory, "create"))?;
    publish::write(&directory.join("tokenizer_config.json"), &trained.tokenizer_config_json)?;
    publish::write(&directory.join(TOKENIZER), &trained.tokenizer_json)?;
    Ok(directory)
}

/// Names everything that the tokenizer depends on.
fn key(config: &PrepareConfig, files: &[InputFile], template: Option<&str>) -> String {
    let files: Vec<_> = files
        .iter()
        .map(|file| {
            json!([
                config.source[file.source].of_documents(),
                file.path.file_name().map(|name| name.to_string_lossy()),
                file.bytes,
                file.modified.to_string()
            ])
        })
        .collect();
    let key = json!([config.tokenizer, template, config.normalize, config.filter, files]);
    format!("{:016x}", XxHash3_128::oneshot(key.to_string().as_bytes()) as u64)
}

/// The text to train on: of every file its beginning, as large a part as the file is of all files.
struct Sample<'a> {
    config: &'a PrepareConfig,
    files: &'a [InputFile],
    progress: &'a Progress<'a>,
    file: usize,
    open: Option<(Reader, Template, Judge)>,
    /// Texts that were read and not yet handed out, last first.
    waiting: Vec<String>,
    /// Bytes of text that may still be taken from this file.
    rest: u64,
    words: Words,
    /// Bytes of all files.
    bytes: u64,
    taken: u64,
    texts: u64,
    read: u64,
    error: Option<Error>,
}

impl<'a> Sample<'a> {
    fn new(config: &'a PrepareConfig, files: &'a [InputFile], progress: &'a Progress<'a>) -> Self {
        Self {
            config,
            files,
            progress,
            file: 0,
            open: None,
            waiting: Vec::new(),
            rest: 0,
            words: Words::default(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            taken: 0,
            texts: 0,
            read: 0,
            error: None,
        }
    }

    fn next_text(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(text) = self.waiting.pop() {
                // Of a document that is too long, its beginning.
                let end = text.floor_char_boundary(self.rest.min(text.len() as u64) as usize);
                self.rest = if end < text.len() { 0 } else { self.rest - end as u64 };
                self.taken += end as u64;
                if self.rest == 0 {
                    self.waiting.clear();
                }
                if end == 0 {
                    continue;
                }
                let text = text[..end].to_owned();
                self.texts += 1;
                return Ok(Some(text));
            }
            let Some(file) = self.files.get(self.file) else { return Ok(None) };
            if self.open.is_none() {
                self.open_file(file)?;
            }
            let (reader, ..) = self.open.as_mut().expect("it was opened");
            let records = if self.rest == 0 { None } else { reader.next()? };
            match records {
                Some(records) => self.read_texts(file, &records)?,
                None => {
                    self.open = None;
                    self.file += 1;
                }
            }
            let total = self.config.tokenizer.sample_bytes.min(self.bytes.max(self.taken));
            if (self.progress)(Phase::Tokenizer, self.taken.min(total), total).is_break() {
                return Err(Error::Stopped);
            }
        }
    }

    fn open_file(&mut self, file: &InputFile) -> Result<()> {
        let source = &self.config.source[file.source];
        let part = u128::from(self.config.tokenizer.sample_bytes) * u128::from(file.bytes);
        self.rest = part.div_ceil(u128::from(self.bytes.max(1))) as u64;
        let template = match &source.template {
            Some(template) => {
                Template::parse(template).expect("templates are checked with the configuration")
            }
            None => Template::field(source.field()),
        };
        let judge = Judge::new(source.filter.as_ref().unwrap_or(&self.config.filter));
        self.open = Some((Reader::open(file, source, Arc::new(AtomicU64::new(0)))?, template, judge));
        Ok(())
    }

    fn read_texts(&mut self, file: &InputFile, records: &RawRecords) -> Result<()> {
        let source = &self.config.source[file.source];
        let (_, template, judge) = self.open.as_ref().expect("it was opened");
        for (bytes, place) in records.iter() {
            self.read += 1;
            // Between the turns of a conversation stand control tokens: they are texts of their own.
            let texts = match (source.kind, file.format) {
                (Kind::Chat, _) => read_messages(bytes, source.field()).map(|turns| {
                    let texts = turns.into_iter().flat_map(|turn| [turn.reasoning_content, turn.content]);
                    texts.flatten().map(Cow::Owned).collect()
                }),
                (Kind::Text, Format::Jsonl) => template.read_json(bytes).map(|text| vec![text]),
                (Kind::Text, _) => std::str::from_utf8(bytes)
                    .map(|text| vec![Cow::Borrowed(text)])
                    .map_err(|error| format!("it is not UTF-8: {error}")),
            };
            let texts: Vec<_> = match texts {
                Ok(texts) => texts.into_iter().map(|text| normalize(text, &self.config.normalize)).collect(),
                Err(_) if source.on_invalid == Invalid::Skip => continue,
                Err(reason) => {
                    let (path, place) = (file.path.clone(), format!("{} {place}", place_name(file.format)));
                    return Err(Error::BadRecord { path, place, reason });
                }
            };
            let document = match &*texts {
                [text] => Cow::Borrowed(&**text),
                texts => Cow::Owned(texts.join("\n")),
            };
            self.words.scan(&document);
            if judge.broken_rule(&document, &self.words).is_none() {
                self.waiting.extend(texts.into_iter().map(Cow::into_owned));
            }
        }
        self.waiting.reverse();
        Ok(())
    }
}

impl Iterator for &mut Sample<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.error.is_some() {
            return None;
        }
        self.next_text().unwrap_or_else(|error| {
            self.error = Some(error);
            None
        })
    }
}
