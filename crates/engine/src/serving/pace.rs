//! How many tokens of prompts may join a step, so that those who read an answer do not wait too long.

use std::time::Duration;

/// Prompts get on by so many tokens a step, however slow the machine.
const LEAST: usize = 4;

/// And by so many where decoding alone takes longer than was asked for: the bound is lost, whatever prompts do.
const LEAST_WHEN_LATE: usize = 16;

/// Weight of the newest step in the running means.
const NEWEST: f64 = 0.3;

/// Learns what decoding and prompts cost, from the steps that ran.
///
/// A token costs more in a small piece of a prompt than in a large one: few tokens read nearly as many experts. So steps that
/// only read prompts, in large pieces, say little about those beside decoding, and are asked only before the first of these.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    latency: f64,
    /// Seconds of a step that decodes only; `None` before the first.
    decode: Option<f64>,
    /// Seconds per token of a prompt beside it.
    beside: Option<f64>,
    /// Seconds per token in steps of prompts only.
    alone: Option<f64>,
}

impl Pace {
    pub(super) fn new(inter_token_latency: Duration) -> Self {
        Self { latency: inter_token_latency.as_secs_f64(), decode: None, beside: None, alone: None }
    }

    /// Tokens of prompts for the next step, `most` if nobody waits for the next token of an answer.
    pub(super) fn prompt_tokens(&self, decoding: usize, most: usize) -> usize {
        let token = self.beside.or(self.alone.map(|alone| 2.0 * alone));
        let (Some(token), true) = (token, decoding > 0) else { return most };
        let left = self.latency - self.decode.unwrap_or(0.0);
        let least = if left > 0.0 { LEAST } else { LEAST_WHEN_LATE };
        ((left / token) as usize).clamp(least.min(most), most)
    }

    /// A step of so many sequences that decoded and tokens of prompts took `seconds`.
    pub(super) fn record(&mut self, decoding: usize, prompt_tokens: usize, seconds: f64) {
        let towards = |mean: &mut Option<f64>, value: f64| {
            *mean = Some(mean.map_or(value, |mean| mean + NEWEST * (value - mean)));
        };
        match (decoding, prompt_tokens) {
            (0, 0) => {}
            (_, 0) => towards(&mut self.decode, seconds),
            (0, tokens) => towards(&mut self.alone, seconds / tokens as f64),
            (_, tokens) => {
                let prompts = (seconds - self.decode.unwrap_or(0.0)).max(1e-7);
                towards(&mut self.beside, prompts / tokens as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_as_long_as_was_asked_for() {
        let mut pace = Pace::new(Duration::from_millis(200));
        assert_eq!(pace.prompt_tokens(3, 512), 512, "nothing is known yet");
        pace.record(0, 512, 1.024);
        pace.record(4, 0, 0.1);
        assert_eq!(pace.prompt_tokens(4, 512), 25, "small pieces cost more than large ones");
        assert_eq!(pace.prompt_tokens(0, 512), 512, "nobody waits");
        pace.record(4, 25, 0.225);
        assert_eq!(pace.prompt_tokens(4, 512), 20, "slower than thought");
        pace.record(0, 512, 0.2);
        assert_eq!(pace.prompt_tokens(4, 512), 20, "what large pieces cost is another question");
        for _ in 0..30 {
            pace.record(4, 20, 1.1);
        }
        assert_eq!(pace.prompt_tokens(4, 512), LEAST, "never none");
        assert_eq!(pace.prompt_tokens(4, 2), 2);
        for _ in 0..30 {
            pace.record(16, 0, 0.4);
        }
        assert_eq!(pace.prompt_tokens(4, 512), LEAST_WHEN_LATE, "decoding is late by itself");
        assert_eq!(pace.prompt_tokens(4, 8), 8);
    }
}
