//! The files that a cache is made of: how they look, and what is in them.
//!
//! To read tens of gigabytes in order to learn whether they are still the same is what a cache is there to
//! avoid. So the content is hashed when the cache is made, and stands in the cache beside a [`Stamp`] of
//! each file: its size, times and inode. Files that look as they did then have that content. Files that
//! look different (copied, touched, changed) are hashed again, and the hash decides.

use crate::{Error, Result, checksum, parallel};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use twox_hash::xxhash3_128;

/// A file changed less than this before it was looked at may change again without a trace: some file
/// systems count time in steps of two seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// Bytes that one thread reads in order.
const PIECE: u64 = 32 << 20;

/// Bytes between disk cache and hash: small enough to stay in the processor's cache.
const BUFFER: usize = 256 << 10;

/// The content of a file in 128 bits: XXH3-128 over its length and the XXH3-128 of each of its pieces of
/// 32 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash(u128);

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        format!("{:032x}", hash.0)
    }
}

impl TryFrom<String> for ContentHash {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u128::from_str_radix(&text, 16).ok().filter(|_| digits);
        value.map(Self).ok_or("a content hash has 32 hexadecimal digits")
    }
}

/// How a file looks without being read. Times are nanoseconds since 1970; where a system has no such
/// thing, `changed` repeats `modified` and `inode` is 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    /// The last part of its path.
    pub(crate) name: String,
    pub(crate) length: u64,
    modified: i64,
    /// When content or attributes changed last; unlike `modified`, no program can set it.
    changed: i64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::io(path, "look at"))?;
        if !metadata.is_file() {
            return Err(Error::NotRegular { path: path.to_owned() });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (modified, changed, inode) = times_and_inode(&metadata);
        Ok(Self { name, length: metadata.len(), modified, changed, inode })
    }
}

#[cfg(unix)]
fn times_and_inode(metadata: &Metadata) -> (i64, i64, u64) {
    use std::os::unix::fs::MetadataExt;
    let time = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    let modified = time(metadata.mtime(), metadata.mtime_nsec());
    (modified, time(metadata.ctime(), metadata.ctime_nsec()), metadata.ino())
}

#[cfg(not(unix))]
fn times_and_inode(metadata: &Metadata) -> (i64, i64, u64) {
    let modified = metadata.modified().map_or(i64::MAX, nanoseconds);
    (modified, modified, 0)
}

fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The files of a checkpoint, as they looked at one moment. Clones share the content hash once it is known.
#[derive(Clone, Debug)]
pub struct Source(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    paths: Vec<PathBuf>,
    stamps: Vec<Stamp>,
    settled: bool,
    contents: OnceLock<Vec<ContentHash>>,
}

impl Source {
    /// Looks at `files`: every file whose bytes decide what gets packed, in any order. To be called before
    /// the first of them is read, so that a change during loading is noticed.
    ///
    /// # Errors
    /// A file that is not there or no regular file, or no file at all.
    pub fn of(files: &[PathBuf]) -> Result<Self> {
        Self::at(files, SystemTime::now())
    }

    /// [`Source::of`], with the clock showing `now`.
    pub(crate) fn at(files: &[PathBuf], now: SystemTime) -> Result<Self> {
        if files.is_empty() {
            return Err(Error::NoFiles);
        }
        let mut paths = files.to_vec();
        paths.sort();
        let stamps = paths.iter().map(|path| Stamp::of(path)).collect::<Result<Vec<_>>>()?;
        let settled_before = nanoseconds(now.checked_sub(SETTLED).unwrap_or(UNIX_EPOCH));
        let settled = stamps.iter().all(|stamp| stamp.changed < settled_before);
        Ok(Self(Arc::new(Inner { paths, stamps, settled, contents: OnceLock::new() })))
    }

    /// What is in the files, in the order of their paths. They are read once on `threads` threads, at the speed of the disk or at about
    /// half that of memory; later calls, also on clones, answer at once. May run while the checkpoint is
    /// being loaded, so that every byte comes from the disk once.
    ///
    /// # Errors
    /// [`Error::SourceChanged`] if a file no longer looks as it did in [`Source::of`]; I/O.
    pub fn contents(&self, threads: NonZero<usize>) -> Result<&[ContentHash]> {
        if let Some(known) = self.0.contents.get() {
            return Ok(known);
        }
        let lengths = self.0.stamps.iter().map(|stamp| stamp.length);
        let pieces: Vec<(usize, u64)> = lengths
            .enumerate()
            .flat_map(|(file, length)| (0..length.div_ceil(PIECE)).map(move |piece| (file, piece * PIECE)))
            .collect();
        let hashes = parallel::map(pieces.len(), threads, |index| {
            let (file, start) = pieces[index];
            hash_piece(&self.0.paths[file], start)
        })?;
        self.unchanged()?;
        let content = |(file, stamp): (usize, &Stamp)| {
            let mut all = stamp.length.to_le_bytes().to_vec();
            let its = pieces.iter().zip(&hashes).filter(|((of, _), _)| *of == file);
            all.extend(its.flat_map(|(_, hash)| hash.to_le_bytes()));
            ContentHash(checksum::hash128(&all))
        };
        Ok(self.0.contents.get_or_init(|| self.0.stamps.iter().enumerate().map(content).collect()))
    }

    /// Fails with [`Error::SourceChanged`] if a file looks different from how it did in [`Source::of`].
    pub(crate) fn unchanged(&self) -> Result<()> {
        for (path, stamp) in self.0.paths.iter().zip(&self.0.stamps) {
            if Stamp::of(path)? != *stamp {
                return Err(Error::SourceChanged { path: path.clone() });
            }
        }
        Ok(())
    }

    /// The stamps, in the order of the paths.
    pub(crate) fn stamps(&self) -> &[Stamp] {
        &self.0.stamps
    }

    /// Whether the files had been left alone long enough for their stamps to tell every later change.
    pub(crate) fn settled(&self) -> bool {
        self.0.settled
    }

    /// The files, in the order of their paths.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.0.paths
    }
}

/// XXH3-128 of the piece of `path` that begins at `start`.
fn hash_piece(path: &Path, start: u64) -> Result<u128> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    file.seek(SeekFrom::Start(start)).map_err(Error::io(path, "read"))?;
    let mut piece = file.take(PIECE);
    let mut buffer = vec![0; BUFFER];
    let mut hasher = xxhash3_128::Hasher::new();
    loop {
        let read = piece.read(&mut buffer).map_err(Error::io(path, "read"))?;
        if read == 0 {
            return Ok(hasher.finish_128());
        }
        hasher.write(&buffer[..read]);
    }
}
