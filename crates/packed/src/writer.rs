//! One packed file, streamed.

use crate::layout::{ALIGNMENT, CHUNK, HEADER, Header, TABLE_BYTES_MAX, Table, TableEntry, align};
use crate::partial::{Partial, directory_of};
use crate::{Error, Key, Result, checksum, space};
use serde::Serialize;
use std::collections::HashSet;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};

/// How much a packed file may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that are expected: free space for as many is asked for before the first is written. An
    /// estimate may be off to either side.
    pub planned_bytes: u64,
    /// Bytes that must stay free on the disk after those: a cache is not worth a full disk.
    pub spare_bytes: u64,
    /// The largest file allowed.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// Nothing planned, 1 GiB to spare, any size.
    fn default() -> Self {
        Self { planned_bytes: 0, spare_bytes: 1 << 30, max_bytes: u64::MAX }
    }
}

/// Writes a packed file, entry after entry. It appears under its name when it is complete and on the disk;
/// dropped before [`Writer::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    key: Key,
    limits: Limits,
    /// `None` after an error: what is in the file is no longer known.
    partial: Option<Partial>,
    /// What comes behind the last whole chunk. The header's place is in the first.
    buffer: Vec<u8>,
    /// Bytes so far, header and buffer among them.
    position: u64,
    checksums: Vec<u64>,
    entries: Vec<TableEntry>,
    names: HashSet<String>,
}

impl Writer {
    /// Begins the file `path`, whose directory is made if it is not there. A file of that name stays until
    /// [`Writer::finish`] replaces it.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::OverLimit`], or I/O: the caller goes on without a cache.
    pub fn create(path: &Path, key: &Key, limits: Limits) -> Result<Self> {
        if limits.planned_bytes > limits.max_bytes {
            let (limit, needed) = (limits.max_bytes, limits.planned_bytes);
            return Err(Error::OverLimit { path: path.to_owned(), limit, needed });
        }
        let directory = directory_of(path);
        fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        let needed = limits.planned_bytes.saturating_add(limits.spare_bytes);
        if let Some(available) = space::available(directory).filter(|&available| available < needed) {
            return Err(Error::NoSpace { path: path.to_owned(), needed, available });
        }
        let mut buffer = Vec::with_capacity(CHUNK);
        buffer.resize(HEADER, 0);
        Ok(Self {
            path: path.to_owned(),
            key: key.clone(),
            limits,
            partial: Some(Partial::create(path)?),
            buffer,
            position: HEADER as u64,
            checksums: Vec::new(),
            entries: Vec::new(),
            names: HashSet::new(),
        })
    }

    /// [`Writer::create`] in the first of `places` where it succeeds.
    ///
    /// # Errors
    /// [`Error::NoPlace`], with what stood in the way in each of them.
    pub fn create_in(places: &[PathBuf], key: &Key, limits: Limits) -> Result<Self> {
        let mut tried = Vec::new();
        for path in places {
            match Self::create(path, key, limits) {
                Ok(writer) => return Ok(writer),
                Err(error) => tried.push(error),
            }
        }
        Err(Error::NoPlace { tried })
    }

    /// Where the file will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an entry of `bytes` and what there is to say about it.
    ///
    /// # Errors
    /// As [`Writer::begin`] and [`Writer::write`].
    pub fn append(&mut self, name: &str, meta: &impl Serialize, bytes: &[u8]) -> Result<()> {
        self.begin(name, meta)?;
        self.write(bytes)
    }

    /// Begins an entry, which ends where the next begins. `meta` is kept as JSON and should be short: a
    /// format's name, rows, columns.
    ///
    /// # Errors
    /// [`Error::DuplicateEntry`], [`Error::Meta`], or as [`Writer::write`].
    pub fn begin(&mut self, name: &str, meta: &impl Serialize) -> Result<()> {
        let path = || self.path.clone();
        if self.names.contains(name) {
            return Err(Error::DuplicateEntry { path: path(), name: name.to_owned() });
        }
        let meta = serde_json::to_string(meta).map_err(|source| Error::Meta {
            path: path(),
            name: name.to_owned(),
            source,
        })?;
        self.pad()?;
        self.names.insert(name.to_owned());
        self.entries.push(TableEntry { name: name.to_owned(), start: self.position, length: 0, meta });
        Ok(())
    }

    /// Adds `bytes` to the entry begun last.
    ///
    /// # Errors
    /// [`Error::NoEntry`] before the first, [`Error::NoSpace`], [`Error::OverLimit`], I/O; after any of the
    /// last three, and ever after, [`Error::GivenUp`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(entry) = self.entries.last_mut() else {
            return Err(Error::NoEntry { path: self.path.clone() });
        };
        entry.length += bytes.len() as u64;
        self.put(bytes)
    }

    /// Completes the file and puts it in its place, on the disk.
    ///
    /// The content of the source goes into it, and is computed on `threads` threads if nobody did so before
    /// ([`crate::Source::contents`]).
    ///
    /// # Errors
    /// [`Error::SourceChanged`] if a source file looks different from when it was first looked at: what was
    /// packed may be of neither state. [`Error::TableTooLarge`], no space, or I/O.
    pub fn finish(mut self, threads: NonZero<usize>) -> Result<()> {
        let contents = self.key.source.contents(threads)?.to_vec();
        self.key.source.unchanged()?;
        self.pad()?;
        self.flush()?;
        let table = Table {
            layout: std::mem::take(&mut self.key.layout),
            options: std::mem::take(&mut self.key.options),
            contents,
            settled: self.key.source.settled(),
            files: self.key.source.stamps().to_vec(),
            entries: std::mem::take(&mut self.entries),
        };
        let mut tail: Vec<u8> = self.checksums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let checksums = tail.len();
        serde_json::to_writer(&mut tail, &table).expect("strings, numbers and JSON values are always JSON");
        let (limit, got) = (TABLE_BYTES_MAX as u64, (tail.len() - checksums) as u64);
        if got > limit {
            return Err(Error::TableTooLarge { path: self.path, limit, got });
        }
        let header = Header {
            data_end: self.position,
            file_length: self.position + tail.len() as u64,
            tail_hash: checksum::hash128(&tail),
        };
        self.attempt(tail.len(), |partial| {
            partial.file().write_all(&tail)?;
            partial.file().seek(SeekFrom::Start(0))?;
            partial.file().write_all(&header.encode())
        })?;
        match self.partial.take() {
            Some(partial) => partial.publish(),
            None => Err(Error::GivenUp { path: self.path }),
        }
    }

    /// Zeroes up to where an entry may begin.
    fn pad(&mut self) -> Result<()> {
        let missing = align(self.position).unwrap_or(self.position) - self.position;
        self.put(&[0; ALIGNMENT][..missing as usize])
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.position += bytes.len() as u64;
        if self.position > self.limits.max_bytes {
            self.partial = None;
            let (path, limit) = (self.path.clone(), self.limits.max_bytes);
            return Err(Error::OverLimit { path, limit, needed: self.position });
        }
        while !bytes.is_empty() {
            if self.buffer.is_empty()
                && let Some((chunk, rest)) = bytes.split_at_checked(CHUNK)
            {
                self.write_chunk(chunk)?;
                bytes = rest;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == CHUNK {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Writes what is in the buffer: a whole chunk, or the last.
    fn flush(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = if buffer.is_empty() { Ok(()) } else { self.write_chunk(&buffer) };
        buffer.clear();
        self.buffer = buffer;
        result
    }

    /// Writes the chunk that comes next in one piece: see [`CHUNK`].
    fn write_chunk(&mut self, chunk: &[u8]) -> Result<()> {
        let unhashed = if self.checksums.is_empty() { HEADER } else { 0 };
        self.checksums.push(checksum::hash64(&chunk[unhashed..]));
        self.attempt(chunk.len(), |partial| partial.file().write_all(chunk))
    }

    /// Gives up the file if `act`, which writes `bytes`, fails.
    fn attempt(&mut self, bytes: usize, act: impl FnOnce(&mut Partial) -> std::io::Result<()>) -> Result<()> {
        let Some(partial) = &mut self.partial else {
            return Err(Error::GivenUp { path: self.path.clone() });
        };
        act(partial).map_err(|source| {
            self.partial = None;
            space::write_error(&self.path, bytes as u64, source)
        })
    }
}
