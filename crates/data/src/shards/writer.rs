//! A shard that is being written.

use super::header::{Header, LENGTH};
use super::{ShardEntry, ShardLayout};
use crate::publish::Unfinished;
use crate::{Error, Result};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use twox_hash::xxhash3_128::Hasher;

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;

/// Writes documents to a shard one after the other.
///
/// Tokens stream to the disk; in memory are the documents' starts (eight bytes each) and the mask (a bit per token)
/// until [`ShardWriter::finish`], so a shard should stay below a few hundred million tokens. The file gets its name
/// when it is complete; a writer that is dropped before leaves nothing.
pub struct ShardWriter {
    path: PathBuf,
    unfinished: Unfinished,
    layout: ShardLayout,
    hasher: Hasher,
    buffer: Vec<u8>,
    starts: Vec<u64>,
    mask: Vec<u64>,
    tokens: u64,
    text_bytes: u64,
}

impl std::fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardWriter").field("path", &self.path).field("tokens", &self.tokens).finish()
    }
}

impl ShardWriter {
    /// Begins a shard that will be `path`.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn create(path: &Path, layout: ShardLayout) -> Result<Self> {
        let mut unfinished = Unfinished::create(path)?;
        // Its place is taken now and filled when the counts are known.
        unfinished.file.write_all(&[0; LENGTH]).map_err(Error::io(path, "write"))?;
        Ok(Self {
            path: path.to_owned(),
            unfinished,
            layout,
            hasher: Hasher::new(),
            buffer: Vec::with_capacity(BUFFER + 8),
            starts: Vec::new(),
            mask: Vec::new(),
            tokens: 0,
            text_bytes: 0,
        })
    }

    /// Adds a document of at least one token, control tokens included, which stands for `text_bytes` bytes of text.
    ///
    /// # Errors
    /// A token outside the vocabulary; a full disk.
    ///
    /// # Panics
    /// The layout is masked, or the document is empty.
    pub fn append(&mut self, document: &[u32], text_bytes: u64) -> Result<()> {
        assert!(!self.layout.masked, "a masked shard needs a mask for each document");
        self.push(document, text_bytes)
    }

    /// Adds a document of which the tokens with `learn` true are to be learnt and the others only read.
    ///
    /// # Errors
    /// As [`Self::append`].
    ///
    /// # Panics
    /// The layout is not masked, `learn` is not as long as `document`, or the document is empty.
    pub fn append_masked(&mut self, document: &[u32], learn: &[bool], text_bytes: u64) -> Result<()> {
        assert!(self.layout.masked, "a shard without mask cannot keep one");
        assert_eq!(document.len(), learn.len(), "one flag per token");
        self.mask.resize((self.tokens as usize + learn.len()).div_ceil(64), 0);
        for (at, _) in (self.tokens as usize..).zip(learn).filter(|(_, learn)| **learn) {
            self.mask[at / 64] |= 1 << (at % 64);
        }
        self.push(document, text_bytes)
    }

    fn push(&mut self, document: &[u32], text_bytes: u64) -> Result<()> {
        assert!(!document.is_empty(), "a document has at least one token");
        let vocab_size = self.layout.vocab_size;
        if let Some(&token) = document.iter().find(|&&token| token >= vocab_size) {
            return Err(Error::TokenOutOfRange { path: self.path.clone(), token, vocab_size });
        }
        self.starts.push(self.tokens);
        self.tokens += document.len() as u64;
        self.text_bytes += text_bytes;
        for tokens in document.chunks(BUFFER / 4) {
            append_tokens(&mut self.buffer, tokens, self.layout.token_bytes());
            if self.buffer.len() >= BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.hasher.write(&self.buffer);
        self.unfinished.file.write_all(&self.buffer).map_err(Error::io(&self.path, "write"))?;
        self.buffer.clear();
        Ok(())
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Documents so far.
    pub fn documents(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Completes the shard and puts it in its place.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn finish(mut self) -> Result<ShardEntry> {
        let bytes = self.tokens as usize * self.layout.token_bytes();
        self.buffer.resize(self.buffer.len() + bytes.next_multiple_of(8) - bytes, 0);
        let (starts, mask) = (std::mem::take(&mut self.starts), std::mem::take(&mut self.mask));
        for words in [&starts, &mask] {
            for words in words.chunks(BUFFER / 8) {
                self.buffer.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                self.flush()?;
            }
        }
        self.flush()?;
        let header = Header {
            layout: self.layout,
            tokens: self.tokens,
            documents: starts.len() as u64,
            text_bytes: self.text_bytes,
            checksum: self.hasher.finish_128(),
        };
        let file = &mut self.unfinished.file;
        let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header.to_bytes()));
        written.map_err(Error::io(&self.path, "write"))?;
        self.unfinished.publish()?;
        Ok(ShardEntry {
            file: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            tokens: header.tokens,
            documents: header.documents,
            text_bytes: header.text_bytes,
            checksum: format!("{:032x}", header.checksum),
        })
    }
}

/// Appends token ids of two or four bytes each, little-endian, with one reservation: ids by the million that check for
/// room one by one cost a tenth of `fathom data prepare`.
pub(crate) fn append_tokens(buffer: &mut Vec<u8>, tokens: &[u32], token_bytes: usize) {
    let start = buffer.len();
    buffer.resize(start + tokens.len() * token_bytes, 0);
    if token_bytes == 2 {
        for (place, &token) in buffer[start..].as_chunks_mut().0.iter_mut().zip(tokens) {
            *place = (token as u16).to_le_bytes();
        }
    } else {
        for (place, &token) in buffer[start..].as_chunks_mut().0.iter_mut().zip(tokens) {
            *place = token.to_le_bytes();
        }
    }
}
