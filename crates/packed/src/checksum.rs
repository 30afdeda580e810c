//! Checksums: XXH3 of 64 bits per chunk of data, of 128 bits for what there is one of.
//!
//! XXH3 reads memory about as fast as a plain sum of it does, on the instruction set found at run time. It
//! finds damage and not malice: whoever can write beside a checkpoint can write the checkpoint.

use crate::layout::{CHUNK, HEADER};
use crate::parallel;
use std::num::NonZero;
use std::ops::Range;
use twox_hash::{XxHash3_64, XxHash3_128};

/// Hash of a header, a table, a list of hashes.
pub(crate) fn hash128(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot(bytes)
}

/// Checksum of a chunk.
pub(crate) fn hash64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The bytes under the checksum of chunk `index`, in a file whose data end at `data_end`. Chunks are
/// counted from byte 0, so that their bounds are those of huge pages; the first leaves out the header.
pub(crate) fn chunk(index: usize, data_end: usize) -> Range<usize> {
    let start = index * CHUNK;
    start.max(HEADER)..(start + CHUNK).min(data_end)
}

/// Compares all of `data`, which is `[0, data_end)` of the file, with `checksums`, eight bytes a chunk.
/// Returns a chunk that differs.
///
/// Chunks go to threads one by one in the order of the file, so that a cold file is read nearly in order.
pub(crate) fn verify(data: &[u8], checksums: &[u8], threads: NonZero<usize>) -> Result<(), Range<usize>> {
    let checksums = checksums.as_chunks::<8>().0;
    assert_eq!(checksums.len(), data.len().div_ceil(CHUNK), "one checksum per chunk");
    parallel::map(checksums.len(), threads, |index| {
        let range = chunk(index, data.len());
        let same = hash64(&data[range.clone()]) == u64::from_le_bytes(checksums[index]);
        if same { Ok(()) } else { Err(range) }
    })?;
    Ok(())
}
