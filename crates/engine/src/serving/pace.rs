//! How many tokens of prompts may join a step, so that those who read an answer do not wait too long.

use std::time::Duration;

/// However slow the machine, prompts get on by so many tokens a step.
const LEAST: usize = 16;

/// Weight of the newest step in the running means.
const NEWEST: f64 = 0.2;

/// Learns what decoding and prompts cost, from the steps that ran.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    latency: f64,
    /// Seconds of a step that decodes only; `None` before the first.
    decode: Option<f64>,
    /// Seconds per token of a prompt beside it.
    prompt: Option<f64>,
}

impl Pace {
    pub(super) fn new(inter_token_latency: Duration) -> Self {
        Self { latency: inter_token_latency.as_secs_f64(), decode: None, prompt: None }
    }

    /// Tokens of prompts for the next step, `most` if nobody waits for the next token of an answer.
    pub(super) fn prompt_tokens(&self, decoding: usize, most: usize) -> usize {
        let (Some(prompt), true) = (self.prompt, decoding > 0) else { return most };
        let left = self.latency - self.decode.unwrap_or(0.0);
        ((left / prompt) as usize).clamp(LEAST.min(most), most)
    }

    /// A step of so many sequences that decoded and tokens of prompts took `seconds`.
    pub(super) fn record(&mut self, decoding: usize, prompt_tokens: usize, seconds: f64) {
        let towards = |mean: &mut Option<f64>, value: f64| {
            *mean = Some(mean.map_or(value, |mean| mean + NEWEST * (value - mean)));
        };
        match (decoding, prompt_tokens) {
            (0, 0) => {}
            (_, 0) => towards(&mut self.decode, seconds),
            (decoding, tokens) => {
                let beside = if decoding > 0 { self.decode.unwrap_or(0.0) } else { 0.0 };
                towards(&mut self.prompt, (seconds - beside).max(1e-7) / tokens as f64);
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
        assert_eq!(pace.prompt_tokens(4, 512), 50);
        assert_eq!(pace.prompt_tokens(0, 512), 512, "nobody waits");
        pace.record(4, 50, 0.5);
        assert!((16..50).contains(&pace.prompt_tokens(4, 512)), "slower than thought");
        for _ in 0..30 {
            pace.record(16, 0, 0.4);
        }
        assert_eq!(pace.prompt_tokens(4, 512), LEAST, "never none");
        assert_eq!(pace.prompt_tokens(4, 8), 8);
    }
}
