//! Scores of a model on text.
//!
//! [`perplexity`] asks a model how likely every token of a text is, window by window as the field does it, and
//! sums up: [`Score`] has perplexity, which depends on the tokenizer, and bits per byte, which does not.
//! [`compare`] runs two models over a text and says how far the second is from the first ([`Divergence`]), and
//! where between the layers that begins; [`calibrate`] finds which columns of a model's matrices matter to a text.
//! [`LogitsFile`] writes down everything a model computes on given tokens, so that two implementations can be
//! compared number by number; [`write_gradients`] does the same for training. [`answers`] lets a model answer many
//! prompts at a time, and [`tasks`] has questions whose answers a program can judge.
//!
//! **Invariant:** every token is scored at most once, and only from tokens before it.
//!
//! **Invariant:** logits, the largest thing there is, exist for some rows at a time, whatever the text's length.
//!
//! **Invariant:** reads no files of text, prints nothing.

#![forbid(unsafe_code)]

mod answers;
mod calibrate;
mod compare;
mod document;
mod error;
mod gradients;
mod kl;
mod logits;
mod perplexity;
pub mod tasks;
mod windows;

pub use answers::{Answer, Answering, answers};
pub use calibrate::calibrate;
pub use compare::{Comparison, compare};
pub use document::Document;
pub use error::{Error, Result};
pub use gradients::write_gradients;
pub use kl::{Divergence, LayerErrors};
pub use logits::{Contents, Feeding, Form, LogitsFile, OnTokens};
pub use perplexity::{OnProgress, Score, Windowing, perplexity};
