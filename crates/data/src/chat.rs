//! Conversations become documents whose answers are to be learnt: the data of supervised fine-tuning.
//!
//! Input is JSONL, one conversation a line: `{"messages": [{"role", "content", "reasoning_content"?}, …]}`, as chat
//! templates take them. The template writes everything but the answers: an answer is `<think>`, reasoning, `</think>`,
//! text, eos, of which the model learns every token, and of the rest none. An assistant's `content` may hold its
//! reasoning itself, as `<think>…</think>answer`.

mod encode;
mod prepare;
#[cfg(test)]
mod tests;

pub use encode::{ChatEncoder, ChatExample};
pub use prepare::{ChatOptions, ChatReport, prepare_chat};
