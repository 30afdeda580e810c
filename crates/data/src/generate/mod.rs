//! Text that is made or arranged here: arithmetic worked step by step, and poems as conversations.
//!
//! Everything is a pure function of its arguments and a seed. Example number `i` does not depend on how many others
//! are asked for, and a split into training and held-out examples is by a hash of what the example asks, so that it
//! is the same in every run.

pub mod arithmetic;
mod draw;
pub mod poems;

use serde::Serialize;

/// Which side of the split an example lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// For training.
    Train,
    /// Never in training: for evaluation.
    HeldOut,
}

/// One turn of an example, in the form that chat templates take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// `user` or `assistant`.
    pub role: &'static str,
    /// The text; of an assistant that reasons, `<think>reasoning</think>answer`.
    pub content: String,
}

/// A question and its answer.
fn exchange(question: String, answer: String) -> Vec<Turn> {
    vec![Turn { role: "user", content: question }, Turn { role: "assistant", content: answer }]
}

/// Spreads the bits of `value` (the finalizer of splitmix64): equal inputs, equal outputs, in every version.
fn scramble(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
