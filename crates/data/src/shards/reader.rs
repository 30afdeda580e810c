//! A shard that is mapped and read.

use super::header::{Header, LENGTH};
use super::{ShardEntry, ShardLayout};
use crate::{Error, Result};
use fathom_packed::Mapping;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use twox_hash::XxHash3_128;

/// A document of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its ids, control tokens included.
    pub tokens: Vec<u32>,
    /// Which of them are to be learnt, where the dataset is masked.
    pub learn: Option<Vec<bool>>,
}

/// A mapped shard whose header has been checked.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    mapping: Mapping,
    header: Header,
    /// Where documents' starts begin, where the mask begins, and the length of the file.
    sections: [usize; 3],
}

impl Shard {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let mapping = Mapping::scattered(&file).map_err(Error::io(path, "map"))?;
        let header = Header::parse(path, mapping.as_ref())?;
        let impossible = || {
            let reason = "its counts are of no file".to_owned();
            Error::BadShard { path: path.to_owned(), reason }
        };
        let sections = header.sections().ok_or_else(impossible)?;
        let (got, expected) = (mapping.as_ref().len() as u64, sections[2]);
        if got != expected {
            return Err(Error::WrongLength { path: path.to_owned(), expected, got });
        }
        let sections = sections.map(|at| at as usize);
        Ok(Self { path: path.to_owned(), mapping, header, sections })
    }

    /// Compares the header with what the manifest says.
    pub(crate) fn check_entry(&self, entry: &ShardEntry, layout: ShardLayout) -> Result<()> {
        let header = &self.header;
        let rows = [
            ("tokens", entry.tokens.to_string(), header.tokens.to_string()),
            ("documents", entry.documents.to_string(), header.documents.to_string()),
            ("text_bytes", entry.text_bytes.to_string(), header.text_bytes.to_string()),
            ("checksum", entry.checksum.clone(), format!("{:032x}", header.checksum)),
            ("vocab_size", layout.vocab_size.to_string(), header.layout.vocab_size.to_string()),
            ("masked", layout.masked.to_string(), header.layout.masked.to_string()),
        ];
        match rows.into_iter().find(|(_, expected, got)| expected != got) {
            None => Ok(()),
            Some((field, expected, got)) => {
                Err(Error::OtherShard { path: self.path.clone(), field, expected, got })
            }
        }
    }

    /// Reads everything once: the checksum, the vocabulary, the order of the documents' starts.
    pub(crate) fn verify(&self) -> Result<()> {
        let got = XxHash3_128::oneshot(&self.mapping.as_ref()[LENGTH..]);
        let expected = self.header.checksum;
        if got != expected {
            let path = self.path.clone();
            return Err(Error::WrongChecksum { path, what: "the content", expected, got });
        }
        let largest = if self.header.layout.token_bytes() == 2 {
            let tokens = self.bytes(0..self.header.tokens).as_chunks().0;
            tokens.iter().map(|&bytes| u16::from_le_bytes(bytes)).max().map_or(0, u32::from)
        } else {
            let tokens = self.bytes(0..self.header.tokens).as_chunks().0;
            tokens.iter().map(|&bytes| u32::from_le_bytes(bytes)).max().unwrap_or(0)
        };
        self.check_token(largest)?;
        let starts = self.starts();
        let rising = starts.array_windows().all(|[a, b]| u64::from_le_bytes(*a) < u64::from_le_bytes(*b));
        let bounded = starts.last().is_none_or(|&last| u64::from_le_bytes(last) < self.tokens());
        let first = starts.first().map_or(0, |&first| u64::from_le_bytes(first));
        if !rising || !bounded || first != 0 || (starts.is_empty() && self.tokens() > 0) {
            let reason = "its documents do not begin one after the other".to_owned();
            return Err(Error::BadShard { path: self.path.clone(), reason });
        }
        Ok(())
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.header.tokens
    }

    pub(crate) fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Puts the tokens of `range` into `out`, which is as long.
    pub(crate) fn read(&self, range: Range<u64>, out: &mut [u32]) -> Result<()> {
        let bytes = self.bytes(range);
        let mut largest = 0;
        let mut put = |out: &mut u32, token: u32| {
            *out = token;
            largest = largest.max(token);
        };
        if self.header.layout.token_bytes() == 2 {
            let tokens = bytes.as_chunks().0;
            out.iter_mut().zip(tokens).for_each(|(out, &token)| put(out, u16::from_le_bytes(token).into()));
        } else {
            let tokens = bytes.as_chunks().0;
            out.iter_mut().zip(tokens).for_each(|(out, &token)| put(out, u32::from_le_bytes(token)));
        }
        // The content may not have been verified, and an embedding has no row for a wrong id.
        self.check_token(largest)
    }

    /// Puts into `out` whether the tokens of `range` are to be learnt.
    ///
    /// # Panics
    /// The shard has no mask.
    pub(crate) fn read_mask(&self, range: Range<u64>, out: &mut [bool]) {
        assert!(self.header.layout.masked, "a mask is asked for only where there is one");
        let mask = &self.mapping.as_ref()[self.sections[1]..];
        for (out, at) in out.iter_mut().zip(range) {
            *out = mask[(at / 8) as usize] >> (at % 8) & 1 == 1;
        }
    }

    /// The documents that begin in `range`, by their first tokens.
    pub(crate) fn starts_in(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        let starts = self.starts();
        let from = starts.partition_point(|&start| u64::from_le_bytes(start) < range.start);
        starts[from..].iter().map(|&start| u64::from_le_bytes(start)).take_while(move |&at| at < range.end)
    }

    /// The tokens of document `index` of this shard.
    pub(crate) fn document(&self, index: u64) -> Range<u64> {
        let starts = self.starts();
        let at = |index: usize| starts.get(index).map_or(self.tokens(), |&start| u64::from_le_bytes(start));
        let end = at(index as usize + 1).min(self.tokens());
        at(index as usize).min(end)..end
    }

    fn check_token(&self, token: u32) -> Result<()> {
        let vocab_size = self.header.layout.vocab_size;
        if token < vocab_size || self.tokens() == 0 {
            return Ok(());
        }
        Err(Error::TokenOutOfRange { path: self.path.clone(), token, vocab_size })
    }

    fn bytes(&self, tokens: Range<u64>) -> &[u8] {
        let width = self.header.layout.token_bytes();
        &self.mapping.as_ref()[LENGTH + tokens.start as usize * width..LENGTH + tokens.end as usize * width]
    }

    fn starts(&self) -> &[[u8; 8]] {
        self.mapping.as_ref()[self.sections[0]..self.sections[1]].as_chunks().0
    }
}
