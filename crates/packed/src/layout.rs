//! The bytes of a packed file: header, data, tail. The format is told in `docs/formats/packed-cache.md`.
//!
//! ```text
//! 0                    header: magic, version, sizes, hash of the tail, hash of the header
//! 4096                 data: the entries in order, each from a multiple of 4096, zeroes between
//! data_end             checksums: one u64 per chunk of 2 MiB of [4096, data_end), counted from byte 0
//! data_end + 8·chunks  table: JSON, to the end of the file
//! ```

use crate::source::{ContentHash, Stamp};
use crate::{Reason, checksum};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Version of the container. A reader accepts its own and no other: a cache can always be made again.
pub const FORMAT_VERSION: u32 = 1;

/// Every entry begins on a multiple of this many bytes of the file, and so of the mapping: a page.
pub const ALIGNMENT: usize = 4096;

/// What the file begins with.
pub(crate) const MAGIC: [u8; 8] = *b"FATHOMPK";

/// Bytes of the header: one page, so that data begin on one.
pub(crate) const HEADER: usize = ALIGNMENT;

/// Bytes under one checksum, of one write, and of one huge page.
///
/// Linux keeps what arrives in one aligned write of this size as one huge page of the page cache, and maps
/// it with one fault; smaller writes give 4 KiB pages, whose 512 faults cost as much as the checksum.
pub(crate) const CHUNK: usize = 2 << 20;

/// The table of V3 with an entry for each of its 91,000 tensors takes 20 MB.
pub(crate) const TABLE_BYTES_MAX: usize = 64 << 20;

const HASH_AT: usize = HEADER - 16;

/// The fixed page at the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Header {
    /// Where data end and the checksums begin; a multiple of [`ALIGNMENT`].
    pub(crate) data_end: u64,
    /// Length of the whole file.
    pub(crate) file_length: u64,
    /// XXH3-128 of `[data_end, file_length)`.
    pub(crate) tail_hash: u128,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.data_end.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.file_length.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.tail_hash.to_le_bytes());
        let hash = checksum::hash128(&bytes[..HASH_AT]);
        bytes[HASH_AT..].copy_from_slice(&hash.to_le_bytes());
        bytes
    }

    /// The header of a file of `bytes`, whose length it has been checked against.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Reason> {
        let got = bytes.len() as u64;
        let Some(page) = bytes.first_chunk::<HEADER>() else {
            return Err(Reason::Truncated { expected: HEADER as u64, got });
        };
        if !page.starts_with(&MAGIC) {
            return Err(Reason::NotPacked);
        }
        let version = u32::from_le_bytes(field(page, 8));
        if version != FORMAT_VERSION {
            return Err(Reason::Version { expected: FORMAT_VERSION, got: version });
        }
        if checksum::hash128(&page[..HASH_AT]) != u128::from_le_bytes(field(page, HASH_AT)) {
            return Err(Reason::Damaged { part: "header", range: 0..HEADER as u64 });
        }
        let header = Self {
            data_end: u64::from_le_bytes(field(page, 16)),
            file_length: u64::from_le_bytes(field(page, 24)),
            tail_hash: u128::from_le_bytes(field(page, 32)),
        };
        if header.file_length != got {
            return Err(Reason::Truncated { expected: header.file_length, got });
        }
        Ok(header)
    }
}

/// `N` bytes of the header from `at`.
fn field<const N: usize>(page: &[u8; HEADER], at: usize) -> [u8; N] {
    std::array::from_fn(|i| page[at + i])
}

/// Where the three parts behind the header lie, all within the file.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) data_end: usize,
    pub(crate) checksums: Range<usize>,
    pub(crate) table: Range<usize>,
}

impl Parts {
    /// The parts of a file whose header passed. The tail's hash is checked here; data are not yet.
    pub(crate) fn find(bytes: &[u8], header: &Header) -> Result<Self, Reason> {
        let malformed = |problem: &str| Reason::Malformed { problem: problem.to_owned() };
        let data_end = usize::try_from(header.data_end).unwrap_or(usize::MAX);
        if !(HEADER..=bytes.len()).contains(&data_end) || !data_end.is_multiple_of(ALIGNMENT) {
            return Err(malformed("its data end outside the file"));
        }
        // No overflow: eight bytes for each two million of a slice.
        let table = data_end + size_of::<u64>() * data_end.div_ceil(CHUNK);
        if table > bytes.len() {
            return Err(malformed("its checksums do not fit the file"));
        }
        if bytes.len() - table > TABLE_BYTES_MAX {
            return Err(malformed("its table is too large"));
        }
        if checksum::hash128(&bytes[data_end..]) != header.tail_hash {
            let range = header.data_end..header.file_length;
            return Err(Reason::Damaged { part: "table", range });
        }
        Ok(Self { data_end, checksums: data_end..table, table: table..bytes.len() })
    }
}

/// Everything about the data: of what they were made, and what lies where.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    /// [`crate::Key::layout`].
    pub(crate) layout: String,
    /// [`crate::Key::options`].
    pub(crate) options: String,
    /// What is in the source files.
    pub(crate) contents: Vec<ContentHash>,
    /// Whether `files` may stand for `contents`.
    pub(crate) settled: bool,
    /// The source files as they looked when they were packed.
    pub(crate) files: Vec<Stamp>,
    /// In the order of the file.
    pub(crate) entries: Vec<TableEntry>,
}

/// One named range.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableEntry {
    pub(crate) name: String,
    /// First byte in the file.
    pub(crate) start: u64,
    /// Bytes, without the zeroes after them.
    pub(crate) length: u64,
    /// What the writer says about it: JSON in a string, so that a table is not a tree.
    pub(crate) meta: String,
}

impl Table {
    /// The table in `bytes`, whose entries fill `[HEADER, data_end)` in order, without holes or overlaps.
    pub(crate) fn decode(bytes: &[u8], data_end: usize) -> Result<Self, Reason> {
        let table: Self = serde_json::from_slice(bytes)
            .map_err(|error| Reason::Malformed { problem: format!("its table is not readable ({error})") })?;
        let mut end = HEADER as u64;
        for entry in &table.entries {
            let expected = end;
            let past = entry.start.checked_add(entry.length).and_then(align);
            match past {
                Some(past) if entry.start == expected && past <= data_end as u64 => end = past,
                _ => {
                    let problem = format!("its entry {:?} is out of place", entry.name);
                    return Err(Reason::Malformed { problem });
                }
            }
        }
        if end != data_end as u64 {
            return Err(Reason::Malformed { problem: "its data are longer than its entries".to_owned() });
        }
        Ok(table)
    }
}

/// The first multiple of [`ALIGNMENT`] that is not below `position`.
pub(crate) fn align(position: u64) -> Option<u64> {
    position.checked_next_multiple_of(ALIGNMENT as u64)
}
