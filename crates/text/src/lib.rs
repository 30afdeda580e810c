//! Words: tokenizer, chat template, streaming detokenization, reasoning.
//!
//! A model maps token ids to token ids. This crate is everything between those ids and the text that
//! people read and write, each part one module:
//!
//! - [`Tokenizer`] encodes and decodes exactly as Hugging Face does, from a model folder's
//!   `tokenizer.json` and `tokenizer_config.json` ([`TokenizerConfig`]);
//! - [`GgufVocabulary`] is the same in the form of GGUF metadata;
//! - [`BulkTokenizer`] does it for corpora, and [`BpeTraining`] makes a tokenizer of one's own;
//! - [`StreamDecoder`] turns ids into text one at a time, as they are sampled;
//! - [`ChatTemplate`] renders [`Message`]s into the prompt that the model was trained on;
//! - [`encode_chat`] makes ids of them, in which nobody's words can pose as control tokens, and [`encode_fim`]
//!   of the two sides of a gap in code;
//! - [`ReasoningSplitter`] separates `<think> … </think>` from the answer while the text streams;
//! - [`ToolCallParser`] takes tool calls out of it, and [`tool_grammar`] keeps the model to their form;
//! - [`GenerationConfig`] is what the model's authors recommend for sampling.
//!
//! ```text
//! messages -> ChatTemplate -> prompt -> Tokenizer -> ids -> (the model) -> ids
//!                                                                          |
//!   reasoning, answer, calls <- ToolCallParser <- ReasoningSplitter <- StreamDecoder
//! ```
//!
//! **Invariant:** knows nothing of weights, tensors or devices.
//!
//! **Invariant:** every file is untrusted: wrong content is an [`Error`] that names file and field, never
//! a panic, and a chat template runs with a bounded budget of work.
//!
//! **Invariant:** in a prompt of [`encode_chat`], control tokens come from the template alone.
//!
//! **Invariant:** streamed pieces, concatenated, equal the text decoded in one go, and each piece is
//! whole UTF-8 that is never taken back.

#![forbid(unsafe_code)]

mod bulk;
mod byte_level;
mod chat;
mod config;
mod control;
mod error;
mod files;
mod fit;
mod generation_config;
pub mod gguf;
mod json_form;
mod pre_tokenizer;
mod prompt;
mod python;
mod reasoning;
mod stream;
mod template;
mod tokenizer;
mod tool_calls;
mod training;

pub use bulk::{BulkEncoder, BulkTokenizer};
pub use chat::{ChatInput, Message};
pub use config::{NamedTemplate, SpecialTokens, TokenizerConfig};
pub use error::{Error, Result};
pub use fit::fit_vocabulary;
pub use generation_config::GenerationConfig;
pub use gguf::GgufVocabulary;
pub use json_form::with_bounded_white_space;
pub use prompt::{ChatPrompt, encode_chat, encode_fim};
pub use reasoning::{Piece, ReasoningSplitter};
pub use stream::StreamDecoder;
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
pub use tool_calls::{ToolCallFormat, ToolCallParser, ToolChoice, ToolPiece, after_reasoning, tool_grammar};
pub use training::{BpeTraining, Digits, SMALLEST_VOCABULARY, SPECIAL_TOKENS, TrainedTokenizer};
