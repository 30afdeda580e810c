//! One file mapped into memory, and what is said to the kernel about its pages.
//!
//! The only `unsafe` of this crate. A mapping is as long as the file was when it was opened; the file must
//! not be changed or truncated by another process while it is in use (nothing can check that, and every
//! program that maps weights shares the assumption).

#![allow(unsafe_code)]

use crate::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How Git LFS begins the text file that stands for a file not yet fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub(crate) struct Mapping {
    path: PathBuf,
    map: Mmap,
}

impl Mapping {
    /// Maps `path`. Fails if it cannot be opened, is a directory, is shorter than the 8 bytes that every safetensors file
    /// has, or is a Git LFS pointer.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let metadata = file.metadata().map_err(Error::io(path, "read the size of"))?;
        if metadata.is_dir() {
            return Err(Error::IsDirectory { path: path.to_owned() });
        }
        let length = metadata.len();
        if length < 8 {
            return Err(Error::Truncated { file: path.to_owned(), expected: 8, got: length });
        }
        let mut start = [0; LFS_POINTER.len()];
        if file.read_exact(&mut start).is_ok() && start == LFS_POINTER {
            return Err(Error::LfsPointer { file: path.to_owned() });
        }
        // SAFETY: the mapping is read-only and lives as long as `self`; that nobody shortens or rewrites
        // the file meanwhile is the stated assumption of this module.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        Ok(Self { path: path.to_owned(), map })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives back the pages that touch `range`: the resident size falls, and the next access reads them
    /// from the page cache or the file again.
    ///
    /// Whole pages around the range, not only those inside it: otherwise each of the many small tensors
    /// would leave its edge pages behind. A neighbour that is still in use merely faults its page in again.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if !range.is_empty() && range.end <= self.map.len() {
            // SAFETY: DONTNEED is unsafe because it loses the content of memory that no file backs. This
            // mapping is file-backed and never written, so each page is re-read with the same bytes.
            let advised = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.end - range.start,
                )
            };
            // Advice that the kernel declines costs memory, not correctness.
            let _ = advised;
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Says that the whole file will be read front to back. Never per tensor: each differing range becomes
    /// a kernel mapping of its own, and those are limited (65,530 on Linux) while V3 has 91,000 tensors.
    pub(crate) fn read_sequentially(&self) {
        #[cfg(unix)]
        let _ = self.map.advise(memmap2::Advice::Sequential);
    }
}
