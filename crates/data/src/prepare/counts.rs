//! What was read, kept and left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts of a file, of a source, or of everything. Documents are counted once, by the first reason to leave them out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Documents read.
    pub documents_in: u64,
    /// Bytes of their text, as it was read.
    pub text_bytes_in: u64,
    /// Documents that were kept, before duplicates were looked for.
    pub documents_kept: u64,
    /// Bytes of their text, normalised.
    pub text_bytes_kept: u64,
    /// Their tokens.
    pub tokens_kept: u64,
    /// Records that were no document and skipped (`on_invalid`).
    pub invalid: u64,
    /// Documents left out by a filter, by rule.
    pub filtered: BTreeMap<String, u64>,
    /// Documents that hold a part of a benchmark.
    pub contaminated: u64,
    /// Documents written with their middle last.
    pub fill_in_the_middle: u64,
}

impl Counts {
    /// Counts a document that breaks `rule`.
    pub(crate) fn filter(&mut self, rule: &str) {
        match self.filtered.get_mut(rule) {
            Some(count) => *count += 1,
            None => {
                self.filtered.insert(rule.to_owned(), 1);
            }
        }
    }

    /// Adds the counts of something else.
    pub(crate) fn add(&mut self, other: &Self) {
        self.documents_in += other.documents_in;
        self.text_bytes_in += other.text_bytes_in;
        self.documents_kept += other.documents_kept;
        self.text_bytes_kept += other.text_bytes_kept;
        self.tokens_kept += other.tokens_kept;
        self.invalid += other.invalid;
        self.contaminated += other.contaminated;
        self.fill_in_the_middle += other.fill_in_the_middle;
        for (rule, count) in &other.filtered {
            *self.filtered.entry(rule.clone()).or_default() += count;
        }
    }
}
