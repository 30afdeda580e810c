//! Small datasets for this crate's tests.

use crate::{Dataset, DatasetWriter};
use std::path::{Path, PathBuf};

/// A tokenizer of 512 ids.
pub(crate) fn tokenizer_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-v3")
}

/// A document whose tokens can be told apart from its neighbours'.
pub(crate) fn document(index: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|at| (index * 31 + at * 7) % 500).collect()
}

/// A dataset of `documents`, of which every fifth is for validation.
pub(crate) fn dataset(directory: &Path, documents: &[Vec<u32>], tokens_per_shard: u64) -> Dataset {
    let mut writer =
        DatasetWriter::create(directory, &tokenizer_directory(), false, tokens_per_shard).unwrap();
    for (index, tokens) in documents.iter().enumerate() {
        writer.append(index % 5 == 4, tokens, None, tokens.len() as u64 * 3).unwrap();
    }
    writer.finish(Vec::new()).unwrap()
}
