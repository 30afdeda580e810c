//! One finished file mapped into memory.
//!
//! The only `unsafe` of this crate. A packed file, or a token shard, is complete when it gets its name and is never written
//! again, only replaced by another one or removed, both of which leave a mapping as it was. What remains
//! is a stranger who shortens the file in place; every program that maps files shares that assumption.

#![allow(unsafe_code)]

use memmap2::Mmap;
use std::fs::File;
use std::io;

/// A read-only mapping of a whole file, to be shared as `Arc<Mapping>` by everything that uses a
/// part of it.
#[derive(Debug)]
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps `file` and asks for huge pages: a page that is not in memory is then read from the disk with
    /// megabytes around it, whatever the disk's own read-ahead, and stays one huge page of the page cache.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is read-only and as long as `self`; that nobody rewrites or shortens the file
        // meanwhile is the stated assumption of this module.
        let map = unsafe { Mmap::map(file) }?;
        // A system without huge pages reads the same bytes, more slowly.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self(map))
    }

    /// Maps a finished file of which small pieces are read here and there, such as rows of shuffled training data.
    ///
    /// # Errors
    /// The system's, when it cannot map the file.
    pub fn scattered(file: &File) -> io::Result<Self> {
        // SAFETY: as above: read-only, as long as `self`, and of a file that nobody rewrites or shortens.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self(map))
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
