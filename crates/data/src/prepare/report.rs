//! What became of the corpus, in numbers.

use serde::{Deserialize, Serialize};

use super::config::SourceConfig;
use super::counts::Counts;
use super::mix::{MixedSource, Place};
use super::stage::Kept;

/// The content of `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareReport {
    /// Sums over all sources.
    pub total: SourceReport,
    /// Each source.
    pub sources: Vec<SourceReport>,
    /// What the work took; the only part that differs between two runs.
    pub time: Time,
}

/// One source, or all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Its licence.
    pub license: String,
    /// Files read.
    pub files: u64,
    /// What was read, kept and left out.
    pub counts: Counts,
    /// Kept documents that were left out because one of the same text came before.
    pub exact_duplicates: u64,
    /// The same of nearly the same text.
    pub near_duplicates: u64,
    /// How often a document is taken, on average.
    pub epochs: f64,
    /// Documents in the training split, repetitions counted.
    pub train_documents: u64,
    /// Their tokens.
    pub train_tokens: u64,
    /// Bytes of their text.
    pub train_text_bytes: u64,
    /// Documents in the validation split.
    pub validation_documents: u64,
    /// Their tokens.
    pub validation_tokens: u64,
    /// Bytes of their text.
    pub validation_text_bytes: u64,
}

/// What the work took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// Seconds of this run, from the beginning to the end; less than all of it where stages were there before.
    pub seconds: f64,
    /// Seconds that threads worked on records, over all threads and runs.
    pub work_seconds: f64,
    /// Megabytes (10^6) of text read per second of work.
    pub text_megabytes_per_work_second: f64,
    /// Tokens made per second of work.
    pub tokens_per_work_second: f64,
}

impl SourceReport {
    pub(crate) fn new(mixed: &MixedSource, described: &SourceConfig) -> Self {
        Self {
            name: described.name.clone(),
            license: described.license.clone(),
            files: mixed.files,
            counts: mixed.counts.clone(),
            exact_duplicates: mixed.exact_duplicates,
            near_duplicates: mixed.near_duplicates,
            epochs: mixed.epochs,
            ..Self::default()
        }
    }

    pub(crate) fn count(&mut self, place: Place, document: Kept) {
        let (documents, tokens, text_bytes) = match place {
            Place::Train => (&mut self.train_documents, &mut self.train_tokens, &mut self.train_text_bytes),
            Place::Validation => {
                (&mut self.validation_documents, &mut self.validation_tokens, &mut self.validation_text_bytes)
            }
            Place::Nowhere => return,
        };
        *documents += 1;
        *tokens += u64::from(document.tokens);
        *text_bytes += u64::from(document.text_bytes);
    }
}

impl PrepareReport {
    pub(crate) fn new(sources: Vec<SourceReport>, seconds: f64, work_seconds: f64) -> Self {
        let mut total = SourceReport { name: "total".to_owned(), ..SourceReport::default() };
        for source in &sources {
            total.files += source.files;
            total.counts.add(&source.counts);
            total.exact_duplicates += source.exact_duplicates;
            total.near_duplicates += source.near_duplicates;
            total.train_documents += source.train_documents;
            total.train_tokens += source.train_tokens;
            total.train_text_bytes += source.train_text_bytes;
            total.validation_documents += source.validation_documents;
            total.validation_tokens += source.validation_tokens;
            total.validation_text_bytes += source.validation_text_bytes;
        }
        let left = total.counts.documents_kept - total.exact_duplicates - total.near_duplicates;
        total.epochs = total.train_documents as f64 / (left - total.validation_documents).max(1) as f64;
        let per_second = |amount: f64| if work_seconds > 0.0 { amount / work_seconds } else { 0.0 };
        let time = Time {
            seconds,
            work_seconds,
            text_megabytes_per_work_second: per_second(total.counts.text_bytes_in as f64 / 1e6),
            tokens_per_work_second: per_second(total.counts.tokens_kept as f64),
        };
        Self { total, sources, time }
    }

    /// The file's content.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers become JSON") + "\n"
    }
}
