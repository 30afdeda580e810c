//! Logit bias and the three penalties: what changes single logits before anything is chosen.

use std::collections::HashMap;

use crate::params::SamplingParams;

/// The changes of one sequence. Costs nothing for tokens that are neither biased nor seen.
#[derive(Debug, Clone)]
pub(crate) struct Penalties {
    logit_bias: Vec<(u32, f32)>,
    repetition_penalty: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
    /// Token id -> occurrences in the answer; 0 for a token that is in the prompt only.
    seen: HashMap<u32, u32>,
}

impl Penalties {
    pub(crate) fn new(params: &SamplingParams, prompt_ids: &[u32]) -> Self {
        let mut penalties = Penalties {
            logit_bias: params.logit_bias.clone(),
            repetition_penalty: params.repetition_penalty,
            frequency_penalty: params.frequency_penalty,
            presence_penalty: params.presence_penalty,
            seen: HashMap::new(),
        };
        // Only the repetition penalty looks at the prompt.
        if penalties.repetition_penalty != 1.0 {
            penalties.seen.extend(prompt_ids.iter().map(|&id| (id, 0)));
        }
        penalties
    }

    /// Counts a token of the answer.
    pub(crate) fn record(&mut self, token: u32) {
        if self.counts() {
            *self.seen.entry(token).or_insert(0) += 1;
        }
    }

    /// Whether [`apply`](Self::apply) would change nothing.
    pub(crate) fn is_identity(&self) -> bool {
        self.logit_bias.is_empty() && (self.seen.is_empty() || !self.counts())
    }

    /// Changes `logits` [vocab_size] in place: bias, then repetition, frequency and presence penalty.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.logit_bias {
            change(&mut logits[token as usize], |logit| logit + bias);
        }
        if !self.counts() {
            return;
        }
        for (&token, &count) in &self.seen {
            change(&mut logits[token as usize], |logit| self.penalized(logit, count));
        }
    }

    fn penalized(&self, logit: f32, count: u32) -> f32 {
        let repeated =
            if logit > 0.0 { logit / self.repetition_penalty } else { logit * self.repetition_penalty };
        let present = if count > 0 { self.presence_penalty } else { 0.0 };
        repeated - self.frequency_penalty * count as f32 - present
    }

    fn counts(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

/// A possible token stays possible: what overflows is held at the ends of the finite range.
fn change(logit: &mut f32, f: impl Fn(f32) -> f32) {
    if *logit > f32::NEG_INFINITY {
        *logit = f(*logit).clamp(f32::MIN, f32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [2.0, -2.0, 0.0, 1.0, f32::NEG_INFINITY, f32::MAX];

    /// The logits after the prompt `[0, 1]` and the answer `[1, 3, 3, 4, 5]`.
    #[track_caller]
    fn check(params: SamplingParams, expected: [f32; 6]) {
        params.validate(LOGITS.len()).unwrap();
        let mut penalties = Penalties::new(&params, &[0, 1]);
        for token in [1, 3, 3, 4, 5] {
            penalties.record(token);
        }
        let mut logits = LOGITS;
        penalties.apply(&mut logits);
        assert_eq!(logits, expected);
        assert_eq!(penalties.is_identity(), logits == LOGITS);
    }

    #[test]
    fn rows() {
        let inf = f32::INFINITY;
        let off = SamplingParams::default();
        check(off.clone(), LOGITS);
        // Over prompt and answer; positive logits are divided, negative multiplied.
        let repetition = SamplingParams { repetition_penalty: 2.0, ..off.clone() };
        check(repetition.clone(), [1.0, -4.0, 0.0, 0.5, -inf, f32::MAX / 2.0]);
        // Below 1 it encourages; what overflows stays finite.
        let encouraging = SamplingParams { repetition_penalty: 0.5, ..off.clone() };
        check(encouraging, [4.0, -1.0, 0.0, 2.0, -inf, f32::MAX]);
        // Over the answer only; once per occurrence.
        let frequency = SamplingParams { frequency_penalty: 0.5, ..off.clone() };
        check(frequency, [2.0, -2.5, 0.0, 0.0, -inf, f32::MAX]);
        // Over the answer only; once.
        let presence = SamplingParams { presence_penalty: -1.5, ..off.clone() };
        check(presence, [2.0, -0.5, 0.0, 2.5, -inf, f32::MAX]);
        let logit_bias = vec![(0, 100.0), (2, -3.0), (4, 100.0)];
        let bias = SamplingParams { logit_bias: logit_bias.clone(), ..off };
        check(bias, [102.0, -2.0, -3.0, 1.0, -inf, f32::MAX]);
        // All together: the bias comes before the repetition penalty, the others after it.
        let all = SamplingParams { logit_bias, frequency_penalty: 0.5, presence_penalty: 1.0, ..repetition };
        check(all, [51.0, -5.5, -3.0, -1.5, -inf, f32::MAX / 2.0]);
    }
}
