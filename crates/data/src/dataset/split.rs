//! The token shards of one split, read as one long row of tokens.

use crate::shards::{Document, Shard};
use crate::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One split: its shards one after the other.
#[derive(Debug)]
pub struct Split {
    directory: PathBuf,
    name: &'static str,
    shards: Vec<Shard>,
    /// The first token of each shard, and the end.
    first_tokens: Vec<u64>,
    /// The first document of each shard, and the end.
    first_documents: Vec<u64>,
    text_bytes: u64,
    masked: bool,
}

impl Split {
    pub(super) fn new(
        directory: &Path,
        name: &'static str,
        shards: Vec<Shard>,
        text_bytes: u64,
        masked: bool,
    ) -> Self {
        let ends = |count: fn(&Shard) -> u64| {
            let ends = shards.iter().scan(0, |end, shard| {
                *end += count(shard);
                Some(*end)
            });
            std::iter::once(0).chain(ends).collect()
        };
        let (first_tokens, first_documents) = (ends(Shard::tokens), ends(Shard::documents));
        Self {
            directory: directory.to_owned(),
            name,
            first_tokens,
            first_documents,
            shards,
            text_bytes,
            masked,
        }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.first_tokens[self.shards.len()]
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        self.first_documents[self.shards.len()]
    }

    /// Bytes of UTF-8 that the tokens stand for: bits per byte = loss · tokens / (ln 2 · bytes).
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Document `index`.
    ///
    /// # Errors
    /// Damage that opening with [`crate::Verify::Content`] would have found.
    ///
    /// # Panics
    /// There are fewer documents.
    pub fn document(&self, index: u64) -> Result<Document> {
        assert!(index < self.documents(), "document {index} of {}", self.documents());
        let shard = self.first_documents.partition_point(|&first| first <= index) - 1;
        let range = self.shards[shard].document(index - self.first_documents[shard]);
        let start = self.first_tokens[shard] + range.start;
        let mut tokens = vec![0; (range.end - range.start) as usize];
        self.read(start, &mut tokens)?;
        let learn = self.masked.then(|| {
            let mut learn = vec![false; tokens.len()];
            self.read_mask(start, &mut learn);
            learn
        });
        Ok(Document { tokens, learn })
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    pub(crate) fn is_masked(&self) -> bool {
        self.masked
    }

    /// Rows of `seq + 1` tokens, of which neighbours share one: each token but the first is a target once, but for a
    /// rest that fills no row.
    pub(crate) fn rows(&self, seq: usize) -> Result<u64> {
        match (self.tokens().saturating_sub(1)) / seq as u64 {
            0 => Err(Error::TooFewTokens {
                dir: self.directory.clone(),
                split: self.name,
                expected: seq as u64 + 1,
                got: self.tokens(),
            }),
            rows => Ok(rows),
        }
    }

    /// Puts the tokens from `start` into `out`.
    pub(crate) fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let end = start + out.len() as u64;
        for (shard, range) in self.pieces(start..end) {
            let at = (self.first_tokens[shard] + range.start - start) as usize;
            let length = (range.end - range.start) as usize;
            self.shards[shard].read(range, &mut out[at..at + length])?;
        }
        Ok(())
    }

    /// Puts into `out` whether the tokens from `start` are to be learnt.
    pub(crate) fn read_mask(&self, start: u64, out: &mut [bool]) {
        let end = start + out.len() as u64;
        for (shard, range) in self.pieces(start..end) {
            let at = (self.first_tokens[shard] + range.start - start) as usize;
            let length = (range.end - range.start) as usize;
            self.shards[shard].read_mask(range, &mut out[at..at + length]);
        }
    }

    /// For each of the tokens from `start`, the index in `out` of the first token of its document; 0 for a document that
    /// began before `start`.
    pub(crate) fn read_documents(&self, start: u64, out: &mut [u32]) {
        out.fill(0);
        let end = start + out.len() as u64;
        for (shard, range) in self.pieces(start..end) {
            let offset = self.first_tokens[shard];
            for first in self.shards[shard].starts_in(range) {
                let at = (offset + first - start) as usize;
                out[at..].fill(at as u32);
            }
        }
    }

    /// Whether a document begins with token `index`.
    pub(crate) fn begins_document(&self, index: u64) -> bool {
        self.pieces(index..index + 1)
            .any(|(shard, range)| self.shards[shard].starts_in(range).next().is_some())
    }

    /// The shards that hold `tokens`, and which of their own tokens these are.
    fn pieces(&self, tokens: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
        assert!(tokens.end <= self.tokens(), "{tokens:?} of {}", self.tokens());
        let from = self.first_tokens.partition_point(|&first| first <= tokens.start) - 1;
        (from..self.shards.len()).map_while(move |shard| {
            let first = self.first_tokens[shard];
            let (start, end) = (tokens.start.max(first), tokens.end.min(self.first_tokens[shard + 1]));
            (first < tokens.end).then(|| (shard, start - first..end - first))
        })
    }
}
