//! A file's content, unpacked as it is read.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

const BUFFER: usize = 1 << 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
    Xz,
}

const KNOWN: [(Compression, &str, &[u8], &str); 3] = [
    (Compression::Gzip, "gz", &[0x1f, 0x8b], "gzip"),
    (Compression::Zstd, "zst", &[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (Compression::Xz, "xz", &[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
];

/// Opens a file, plain or packed; `read` counts the bytes taken from the disk.
pub(crate) fn open(path: &Path, read: Arc<AtomicU64>) -> Result<Box<dyn Read + Send>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut file = BufReader::with_capacity(BUFFER, Counted { inner: file, read });
    let beginning = file.fill_buf().map_err(Error::io(path, "read"))?;
    let found = KNOWN.iter().find(|(_, _, magic, _)| beginning.starts_with(magic));
    let named = KNOWN.iter().find(|(_, suffix, ..)| suffix_is(path, suffix));
    if let Some((kind, suffix, _, name)) = named
        && found.is_none_or(|(found, ..)| found != kind)
    {
        let reason = format!("its name ends in .{suffix}, but its content is not {name}'s");
        return Err(Error::BadInput { path: path.to_owned(), reason });
    }
    Ok(match found.map(|&(kind, ..)| kind) {
        None => Box::new(file),
        Some(Compression::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Some(Compression::Zstd) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(file);
            let mut decoder = decoder.map_err(Error::io(path, "unpack"))?;
            // Corpora are packed with long windows (zstd --long=31); the default limit refuses them.
            decoder.window_log_max(31).map_err(Error::io(path, "unpack"))?;
            Box::new(decoder)
        }
        Some(Compression::Xz) => Box::new(lzma_rust2::XzReader::new(file, true)),
    })
}

/// The file's name without the suffix of a compression.
pub(super) fn unpacked_name(path: &Path) -> std::path::PathBuf {
    if KNOWN.iter().any(|(_, suffix, ..)| suffix_is(path, suffix)) {
        path.with_extension("")
    } else {
        path.to_owned()
    }
}

fn suffix_is(path: &Path, suffix: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(suffix))
}

/// Tells how much was read.
pub(super) struct Counted<R> {
    pub(super) inner: R,
    pub(super) read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
