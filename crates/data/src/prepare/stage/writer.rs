//! A stage that is being written.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use twox_hash::xxhash3_128::Hasher;

use super::{IDS_MAGIC, INDEX_MAGIC, Kept, Summary};
use crate::prepare::counts::Counts;
use crate::publish::Unfinished;
use crate::shards::append_tokens;
use crate::{Error, Result};

const BUFFER: usize = 1 << 18;

/// Writes the two files of a stage; dropped before [`Self::finish`], it leaves nothing.
pub(crate) struct StageWriter {
    ids: Part,
    index: Part,
    hasher: Hasher,
    token_bytes: usize,
    documents: u64,
    bands: usize,
    tokens: u64,
    buffer: Vec<u8>,
}

struct Part {
    path: PathBuf,
    unfinished: Unfinished,
}

impl Part {
    fn create(path: PathBuf) -> Result<Self> {
        Ok(Self { unfinished: Unfinished::create(&path)?, path })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.unfinished.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }
}

impl StageWriter {
    /// Begins the stage `name` in `directory`.
    pub(crate) fn create(directory: &Path, name: &str, token_bytes: usize, bands: usize) -> Result<Self> {
        let mut ids = Part::create(directory.join(format!("{name}.ids")))?;
        ids.write(IDS_MAGIC)?;
        let index = Part::create(directory.join(format!("{name}.index")))?;
        let (hasher, buffer) = (Hasher::new(), Vec::with_capacity(BUFFER));
        Ok(Self { ids, index, hasher, token_bytes, documents: 0, bands, tokens: 0, buffer })
    }

    /// Adds documents: their ids one after the other, and the keys of their bands.
    pub(crate) fn append(&mut self, kept: &[Kept], ids: &[u32], keys: &[u64]) -> Result<()> {
        assert_eq!(keys.len(), kept.len() * self.bands, "a key for each band");
        for ids in ids.chunks(BUFFER / 4) {
            self.buffer.clear();
            append_tokens(&mut self.buffer, ids, self.token_bytes);
            self.ids.write(&self.buffer)?;
        }
        self.buffer.clear();
        for (number, document) in kept.iter().enumerate() {
            self.buffer.extend(document.hash.to_le_bytes());
            self.buffer.extend(self.tokens.to_le_bytes());
            self.buffer.extend(document.tokens.to_le_bytes());
            self.buffer.extend(document.text_bytes.to_le_bytes());
            let keys = &keys[number * self.bands..][..self.bands];
            self.buffer.extend(keys.iter().flat_map(|key| key.to_le_bytes()));
            self.tokens += u64::from(document.tokens);
        }
        self.documents += kept.len() as u64;
        self.hasher.write(&self.buffer);
        self.index.write(&self.buffer)
    }

    /// Publishes the stage.
    pub(crate) fn finish(mut self, key: String, counts: Counts, work_seconds: f64) -> Result<()> {
        let (tokens, token_bytes) = (self.tokens, self.token_bytes);
        let summary = Summary { key, tokens, token_bytes, counts, work_seconds };
        let json = serde_json::to_vec(&summary).expect("names and numbers become JSON");
        self.hasher.write(&json);
        let mut end = BufWriter::new(&mut self.index.unfinished.file);
        let written = end
            .write_all(&json)
            .and_then(|()| end.write_all(&self.documents.to_le_bytes()))
            .and_then(|()| end.write_all(&(self.bands as u64).to_le_bytes()))
            .and_then(|()| end.write_all(&(json.len() as u64).to_le_bytes()))
            .and_then(|()| end.write_all(&self.hasher.finish_128().to_le_bytes()))
            .and_then(|()| end.write_all(INDEX_MAGIC))
            .and_then(|()| end.flush());
        written.map_err(Error::io(&self.index.path, "write"))?;
        drop(end);
        self.ids.unfinished.publish()?;
        self.index.unfinished.publish()
    }
}
