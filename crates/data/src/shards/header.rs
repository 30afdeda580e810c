//! The first 128 bytes of a shard.

use crate::{Error, Result};
use std::path::Path;
use twox_hash::XxHash3_128;

pub(super) const LENGTH: usize = 128;
pub(super) const MAGIC: &[u8; 8] = b"FATHOMTK";
pub(super) const VERSION: u32 = 1;
/// The header's own hash is its last 16 bytes.
const HASHED: usize = LENGTH - 16;
const MASKED: u32 = 1;

/// What all shards of a dataset have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLayout {
    /// Ids are below this.
    pub vocab_size: u32,
    /// Whether each token says if it is to be learnt (the answers of a conversation) or only read.
    pub masked: bool,
}

impl ShardLayout {
    /// Bytes of a token: two where every id fits.
    pub fn token_bytes(&self) -> usize {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) layout: ShardLayout,
    pub(super) tokens: u64,
    pub(super) documents: u64,
    pub(super) text_bytes: u64,
    /// XXH3-128 of everything after the header.
    pub(super) checksum: u128,
}

impl Header {
    pub(super) fn to_bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(self.layout.token_bytes() as u32).to_le_bytes());
        put(16, &self.layout.vocab_size.to_le_bytes());
        put(20, &(if self.layout.masked { MASKED } else { 0 }).to_le_bytes());
        put(24, &self.tokens.to_le_bytes());
        put(32, &self.documents.to_le_bytes());
        put(40, &self.text_bytes.to_le_bytes());
        put(48, &self.checksum.to_le_bytes());
        let hash = XxHash3_128::oneshot(&bytes[..HASHED]);
        bytes[HASHED..].copy_from_slice(&hash.to_le_bytes());
        bytes
    }

    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| Error::BadShard { path: path.to_owned(), reason };
        let Some((bytes, _)) = bytes.split_first_chunk::<LENGTH>() else {
            return Err(bad(format!("expected at least {LENGTH} bytes, got {}", bytes.len())));
        };
        if &bytes[..8] != MAGIC {
            return Err(bad("it does not begin with FATHOMTK".to_owned()));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(bad(format!("its format version is {version}, expected {VERSION}")));
        }
        let (got, expected) = (XxHash3_128::oneshot(&bytes[..HASHED]), u128_at(bytes, HASHED));
        if got != expected {
            let path = path.to_owned();
            return Err(Error::WrongChecksum { path, what: "the header", expected, got });
        }
        let layout = ShardLayout { vocab_size: u32_at(bytes, 16), masked: u32_at(bytes, 20) & MASKED != 0 };
        if u32_at(bytes, 12) as usize != layout.token_bytes() || u32_at(bytes, 20) > MASKED {
            return Err(bad("its width of tokens or its flags are of no shard of this version".to_owned()));
        }
        let (tokens, documents) = (u64_at(bytes, 24), u64_at(bytes, 32));
        let (text_bytes, checksum) = (u64_at(bytes, 40), u128_at(bytes, 48));
        Ok(Self { layout, tokens, documents, text_bytes, checksum })
    }

    /// Where documents' starts begin, where the mask begins, and the length of the file; `None` if the counts are of
    /// no file.
    pub(super) fn sections(&self) -> Option<[u64; 3]> {
        let tokens =
            self.tokens.checked_mul(self.layout.token_bytes() as u64)?.checked_next_multiple_of(8)?;
        let starts = tokens.checked_add(LENGTH as u64)?;
        let mask = starts.checked_add(self.documents.checked_mul(8)?)?;
        let bits = if self.layout.masked { self.tokens.div_ceil(64).checked_mul(8)? } else { 0 };
        Some([starts, mask, mask.checked_add(bits)?])
    }
}

fn u32_at(bytes: &[u8; LENGTH], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8; LENGTH], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u128_at(bytes: &[u8; LENGTH], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}
