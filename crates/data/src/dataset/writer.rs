//! A dataset that is being written, from token ids.

use super::manifest::{Manifest, Source, SplitEntry, TOKENIZER, TokenizerEntry};
use super::{Dataset, Verify};
use crate::shards::{ShardEntry, ShardLayout, ShardWriter};
use crate::{Error, Result, publish};
use std::fs;
use std::path::{Path, PathBuf};

/// The tokenizer's files that go with the data.
const TOKENIZER_FILES: [&str; 4] =
    [TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// Writes a dataset document by document; `dataset.json` comes last and makes it one.
#[derive(Debug)]
pub struct DatasetWriter {
    directory: PathBuf,
    tokenizer: TokenizerEntry,
    layout: ShardLayout,
    tokens_per_shard: u64,
    /// Training and validation.
    open: [Option<ShardWriter>; 2],
    finished: [Vec<ShardEntry>; 2],
}

/// Names of the splits in file names and in the manifest.
pub(crate) const SPLITS: [&str; 2] = ["train", "validation"];

impl DatasetWriter {
    /// Begins a dataset in `directory` (made if need be) with a copy of the tokenizer in `tokenizer`. A shard is ended
    /// when it has `tokens_per_shard` tokens.
    ///
    /// # Errors
    /// A dataset that is there already; a tokenizer that cannot be read; a directory that cannot be written to.
    pub fn create(directory: &Path, tokenizer: &Path, masked: bool, tokens_per_shard: u64) -> Result<Self> {
        Self::begin(directory, tokenizer, TokenizerEntry::of(tokenizer)?, masked, tokens_per_shard)
    }

    /// The same where the tokenizer has been read before: a large one takes a second.
    pub(crate) fn begin(
        directory: &Path,
        tokenizer: &Path,
        entry: TokenizerEntry,
        masked: bool,
        tokens_per_shard: u64,
    ) -> Result<Self> {
        fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        if Manifest::exists(directory) {
            return Err(Error::AlreadyExists { path: directory.join("dataset.json") });
        }
        for name in TOKENIZER_FILES {
            let (from, to) = (tokenizer.join(name), directory.join(name));
            if from.exists() && from != to {
                publish::write(&to, &fs::read(&from).map_err(Error::io(&from, "read"))?)?;
            }
        }
        let layout = ShardLayout { vocab_size: entry.vocab_size, masked };
        Ok(Self {
            directory: directory.to_owned(),
            tokenizer: entry,
            layout,
            tokens_per_shard,
            open: [None, None],
            finished: [Vec::new(), Vec::new()],
        })
    }

    /// Adds a document to the training split, or to the validation split; `learn` where the dataset is masked.
    ///
    /// # Errors
    /// As [`ShardWriter::append`].
    ///
    /// # Panics
    /// `learn` is given without a mask, or not given with one; the document is empty.
    pub fn append(
        &mut self,
        validation: bool,
        document: &[u32],
        learn: Option<&[bool]>,
        text_bytes: u64,
    ) -> Result<()> {
        let split = usize::from(validation);
        let shard = match &mut self.open[split] {
            Some(shard) => shard,
            closed => {
                let name = format!("{}-{:05}.tokens", SPLITS[split], self.finished[split].len());
                closed.insert(ShardWriter::create(&self.directory.join(name), self.layout)?)
            }
        };
        match learn {
            Some(learn) => shard.append_masked(document, learn, text_bytes)?,
            None => shard.append(document, text_bytes)?,
        }
        if shard.tokens() >= self.tokens_per_shard {
            self.end_shard(split)?;
        }
        Ok(())
    }

    /// Completes the shards and writes the manifest.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn finish(mut self, sources: Vec<Source>) -> Result<Dataset> {
        for split in 0..SPLITS.len() {
            self.end_shard(split)?;
        }
        let splits = self.finished.map(SplitEntry::of);
        Manifest::new(self.tokenizer, self.layout.masked, splits, sources).write(&self.directory)?;
        Dataset::open(&self.directory, Verify::Structure)
    }

    fn end_shard(&mut self, split: usize) -> Result<()> {
        if let Some(shard) = self.open[split].take() {
            self.finished[split].push(shard.finish()?);
        }
        Ok(())
    }
}
