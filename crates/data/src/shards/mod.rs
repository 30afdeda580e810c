//! One token shard: a file of token ids, the starts of its documents, and an optional loss mask.
//!
//! The bytes are those of docs/formats/token-shards.md: a header of 128 bytes, the tokens (two or four bytes each), the
//! documents' first tokens, the mask's bits. Everything after the header is under one XXH3-128, the header under
//! another, so that a cut or damaged file is found before the first step of a training run.

mod header;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use header::ShardLayout;
pub use reader::Document;
pub(crate) use reader::Shard;
pub use writer::ShardWriter;
pub(crate) use writer::append_tokens;

use serde::{Deserialize, Serialize};

/// What the manifest says about a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// The file's name, beside the manifest.
    pub file: String,
    /// Token ids in it.
    pub tokens: u64,
    /// Documents in it.
    pub documents: u64,
    /// Bytes of UTF-8 that the tokens stand for, control tokens not counted: what bits per byte are measured in.
    pub text_bytes: u64,
    /// XXH3-128 of everything after the header, 32 hex digits.
    pub checksum: String,
}
