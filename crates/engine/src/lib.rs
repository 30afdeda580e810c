//! Sequences of tokens become more tokens.
//!
//! A [`Session`] runs one sequence after the other on a model and keeps the latents of the last, so that the
//! next turn of a conversation runs only what is new. What it does with each row of logits needs no model: the
//! row becomes a token, and token ids become text that is safe to show.
//!
//! ```text
//! logits [vocab_size] ── Sampler ──▶ token id ── FinishRule ──▶ end of the answer?
//!                                       │
//!                                       └── TextAssembler ──▶ text to show, or a stop string found
//!                                           (Detokenize → StopChecker)
//! ```
//!
//! - [`Session`] answers a prompt: prefill in pieces, then step by step, with an [`Event`] for everything on the
//!   way, by which the caller can end it; [`Completion`] is the result.
//! - [`Engine`] answers many at a time, on a thread of its own; `serving/` is scheduling, blocks of latents and
//!   shared prefixes, speculation, constraints.
//! - [`Language`] finds a model's tokenizer, chat template and recommended sampling, in a directory or a GGUF
//!   file.
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
//! **Invariant:** never sees HTTP, reads no file but for [`Language`], never panics on logits or parameters from outside, and decides
//! nothing by the clock: a session reads it only to report how long it took.

#![forbid(unsafe_code)]

mod assemble;
mod candidates;
mod completion;
mod defaults;
mod error;
mod finish;
mod language;
mod logprob;
mod params;
mod penalties;
mod sampler;
mod serving;
mod session;
mod softmax;
mod stop;

#[cfg(test)]
mod reference;

pub use assemble::{Detokenize, TextAssembler};
pub use completion::{Completion, Event, Timings, TokenLogprobs};
pub use defaults::eos_token_ids;
pub use error::{Error, Result};
pub use finish::{FinishReason, FinishRule};
pub use language::{
    Language, gguf_generation_config, gguf_generation_entries, gguf_vocabulary, gguf_vocabulary_entries,
};
pub use logprob::logprob;
pub use params::SamplingParams;
pub use sampler::{Sampled, Sampler};
pub use serving::{
    BlockName, Constraint, DiskCache, Engine, EngineOptions, Finished, Grammar, Request, Sink, Statistics,
    Ticket, Update,
};
pub use session::{OnEvent, PREFILL_CHUNK, Session, check_prompt};
pub use stop::{StopChecker, TextPiece};
