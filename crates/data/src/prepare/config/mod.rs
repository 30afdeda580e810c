//! `data.toml`: everything that decides a dataset, in one file.
//!
//! [`PrepareConfig::read`] parses, applies `--set`, and checks what can be checked without the files that it names
//! (`check.rs`).

mod check;
mod overrides;
mod source;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use fathom_text::Digits;
use serde::{Deserialize, Serialize};

pub use source::{Deduplication, Format, Invalid, Kind, SourceConfig, TextDocuments};
pub use text::{ControlCharacters, Filter, Newlines, Normalize, UnicodeForm};

use crate::{Error, Result};

/// How a dataset is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareConfig {
    /// The dataset's directory.
    pub out: PathBuf,
    /// Decides the order of documents, which of them are taken in part of an epoch, and the gaps of fill-in-the-middle.
    #[serde(default)]
    pub seed: u64,
    /// Threads; 0 means one per processor. The result does not depend on it.
    #[serde(default)]
    pub threads: usize,
    /// Memory for the search for duplicates, in bytes; what does not fit goes through the disk.
    #[serde(default = "defaults::memory")]
    pub memory: u64,
    /// Whether the finished files of each input are kept when the dataset is there.
    #[serde(default)]
    pub keep_stages: bool,
    /// Where documents come from. Of duplicates the first is kept, in this order.
    pub source: Vec<SourceConfig>,
    /// How their text is written.
    #[serde(default)]
    pub normalize: Normalize,
    /// Which of them are left out for what they are.
    #[serde(default)]
    pub filter: Filter,
    /// Which of them are left out because they were there before.
    #[serde(default)]
    pub deduplicate: Deduplicate,
    /// Which of them are left out because they hold what models are judged by.
    pub decontaminate: Option<Decontaminate>,
    /// What turns them into ids.
    pub tokenizer: TokenizerConfig,
    /// How much of each source is taken.
    #[serde(default)]
    pub mix: Mix,
    /// How ids are laid out.
    #[serde(default)]
    pub pack: Pack,
    /// Documents of which the middle is to be found.
    #[serde(default)]
    pub fill_in_the_middle: FillInTheMiddle,
}

/// Duplicates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deduplicate {
    /// Whether documents of the same text are left out.
    pub exact: bool,
    /// Whether documents of nearly the same text are (MinHash-LSH; Broder 1997).
    pub near: bool,
    /// Words that make a shingle.
    pub shingle: usize,
    /// Numbers in a signature.
    pub permutations: usize,
    /// Groups of numbers, of which one must agree; chosen by `threshold` if not given.
    pub bands: Option<usize>,
    /// Share of common shingles from which on two documents are more likely found than not.
    pub threshold: f64,
}

impl Default for Deduplicate {
    fn default() -> Self {
        Self { exact: true, near: true, shingle: 5, permutations: 128, bands: None, threshold: 0.8 }
    }
}

/// Benchmarks whose content must not be learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decontaminate {
    /// A document with this many words in a row from a benchmark is left out (DeepSeekMath §2.1: 10).
    #[serde(default = "defaults::ngram")]
    pub ngram: usize,
    /// A benchmark's text of fewer words than `ngram`, but at least this many, is looked for as a whole (DeepSeekMath: 3);
    /// not at all if not given.
    pub shortest: Option<usize>,
    /// The benchmarks.
    pub benchmark: Vec<Benchmark>,
}

/// One benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// For the report.
    pub name: String,
    /// JSONL files, as globs.
    pub paths: Vec<String>,
    /// The fields that are looked for, each by itself.
    pub fields: Vec<String>,
}

/// A tokenizer that there is, or one to be trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// A model's directory, or one with a tokenizer.json; then nothing else may be given.
    pub path: Option<PathBuf>,
    /// Ids of a tokenizer to be trained, control tokens included.
    pub vocab_size: Option<usize>,
    /// How numbers are cut.
    #[serde(default)]
    pub digits: Digits,
    /// A regex before DeepSeek-V3's own: what it matches is a word by itself.
    pub isolate: Option<String>,
    /// Pairs that occur less often are not merged.
    #[serde(default = "defaults::min_frequency")]
    pub min_frequency: u64,
    /// Bytes of text that it is trained on, taken from the beginning of every file in proportion to its size.
    #[serde(default = "defaults::sample_bytes")]
    pub sample_bytes: u64,
    /// A chat template (Jinja), if not one that writes DeepSeek-V3's turns.
    pub chat_template: Option<PathBuf>,
}

/// How much of each source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Tokens of the training split where sources have weights; if not given, as many as there are without repeating
    /// any source.
    pub tokens: Option<u64>,
}

/// How ids are laid out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pack {
    /// A shard is ended when it has so many.
    pub tokens_per_shard: u64,
    /// Share of the documents that are kept for validation, by a hash of their text.
    pub validation: f64,
    /// Whether documents come in a random order, or in that of the sources.
    pub shuffle: bool,
}

impl Default for Pack {
    fn default() -> Self {
        Self { tokens_per_shard: 1 << 26, validation: 0.005, shuffle: true }
    }
}

/// Fill-in-the-middle (Bavarian et al., arXiv 2207.14255) as DeepSeek-V3 has it (§4.1).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FillInTheMiddle {
    /// Share of the training documents that are written as prefix, suffix, middle (V3: 0.1). Conversations never are.
    pub rate: f64,
}

mod defaults {
    pub(super) fn memory() -> u64 {
        2 << 30
    }

    pub(super) fn ngram() -> usize {
        10
    }

    pub(super) fn min_frequency() -> u64 {
        2
    }

    pub(super) fn sample_bytes() -> u64 {
        1 << 28
    }
}

impl PrepareConfig {
    /// Reads `file`, applies `overrides` (`key.of.table=value`), and checks. Paths in the file are taken to be beside it.
    ///
    /// # Errors
    /// A file that cannot be read or is no TOML, an unknown key, a value of the wrong kind, or one that cannot be:
    /// the error names file, field and mend.
    pub fn read(file: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(file).map_err(Error::io(file, "read"))?;
        let mut config = Self::parse(&text, file, overrides)?;
        config.resolve(file.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// The same of a text; `file` is named in errors. Paths stay as they are.
    ///
    /// # Errors
    /// As [`PrepareConfig::read`].
    pub fn parse(text: &str, file: &Path, overrides: &[String]) -> Result<Self> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| Error::Syntax {
            file: file.to_owned(),
            reason: overrides::one_line(&error.to_string()),
        })?;
        for given in overrides {
            overrides::apply(&mut table, given)?;
        }
        let config: Self = serde_path_to_error::deserialize(table).map_err(|error| {
            overrides::explain(file, &error.path().to_string(), &error.inner().to_string())
        })?;
        check::check(&config, file)?;
        Ok(config)
    }

    /// Makes relative paths start at `base`.
    fn resolve(&mut self, base: &Path) {
        let at = |path: &mut PathBuf| *path = base.join(&*path);
        // A folder's name may have characters that mean something in a glob.
        let folder = glob::Pattern::escape(&base.to_string_lossy());
        let pattern = |pattern: &mut String| {
            *pattern = Path::new(&folder).join(&*pattern).to_string_lossy().into_owned();
        };
        at(&mut self.out);
        self.tokenizer.path.iter_mut().for_each(at);
        self.tokenizer.chat_template.iter_mut().for_each(at);
        self.source.iter_mut().flat_map(|source| &mut source.paths).for_each(pattern);
        let benchmarks = self.decontaminate.iter_mut().flat_map(|decontaminate| &mut decontaminate.benchmark);
        benchmarks.flat_map(|benchmark| &mut benchmark.paths).for_each(pattern);
    }
}
