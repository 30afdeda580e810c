//! Documents become shuffled, packed token shards, and shards become batches.
//!
//! A prepared **dataset** is a directory: a manifest (`dataset.json`), the tokenizer, and token shards of two
//! splits, `train` and `validation` ([docs/formats/token-shards.md]). [`prepare::prepare`] makes one from raw text
//! as a `data.toml` says, [`prepare_chat`] from conversations whose answers are to be learnt, [`DatasetWriter`] from token
//! ids (or [`ShardWriter`] a single file); [`Dataset::open`] checks and maps it, and [`Loader`] turns its training split
//! into shuffled batches whose position can be saved and restored exactly.
//!
//! ```no_run
//! # use fathom_data::{Dataset, Loader, LoaderOptions, Verify};
//! # fn main() -> fathom_data::Result<()> {
//! let dataset = Dataset::open("data".as_ref(), Verify::Content)?;
//! let mut loader = Loader::new(&dataset, LoaderOptions { batch: 8, seq: 512, seed: 1, shuffle: true, learn_cut_documents: true })?;
//! let batch = loader.next_batch()?; // tokens [8, 513]
//! let position = loader.position(); // goes into the checkpoint
//! loader.seek(&position)?;
//! for batch in dataset.validation_batches(8, 512)? { let batch = batch?; }
//! # Ok(()) }
//! ```
//!
//! **Invariant:** knows no model, no gradient, no network.
//!
//! **Invariant:** a file appears under its final name when it is complete and on the disk, and is never written again.
//!
//! **Invariant:** nothing depends on the number of threads.

#![forbid(unsafe_code)]

mod chat;
mod dataset;
mod error;
pub mod generate;
mod loader;
mod permutation;
pub mod prepare;
mod publish;
mod shards;
#[cfg(test)]
mod test_data;
mod validation;

pub use chat::{ChatEncoder, ChatExample, ChatOptions, ChatReport, prepare_chat};
pub use dataset::{Dataset, DatasetWriter, Manifest, Source, Split, SplitEntry, TokenizerEntry, Verify};
pub use error::{Error, Result};
pub use loader::{Batch, Loader, LoaderOptions, Position};
pub use shards::{Document, ShardEntry, ShardLayout, ShardWriter};
pub use validation::ValidationBatches;
