//! Sequences per step.

use serde::{Deserialize, Serialize};

/// How much text a step sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Sequences per step.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Sequences computed at a time; gradients of several add up to one step. All at once if not given.
    pub micro_batch: Option<usize>,
    /// Fewer sequences in the beginning (V2: 2304 to 9216 over the first 225 billion tokens).
    pub ramp: Option<Ramp>,
}

/// From few sequences per step to many, evenly over tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Sequences of the first step.
    pub from: usize,
    /// Tokens after which the full number is reached.
    pub over_tokens: u64,
}

impl Batch {
    /// Sequences computed at a time.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch.unwrap_or_else(|| self.ramp.as_ref().map_or(self.sequences, |ramp| ramp.from))
    }

    /// Micro-batches of a step before which `tokens` have been seen.
    pub fn micro_batches(&self, tokens: u64) -> usize {
        let micro = self.micro_batch();
        let sequences = match &self.ramp {
            Some(ramp) if tokens < ramp.over_tokens => {
                let share = tokens as f64 / ramp.over_tokens as f64;
                ramp.from + ((self.sequences - ramp.from) as f64 * share) as usize
            }
            _ => self.sequences,
        };
        (sequences / micro).max(1)
    }

    /// Tokens of a step before which `tokens` have been seen.
    pub fn step_tokens(&self, tokens: u64) -> u64 {
        (self.micro_batches(tokens) * self.micro_batch() * self.seq_len) as u64
    }

    /// Steps until `total` tokens have been seen, and how many those steps see.
    pub fn steps_for(&self, total: u64) -> (u64, u64) {
        let (mut steps, mut tokens) = (0, 0);
        while let Some(ramp) = &self.ramp
            && tokens < ramp.over_tokens.min(total)
        {
            tokens += self.step_tokens(tokens);
            steps += 1;
        }
        let full = self.step_tokens(u64::MAX);
        let rest = total.saturating_sub(tokens).div_ceil(full);
        (steps + rest, tokens + rest * full)
    }

    /// Tokens that `steps` steps see.
    pub fn tokens_of(&self, steps: u64) -> u64 {
        let (mut step, mut tokens) = (0, 0);
        while let Some(ramp) = &self.ramp
            && step < steps
            && tokens < ramp.over_tokens
        {
            tokens += self.step_tokens(tokens);
            step += 1;
        }
        tokens + (steps - step) * self.step_tokens(u64::MAX)
    }
}
