//! A stage that is there.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use fathom_packed::Mapping;
use twox_hash::XxHash3_128;

use super::{IDS_MAGIC, INDEX_MAGIC, Kept, RECORD_BYTES, Summary, TRAILER_BYTES};
use crate::{Error, Result};

/// A finished stage, mapped.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) summary: Summary,
    documents: u64,
    bands: usize,
    index: Mapping,
    ids: Mapping,
}

/// A document of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageDocument {
    pub(crate) kept: Kept,
    /// Where its ids begin.
    first: u64,
}

impl Stage {
    /// The stage `name` in `directory`, if it is there, whole, and made of what `key` names.
    pub(crate) fn open(directory: &Path, name: &str, key: &str) -> Result<Option<Self>> {
        let Some(index) = map(&directory.join(format!("{name}.index")))? else { return Ok(None) };
        let Some(ids) = map(&directory.join(format!("{name}.ids")))? else { return Ok(None) };
        Ok(Self::parse(index, ids).filter(|stage| stage.summary.key == key))
    }

    /// `None` for files that are not whole: they are made again.
    fn parse(index: Mapping, ids: Mapping) -> Option<Self> {
        let bytes = index.as_ref();
        let (content, trailer) = bytes.split_last_chunk::<TRAILER_BYTES>()?;
        let number = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().expect("eight bytes"));
        let (documents, bands, summary_bytes) = (number(0), number(8), number(16));
        let checksum = u128::from_le_bytes(trailer[24..40].try_into().expect("sixteen bytes"));
        if &trailer[40..] != INDEX_MAGIC || XxHash3_128::oneshot(content) != checksum {
            return None;
        }
        let bands = usize::try_from(bands).ok()?;
        let record = bands.checked_mul(8)?.checked_add(RECORD_BYTES)?;
        let records = usize::try_from(documents).ok()?.checked_mul(record)?;
        if content.len() != records.checked_add(usize::try_from(summary_bytes).ok()?)? {
            return None;
        }
        let summary: Summary = serde_json::from_slice(&content[records..]).ok()?;
        let length =
            (summary.tokens as usize).checked_mul(summary.token_bytes)?.checked_add(IDS_MAGIC.len())?;
        let whole = ids.as_ref().len() == length && ids.as_ref().starts_with(IDS_MAGIC);
        whole.then_some(Self { summary, documents, bands, index, ids })
    }

    pub(crate) fn documents(&self) -> u64 {
        self.documents
    }

    pub(crate) fn bands(&self) -> usize {
        self.bands
    }

    pub(crate) fn document(&self, number: u64) -> StageDocument {
        let bytes = self.record(number);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        StageDocument {
            kept: Kept {
                hash: u128::from_le_bytes(bytes[..16].try_into().expect("sixteen bytes")),
                tokens: word(24),
                text_bytes: word(28),
            },
            first: u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")),
        }
    }

    /// Puts the keys of the document's bands into `keys`.
    pub(crate) fn keys(&self, number: u64, keys: &mut Vec<u64>) {
        keys.clear();
        keys.extend(
            self.record(number)[RECORD_BYTES..].as_chunks().0.iter().map(|&key| u64::from_le_bytes(key)),
        );
    }

    /// Puts the document's ids into `ids`.
    pub(crate) fn ids(&self, document: StageDocument, ids: &mut Vec<u32>) {
        let width = self.summary.token_bytes;
        let start = IDS_MAGIC.len() + document.first as usize * width;
        let bytes = &self.ids.as_ref()[start..start + document.kept.tokens as usize * width];
        ids.clear();
        if width == 2 {
            ids.extend(bytes.as_chunks().0.iter().map(|&id| u32::from(u16::from_le_bytes(id))));
        } else {
            ids.extend(bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id)));
        }
    }

    fn record(&self, number: u64) -> &[u8] {
        let record = RECORD_BYTES + 8 * self.bands;
        &self.index.as_ref()[number as usize * record..][..record]
    }
}

fn map(path: &Path) -> Result<Option<Mapping>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "open")(error)),
    };
    if file.metadata().map_err(Error::io(path, "read"))?.len() == 0 {
        return Ok(None);
    }
    Mapping::scattered(&file).map(Some).map_err(Error::io(path, "map"))
}
