//! What a generation tells while it runs, and what it returns.

use std::time::Duration;

use crate::finish::FinishReason;

/// One token of the answer and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub token_id: u32,
    /// Natural logarithm of its probability under the model's raw distribution.
    pub logprob: f32,
    /// The most likely tokens with theirs, best first; as many as
    /// [`SamplingParams::logprobs`](crate::SamplingParams::logprobs) asks for.
    pub top: Vec<(u32, f32)>,
}

/// Something that happened on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// This many tokens of the prompt are in the cache; reported before the first piece too.
    Prefill {
        /// Tokens in the cache.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was chosen.
    Token(&'a TokenLogprobs),
    /// Text that is safe to show.
    Text(&'a str),
}

/// Where the time of a generation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Running the part of the prompt that was not cached.
    pub prefill: Duration,
    /// Everything after: choosing tokens and running all but the last of them.
    pub decode: Duration,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text, without the token or string that ended it; `None` without a tokenizer.
    pub text: Option<String>,
    /// Every token the model produced, the one that ended the answer included, with its probability.
    pub tokens: Vec<TokenLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Index of the stop string that ended it, if one did.
    pub stop: Option<usize>,
    /// With this seed the answer can be repeated.
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were still cached from before.
    pub cached_tokens: usize,
    /// Durations.
    pub timings: Timings,
}

impl Completion {
    /// The answer's token ids.
    pub fn token_ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.token_id).collect()
    }

    /// Prompt tokens computed per second; `None` if nothing was measured.
    pub fn prefill_tokens_per_second(&self) -> Option<f64> {
        rate(self.prompt_tokens - self.cached_tokens, self.timings.prefill)
    }

    /// Answer tokens per second after the first, which the prompt's pass paid for; `None` if there are fewer
    /// than two.
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        rate(self.tokens.len().saturating_sub(1), self.timings.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}
