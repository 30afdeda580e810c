//! A prepared directory: manifest, tokenizer, and the token shards of two splits.

mod manifest;
mod split;
mod writer;

#[cfg(test)]
mod tests;

pub use manifest::{Manifest, Source, SplitEntry, TokenizerEntry};
pub use split::Split;
pub use writer::DatasetWriter;

use crate::shards::Shard;
use crate::{Error, Result, ShardEntry};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of a dataset is read when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Every byte is compared with its checksum: the speed of the disk, or of memory the second time.
    Content,
    /// Headers, lengths, counts and the tokenizer: for data of which another process has verified the content.
    Structure,
}

/// An opened dataset; cloning shares it.
#[derive(Clone, Debug)]
pub struct Dataset {
    opened: Arc<Opened>,
}

#[derive(Debug)]
struct Opened {
    directory: PathBuf,
    manifest: Manifest,
    fingerprint: String,
    train: Split,
    validation: Split,
}

impl Dataset {
    /// Maps the dataset in `directory` and checks it.
    ///
    /// # Errors
    /// No manifest, or a wrong one; a shard that is missing, cut, damaged or of another dataset; a tokenizer that is not
    /// the one of the data.
    pub fn open(directory: &Path, verify: Verify) -> Result<Self> {
        let manifest = Manifest::read(directory)?;
        manifest.tokenizer.check(directory)?;
        let train = open_split(directory, &manifest, "train", &manifest.train.shards)?;
        let validation = open_split(directory, &manifest, "validation", &manifest.validation.shards)?;
        if verify == Verify::Content {
            let shards: Vec<&Shard> = train.shards().chain(validation.shards()).collect();
            shards.par_iter().try_for_each(|shard| shard.verify())?;
        }
        let (directory, fingerprint) = (directory.to_owned(), manifest.fingerprint());
        Ok(Self { opened: Arc::new(Opened { directory, manifest, fingerprint, train, validation }) })
    }

    /// Where it lies; the tokenizer's files are in it.
    pub fn directory(&self) -> &Path {
        &self.opened.directory
    }

    /// What `dataset.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.opened.manifest
    }

    /// Names the tokens and their order: equal for equal training and validation data.
    pub fn fingerprint(&self) -> &str {
        &self.opened.fingerprint
    }

    /// Tokens of the training split.
    pub fn tokens(&self) -> u64 {
        self.train().tokens()
    }

    /// Ids are below this; a model's vocabulary must be at least as large.
    pub fn vocab_size(&self) -> usize {
        self.manifest().tokenizer.vocab_size as usize
    }

    /// Whether tokens say if they are to be learnt.
    pub fn is_masked(&self) -> bool {
        self.manifest().masked
    }

    /// What is trained on.
    pub fn train(&self) -> &Split {
        &self.opened.train
    }

    /// What is only measured.
    pub fn validation(&self) -> &Split {
        &self.opened.validation
    }

    /// Compares the tokenizer of `model` (a directory with a `tokenizer.json`) with the data's.
    ///
    /// # Errors
    /// [`Error::OtherTokenizer`]; a file that cannot be read.
    pub fn check_tokenizer_of(&self, model: &Path) -> Result<()> {
        self.manifest().tokenizer.check_against(self.directory(), model)
    }
}

fn open_split(
    directory: &Path,
    manifest: &Manifest,
    name: &'static str,
    entries: &[ShardEntry],
) -> Result<Split> {
    let open = |entry: &ShardEntry| {
        let path = directory.join(&entry.file);
        if !path.exists() {
            let (dir, file) = (directory.to_owned(), entry.file.clone());
            return Err(Error::MissingShard { dir, file });
        }
        let shard = Shard::open(&path)?;
        shard.check_entry(entry, manifest.layout())?;
        Ok(shard)
    };
    let shards = entries.iter().map(open).collect::<Result<Vec<Shard>>>()?;
    let text_bytes = entries.iter().map(|entry| entry.text_bytes).sum();
    Ok(Split::new(directory, name, shards, text_bytes, manifest.masked))
}
