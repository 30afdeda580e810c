//! The mathematics of the papers, once: configuration, MLA, DeepSeekMoE, MTP, YaRN.
//!
//! A [`Config`] (Hugging Face's `config.json`, field for field) and a checkpoint become a
//! [`Model`]: packed weights that everybody reads. [`Model::forward`] takes the next tokens of
//! any number of sequences, writes their latents to a [`LatentCache`], and returns logits. Read it
//! top-down: `transformer.rs` (the pass), `mla.rs` (attention in both forms, and when which),
//! `moe.rs` (experts), `mtp.rs`; `config/` (fields and what they mean), `manifest.rs` (every
//! tensor a configuration has), `load/` (checkpoint to packed weights, held as `storage.rs` says), `packed_cache/`
//! (the same weights mapped at the next start), `accounting/` (parameters, bytes and operations, counted from the configuration alone), `synthesize/`
//! (random checkpoints of any configuration), `export.rs` (GGUF files that llama.cpp loads), `quantize/` (a
//! checkpoint with its matrices in blocks) and `importance.rs` (which columns matter to it).
//!
//! Paper symbols, HF's names and ours are side by side in `docs/glossary.md`.
//!
//! **Invariant:** knows no request, no clock and no money; text never appears.
//!
//! **Invariant:** one equation stands in one place; where serving needs a second form, it stands
//! beside the first and a test demands equality.
//!
//! **Invariant:** everything from outside is checked at load; a forward pass re-checks only what
//! its caller chose (tokens, lengths).
#![forbid(unsafe_code)]

pub mod accounting;
mod batch;
mod cache;
pub mod config;
pub mod differentiable;
mod error;
pub mod export;
mod importance;
mod load;
pub mod manifest;
mod mla;
mod moe;
mod mtp;
mod observe;
mod packed_cache;
pub mod presets;
pub mod quantize;
mod storage;
pub mod synthesize;
mod transformer;
mod weights;
mod workspace;

pub use batch::{LogitRows, Segment};
pub use cache::{LatentCache, Sequence};
pub use config::Config;
pub use error::{Error, Result};
pub use importance::{Importance, Recorder};
pub use load::{LoadOptions, Progress};
pub use mla::{AttentionForm, cheaper_form};
pub use mtp::MtpSegment;
pub use observe::{AttentionInputs, ExpertInputs, FeedForwardInputs, Observed, Observer, Routing};
pub use packed_cache::{CacheOutcome, CacheUse};
pub use storage::Storage;
pub use transformer::{ForwardOptions, Model};
pub use workspace::Workspace;
