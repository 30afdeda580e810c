//! `X.packed.seen`: files that look different from when the cache X was made, but were read and have the
//! same content.
//!
//! It stands beside the cache and not in it, for a cache that may be mapped is never written. It is a hint:
//! without it, or with a damaged one, the source is read again.

use crate::partial::Partial;
use crate::source::{ContentHash, Source, Stamp};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// 91,000 stamps would fit; a checkpoint has some hundred files.
const BYTES_MAX: u64 = 16 << 20;

/// Files and what was found in them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    contents: Vec<ContentHash>,
    files: Vec<Stamp>,
}

impl Seen {
    /// What stands beside the cache `packed`, if anything readable does.
    pub(crate) fn read(packed: &Path) -> Option<Self> {
        let path = beside(packed);
        fs::metadata(&path).ok().filter(|metadata| metadata.is_file() && metadata.len() <= BYTES_MAX)?;
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whether `source` as it looks now was seen to have `contents`.
    pub(crate) fn vouches(&self, source: &Source, contents: &[ContentHash]) -> bool {
        self.contents == contents && self.files == source.stamps()
    }

    /// Remembers beside the cache `packed` that `source` has `contents`.
    pub(crate) fn write(packed: &Path, source: &Source, contents: Vec<ContentHash>) -> Result<()> {
        let path = beside(packed);
        let seen = Self { contents, files: source.stamps().to_vec() };
        let bytes = serde_json::to_vec(&seen).expect("strings and numbers are always JSON");
        let mut partial = Partial::create(&path)?;
        partial.file().write_all(&bytes).map_err(Error::io(&path, "write"))?;
        partial.publish()
    }
}

fn beside(packed: &Path) -> PathBuf {
    let mut path = packed.as_os_str().to_owned();
    path.push(".seen");
    PathBuf::from(path)
}
