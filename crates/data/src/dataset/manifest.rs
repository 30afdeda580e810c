//! `dataset.json`: what a prepared directory holds.

use crate::{Error, Result, ShardEntry, ShardLayout, publish};
use fathom_text::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use twox_hash::XxHash3_128;

const FILE: &str = "dataset.json";
const FORMAT: &str = "fathom-dataset";
const VERSION: u32 = 1;
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// The content of `dataset.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    /// What turned the text into ids.
    pub tokenizer: TokenizerEntry,
    /// Whether shards keep a loss mask.
    pub masked: bool,
    /// What is trained on.
    pub train: SplitEntry,
    /// What is only measured.
    pub validation: SplitEntry,
    /// Where the documents come from.
    #[serde(default)]
    pub sources: Vec<Source>,
}

/// The shards of a split in their order, and their sums.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitEntry {
    /// Token ids.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Bytes of UTF-8 that the tokens stand for.
    pub text_bytes: u64,
    /// The files.
    pub shards: Vec<ShardEntry>,
}

impl SplitEntry {
    pub(crate) fn of(shards: Vec<ShardEntry>) -> Self {
        let sum = |count: fn(&ShardEntry) -> u64| shards.iter().map(count).sum();
        Self {
            tokens: sum(|shard| shard.tokens),
            documents: sum(|shard| shard.documents),
            text_bytes: sum(|shard| shard.text_bytes),
            shards,
        }
    }
}

/// A source of documents, and what the training split has of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in the configuration.
    pub name: String,
    /// Its licence, as the configuration says it.
    #[serde(default)]
    pub license: String,
    /// How often a document of it occurs, on average.
    pub epochs: f64,
    /// Documents, repetitions counted.
    pub documents: u64,
    /// Tokens, repetitions counted.
    pub tokens: u64,
}

/// Which tokenizer the ids are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerEntry {
    /// XXH3-128 of `tokenizer.json` without insignificant white space, 32 hex digits.
    pub hash: String,
    /// Vocabulary entries and added tokens.
    pub vocab_size: u32,
    /// The token that begins a document.
    pub bos_token_id: Option<u32>,
    /// The token that ends a document.
    pub eos_token_id: Option<u32>,
}

impl TokenizerEntry {
    pub(super) fn of(directory: &Path) -> Result<Self> {
        Self::new(&Tokenizer::from_dir(directory)?, directory)
    }

    /// Of the tokenizer that was read from `directory`.
    pub(crate) fn new(tokenizer: &Tokenizer, directory: &Path) -> Result<Self> {
        Ok(Self {
            hash: hash_of(&directory.join(TOKENIZER))?,
            vocab_size: highest_id(tokenizer) + 1,
            bos_token_id: tokenizer.bos_token_id(),
            eos_token_id: tokenizer.eos_token_id(),
        })
    }

    /// Compares the hash with that of the file beside the data.
    pub(super) fn check(&self, directory: &Path) -> Result<()> {
        self.check_against(directory, directory)
    }

    pub(super) fn check_against(&self, data: &Path, other: &Path) -> Result<()> {
        let path = other.join(TOKENIZER);
        let got = hash_of(&path)?;
        if got == self.hash {
            return Ok(());
        }
        let expected = self.hash.clone();
        Err(Error::OtherTokenizer { dir: data.to_owned(), tokenizer: path, expected, got })
    }
}

/// The highest id that the tokenizer gives: a vocabulary may have holes.
fn highest_id(tokenizer: &Tokenizer) -> u32 {
    let mut last = (tokenizer.vocab_size() as u32).saturating_sub(1);
    // As many entries as ids from 0, unless there are holes; each hole puts one entry behind.
    let mut missing = (0..=last).filter(|&id| tokenizer.id_to_token(id).is_none()).count();
    while missing > 0 && last < u32::MAX {
        last += 1;
        missing -= usize::from(tokenizer.id_to_token(last).is_some());
    }
    last
}

/// The hash of a `tokenizer.json`, which does not depend on its white space.
fn hash_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io(path, "read the tokenizer"))?;
    let compact = match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) => value.to_string().into_bytes(),
        // Not JSON, and so not the data's.
        Err(_) => bytes,
    };
    Ok(format!("{:032x}", XxHash3_128::oneshot(&compact)))
}

impl Manifest {
    pub(super) fn new(
        tokenizer: TokenizerEntry,
        masked: bool,
        [train, validation]: [SplitEntry; 2],
        sources: Vec<Source>,
    ) -> Self {
        let format = FORMAT.to_owned();
        Self { format, version: VERSION, tokenizer, masked, train, validation, sources }
    }

    pub(crate) fn exists(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    pub(super) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Error::NoDataset { dir: directory.to_owned() },
            _ => Error::io(&path, "read")(error),
        })?;
        let bad = |reason: String| Error::BadManifest { path: path.clone(), reason };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if value["format"] != FORMAT || value["version"] != VERSION {
            let got = format!("{} version {}", value["format"], value["version"]);
            return Err(bad(format!("expected `format` \"{FORMAT}\" version {VERSION}, got {got}")));
        }
        let manifest: Self = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        for (split, entry) in [("train", &manifest.train), ("validation", &manifest.validation)] {
            let outside = |shard: &&ShardEntry| {
                Path::new(&shard.file).file_name() != Some(Path::new(&shard.file).as_os_str())
            };
            if let Some(shard) = entry.shards.iter().find(outside) {
                let what = "expected a file beside it";
                return Err(bad(format!("`{split}.shards`: {what}, got {:?}", shard.file)));
            }
            if *entry != SplitEntry::of(entry.shards.clone()) {
                return Err(bad(format!("`{split}`: the counts are not the sums of the shards' counts")));
            }
        }
        Ok(manifest)
    }

    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("names and numbers become JSON");
        publish::write(&directory.join(FILE), (text + "\n").as_bytes())
    }

    pub(super) fn layout(&self) -> ShardLayout {
        ShardLayout { vocab_size: self.tokenizer.vocab_size, masked: self.masked }
    }

    pub(super) fn fingerprint(&self) -> String {
        let mut text = format!("{}\n{}\n", self.tokenizer.hash, self.masked);
        for entry in [&self.train, &self.validation] {
            text.extend(entry.shards.iter().map(|shard| format!("{} {}\n", shard.tokens, shard.checksum)));
            text += "\n";
        }
        format!("{:032x}", XxHash3_128::oneshot(text.as_bytes()))
    }
}
