//! Opening a packed file: every doubt ends in [`Outcome::Rebuild`].

use crate::layout::{Header, Parts, Table};
use crate::mapping::Mapping;
use crate::seen::Seen;
use crate::{Key, Reason, checksum};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What came of opening a cache.
#[derive(Debug)]
pub enum Outcome {
    /// Mapped, verified, and of the right source, layout and options.
    Ready(Packed),
    /// To be made (again), and why.
    Rebuild(Reason),
}

/// A mapped packed file, every byte of which was what the writer wrote when it was opened.
#[derive(Debug)]
pub struct Packed {
    mapping: Arc<Mapping>,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    source_was_read: bool,
}

/// A named range of the mapping.
#[derive(Debug)]
pub struct Entry {
    name: String,
    meta: String,
    range: Range<usize>,
}

impl Entry {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its bytes lie in [`Packed::mapping`]; the start is a multiple of [`crate::ALIGNMENT`].
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// What the writer said about it.
    ///
    /// # Errors
    /// [`Reason::Entry`] if it is not of this type: the caller makes the cache again.
    pub fn meta<T: DeserializeOwned>(&self) -> Result<T, Reason> {
        serde_json::from_str(&self.meta)
            .map_err(|error| Reason::Entry { name: self.name.clone(), problem: error.to_string() })
    }
}

impl Packed {
    /// Maps `path` and verifies all of it on `threads` threads. Whatever is wrong is a reason to rebuild.
    pub fn open(path: &Path, key: &Key, threads: NonZero<usize>) -> Outcome {
        Self::try_open(path, key, threads).map_or_else(Outcome::Rebuild, Outcome::Ready)
    }

    /// The first of `places` that can be used; else why the first file that is there cannot.
    pub fn open_in(places: &[PathBuf], key: &Key, threads: NonZero<usize>) -> Outcome {
        let mut why = Reason::Missing;
        for path in places {
            match Self::open(path, key, threads) {
                Outcome::Rebuild(reason) if matches!(why, Reason::Missing) => why = reason,
                Outcome::Rebuild(_) => {}
                ready => return ready,
            }
        }
        Outcome::Rebuild(why)
    }

    fn try_open(path: &Path, key: &Key, threads: NonZero<usize>) -> Result<Self, Reason> {
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Reason::Missing,
            _ => Reason::Unreadable { source },
        };
        // Opening something that is no file may wait for ever.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(Reason::NotPacked);
        }
        let file = File::open(path).map_err(unreadable)?;
        let mapping = Mapping::of(&file).map_err(unreadable)?;
        let (table, source_was_read) = judge(mapping.as_ref(), key, || Seen::read(path), threads)?;
        if source_was_read && key.source.settled() {
            // Without this note the source is read again next time.
            let _ = Seen::write(path, &key.source, table.contents.clone());
        }
        let mut packed = Self {
            mapping: Arc::new(mapping),
            entries: Vec::new(),
            by_name: HashMap::new(),
            source_was_read,
        };
        for entry in table.entries {
            // In bounds, since the table was checked against the mapping.
            let range = entry.start as usize..(entry.start + entry.length) as usize;
            if packed.by_name.insert(entry.name.clone(), packed.entries.len()).is_some() {
                let problem = format!("its entry {:?} is there twice", entry.name);
                return Err(Reason::Malformed { problem });
            }
            packed.entries.push(Entry { name: entry.name, meta: entry.meta, range });
        }
        Ok(packed)
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|&index| &self.entries[index])
    }

    /// All entries, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of an entry of this file.
    ///
    /// # Panics
    /// If the entry is of another, longer file.
    pub fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.mapping.as_ref().as_ref()[entry.range.clone()]
    }

    /// The whole file, to be kept together with a range for as long as that is used.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether the source looked different and had to be read to learn that its content is the same.
    pub fn source_was_read(&self) -> bool {
        self.source_was_read
    }
}

/// Whether `bytes` are a whole, undamaged cache of `key`: its table, and whether the source had to be read.
///
/// What is cheap comes first, the source last.
pub(crate) fn judge(
    bytes: &[u8],
    key: &Key,
    seen: impl FnOnce() -> Option<Seen>,
    threads: NonZero<usize>,
) -> Result<(Table, bool), Reason> {
    let header = Header::decode(bytes)?;
    let parts = Parts::find(bytes, &header)?;
    let table = Table::decode(&bytes[parts.table.clone()], parts.data_end)?;
    if table.layout != key.layout {
        return Err(Reason::Layout { expected: key.layout.clone(), got: table.layout });
    }
    if table.options != key.options {
        return Err(Reason::Options { expected: key.options.clone(), got: table.options });
    }
    let (then, now) = (&table.files, key.source.stamps());
    if then.len() != now.len() || then.iter().zip(now).any(|(then, now)| then.name != now.name) {
        return Err(Reason::OtherFiles);
    }
    let changed = |file: usize| Reason::SourceChanged { file: key.source.paths()[file].clone() };
    if let Some(file) = then.iter().zip(now).position(|(then, now)| then.length != now.length) {
        return Err(changed(file));
    }
    let checksums = &bytes[parts.checksums];
    checksum::verify(&bytes[..parts.data_end], checksums, threads)
        .map_err(|range| Reason::Damaged { part: "data", range: range.start as u64..range.end as u64 })?;
    let looks_the_same =
        table.settled && then == now || seen().is_some_and(|seen| seen.vouches(&key.source, &table.contents));
    if !looks_the_same {
        let contents = key.source.contents(threads).map_err(|source| Reason::Source { source })?;
        if let Some(file) = (0..contents.len()).find(|&file| table.contents.get(file) != contents.get(file)) {
            return Err(changed(file));
        }
    }
    Ok((table, !looks_the_same))
}
