//! Which documents share a key with an earlier one.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rayon::slice::ParallelSliceMut;

use crate::{Error, Result};

/// Takes a document's keys: of its text, if it may not repeat others, and of its bands.
pub(crate) type TakeKeys<'a> = dyn FnMut(Option<u128>, &[u64]) -> Result<()> + 'a;

/// One bit for each document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    words: Vec<u64>,
}

impl Marks {
    fn new(documents: u64) -> Self {
        Self { words: vec![0; documents.div_ceil(64) as usize] }
    }

    fn set(&mut self, document: u64) {
        self.words[(document / 64) as usize] |= 1 << (document % 64);
    }

    pub(crate) fn has(&self, document: u64) -> bool {
        self.words[(document / 64) as usize] >> (document % 64) & 1 == 1
    }
}

/// What was found. A document may be marked as both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Duplicates {
    pub(crate) exact: Marks,
    pub(crate) near: Marks,
}

/// A key and its document, ordered by both.
type Entry = (u128, u64);
/// Bytes of an entry on the disk.
const ENTRY_BYTES: u64 = 24;
/// Open files at most.
const BUCKETS_MAX: u64 = 256;
/// What a band's key has in its upper half; an exact key there is no band's but by chance, once in 2^64.
const NEAR: u128 = 0x6e65_6172_6475_706c << 64;

/// Marks every document that has a key in common with one of a lower number. `keys` calls its argument with all `documents`
/// in order; it is called once. `memory` bounds the keys that are in memory at a time, the others lie in `scratch`.
pub(crate) fn search(
    documents: u64,
    entries: u64,
    memory: u64,
    scratch: &Path,
    keys: impl FnOnce(&mut TakeKeys<'_>) -> Result<()>,
) -> Result<Duplicates> {
    let mut found = Duplicates { exact: Marks::new(documents), near: Marks::new(documents) };
    // An entry in memory is as large as on the disk, but for alignment: 32 bytes.
    let buckets = (entries * size_of::<Entry>() as u64).div_ceil(memory.max(1)).clamp(1, BUCKETS_MAX);
    let mut sorter = Sorter::create(buckets, scratch)?;
    let mut document = 0;
    keys(&mut |exact, near| {
        if let Some(exact) = exact {
            sorter.push((exact, document))?;
        }
        for (band, &key) in (0_u128..).zip(near) {
            // Bands are told apart by their number.
            sorter.push((NEAR.wrapping_add(band << 64) | u128::from(key), document))?;
        }
        document += 1;
        Ok(())
    })?;
    assert_eq!(document, documents, "all documents were named");
    sorter.each_bucket(|bucket| {
        bucket.par_sort_unstable();
        for &[(before, _), (key, document)] in bucket.array_windows() {
            if before == key {
                let near = (key >> 64).wrapping_sub(NEAR >> 64) < 4096;
                if near { found.near.set(document) } else { found.exact.set(document) }
            }
        }
    })?;
    Ok(found)
}

/// Entries in memory, or spread over files by their keys.
enum Sorter {
    Memory(Vec<Entry>),
    Disk(Vec<Bucket>),
}

struct Bucket {
    path: PathBuf,
    file: BufWriter<File>,
    entries: u64,
}

impl Sorter {
    fn create(buckets: u64, scratch: &Path) -> Result<Self> {
        if buckets == 1 {
            return Ok(Self::Memory(Vec::new()));
        }
        let create = |number| {
            let path = scratch.join(format!(".keys-{number:03}.partial"));
            let file = File::create(&path).map_err(Error::io(&path, "create"))?;
            Ok(Bucket { path, file: BufWriter::with_capacity(1 << 16, file), entries: 0 })
        };
        (0..buckets).map(create).collect::<Result<_>>().map(Self::Disk)
    }

    fn push(&mut self, (key, document): Entry) -> Result<()> {
        match self {
            Self::Memory(entries) => entries.push((key, document)),
            Self::Disk(buckets) => {
                // The lower half of a key is evenly spread, whichever kind it is of.
                let bucket = ((u128::from(key as u64) * buckets.len() as u128) >> 64) as usize;
                let bucket = &mut buckets[bucket];
                let written = bucket.file.write_all(&key.to_le_bytes());
                let written = written.and_then(|()| bucket.file.write_all(&document.to_le_bytes()));
                written.map_err(Error::io(&bucket.path, "write"))?;
                bucket.entries += 1;
            }
        }
        Ok(())
    }

    fn each_bucket(self, mut take: impl FnMut(&mut [Entry])) -> Result<()> {
        let mut buckets = match self {
            Self::Memory(mut entries) => {
                take(&mut entries);
                return Ok(());
            }
            Self::Disk(buckets) => buckets,
        };
        for bucket in &mut buckets {
            bucket.file.flush().map_err(Error::io(&bucket.path, "write"))?;
            take(&mut bucket.read()?);
        }
        Ok(())
    }
}

impl Bucket {
    fn read(&self) -> Result<Vec<Entry>> {
        let file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut entry = [0; ENTRY_BYTES as usize];
        let mut entries = Vec::with_capacity(self.entries as usize);
        for _ in 0..self.entries {
            file.read_exact(&mut entry).map_err(Error::io(&self.path, "read"))?;
            let (key, document) = entry.split_at(16);
            entries.push((
                u128::from_le_bytes(key.try_into().expect("sixteen bytes")),
                u64::from_le_bytes(document.try_into().expect("eight bytes")),
            ));
        }
        Ok(entries)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
