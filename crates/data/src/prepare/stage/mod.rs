//! What one input file has become: ids, and per document what the last step needs to know.
//!
//! A stage is two files. `NAME.ids` is a magic word and the ids of all documents one after the other, two or four bytes
//! each. `NAME.index` has a record for each document (hash of its text, where its ids begin, how many there are, bytes of
//! text, keys of its bands), then a summary in JSON, then a trailer. The index is published last: with it the stage is
//! there. The summary's `key` names everything that the stage depends on, so that another configuration or another
//! input file finds no stage instead of a wrong one.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use reader::{Stage, StageDocument};
pub(crate) use writer::StageWriter;

use serde::{Deserialize, Serialize};

use super::counts::Counts;

const IDS_MAGIC: &[u8; 8] = b"FATHOMID";
const INDEX_MAGIC: &[u8; 8] = b"FATHOMIX";
/// Bytes of a record without the keys of its bands.
const RECORD_BYTES: usize = 32;
/// Documents, bands, bytes of the summary, checksum of everything before the trailer, magic word.
const TRAILER_BYTES: usize = 8 + 8 + 8 + 16 + 8;

/// What holds of a whole stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// Names what it was made of, and how.
    pub(crate) key: String,
    /// Ids in all.
    pub(crate) tokens: u64,
    /// Bytes of an id.
    pub(crate) token_bytes: usize,
    /// What was read and what was left out.
    pub(crate) counts: Counts,
    /// Seconds that threads worked on it.
    pub(crate) work_seconds: f64,
}

/// A document that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// XXH3-128 of its text.
    pub(crate) hash: u128,
    /// Ids, control tokens included.
    pub(crate) tokens: u32,
    /// Bytes of UTF-8 that they stand for.
    pub(crate) text_bytes: u32,
}
