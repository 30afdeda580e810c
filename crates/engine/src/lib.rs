//! Sequences of tokens become more tokens.
//!
//! The engine is `step()`: schedule → run → postprocess. This crate holds the postprocessing half, which
//! needs no model: one row of logits becomes one token, and token ids become text that is safe to show.
//!
//! ```text
//! logits [vocab_size] ── Sampler ──▶ token id ── FinishRule ──▶ end of the answer?
//!                                       │
//!                                       └── TextAssembler ──▶ text to show, or a stop string found
//!                                           (Detokenize → StopChecker)
//! ```
//!
//! - [`SamplingParams`] says how to choose; [`SamplingParams::validate`] is the one door, nothing behind it
//!   re-checks.
//! - [`Sampler`] chooses. Its order of operations stands in its documentation and nowhere else.
//! - [`FinishRule`] ends a sequence by token id or by length, [`StopChecker`] by text.
//! - [`TextAssembler`] joins a streaming detokenizer ([`Detokenize`]) and the stop checker.
//!
//! **Invariant:** same logits, parameters and seed give the same tokens, whatever the number of threads and
//! however the text is cut into pieces.
//!
//! **Invariant:** no part of a stop string that ended the answer, and no half character, is ever emitted.
//!
//! **Invariant:** never sees HTTP, files or a clock, and never panics on logits or parameters from outside.

#![forbid(unsafe_code)]

mod assemble;
mod candidates;
mod error;
mod finish;
mod params;
mod penalties;
mod sampler;
mod softmax;
mod stop;

#[cfg(test)]
mod reference;

pub use assemble::{Detokenize, TextAssembler};
pub use error::{Error, Result};
pub use finish::{FinishReason, FinishRule};
pub use params::SamplingParams;
pub use sampler::{Sampled, Sampler};
pub use stop::{StopChecker, TextPiece};
