//! How the next token is chosen and when to stop: the parameters of one request.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Most stop strings in one request.
const STOP_STRINGS_MAX: usize = 16;
/// Longest stop string in bytes; bounds the work per token that a request can ask for.
const STOP_BYTES_MAX: usize = 4096;
/// Most alternatives that are reported beside each token.
const TOP_LOGPROBS_MAX: usize = 20;

/// Sampling parameters with the names of the OpenAI and DeepSeek APIs and of Hugging Face.
///
/// The default is the model's own distribution: temperature 1, nothing cut off, nothing penalized. The order
/// in which the parameters act is documented at [`Sampler`](crate::Sampler).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits; 0 chooses the most likely token (greedy). In [0, 2], default 1.
    pub temperature: f32,
    /// Keep this many of the most likely tokens, exactly. At least 1, default `None` = all.
    pub top_k: Option<usize>,
    /// Keep the fewest most likely tokens that together have this probability. In (0, 1], default 1 = all.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the most likely one. In [0, 1], default 0 = all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the answer. Above 0,
    /// default 1 = off.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once per occurrence in the answer. In [−2, 2], default 0 = off.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit if it occurs in the answer. In [−2, 2], default 0 = off.
    pub presence_penalty: f32,
    /// Added to the logits of these token ids, each in [−100, 100]. No id twice. Default empty.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same text. Default `None` = drawn afresh; [`Sampler::seed`](crate::Sampler::seed) tells
    /// which.
    pub seed: Option<u64>,
    /// Longest answer in tokens. At least 1, default `None` = until the context is full.
    pub max_tokens: Option<usize>,
    /// The answer ends before the first of these strings. At most 16, of 1 to 4096 bytes. Default none.
    pub stop: Vec<String>,
    /// The answer ends at one of these tokens, in addition to the model's own end tokens. Default none.
    pub stop_token_ids: Vec<u32>,
    /// Go on after the model's own end tokens (for benchmarks); `stop_token_ids` still end the answer.
    /// Default false.
    pub ignore_eos: bool,
    /// Report log-probabilities, with this many of the most likely tokens beside the chosen one. At most 20,
    /// default `None` = do not report.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            max_tokens: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// The most likely token at every step.
    pub fn greedy() -> Self {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// Checks every field against its range, for a model with `vocab_size` logits.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for the first field outside its range. NaN is outside every range.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        range("temperature", self.temperature, (0.0..=2.0).contains(&self.temperature), "0 (greedy) to 2")?;
        at_least_one("top_k", self.top_k, "1 or more; leave it out to keep all tokens")?;
        range("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, up to 1 (off)")?;
        range("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 (off) to 1")?;
        let repetition = self.repetition_penalty;
        let repetition_ok = repetition > 0.0 && repetition.is_finite();
        range("repetition_penalty", repetition, repetition_ok, "a finite number above 0; 1 is off")?;
        for (field, value) in
            [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)]
        {
            range(field, value, (-2.0..=2.0).contains(&value), "-2 to 2; 0 is off")?;
        }
        at_least_one("max_tokens", self.max_tokens, "1 or more; leave it out for as many as fit")?;
        if let Some(top) = self.logprobs.filter(|&top| top > TOP_LOGPROBS_MAX) {
            return Err(invalid("logprobs", top, format!("0 to {TOP_LOGPROBS_MAX}; leave it out for none")));
        }
        self.validate_logit_bias(vocab_size)?;
        self.validate_stop(vocab_size)
    }

    fn validate_logit_bias(&self, vocab_size: usize) -> Result<()> {
        let mut seen = std::collections::HashSet::new();
        for (index, &(id, bias)) in self.logit_bias.iter().enumerate() {
            let field = format!("logit_bias[{index}]");
            token_id(&field, id, vocab_size)?;
            if !(-100.0..=100.0).contains(&bias) {
                return Err(invalid(field, format!("{bias} for token {id}"), "-100 to 100"));
            }
            if !seen.insert(id) {
                return Err(invalid(field, format!("token {id} a second time"), "each token once"));
            }
        }
        Ok(())
    }

    fn validate_stop(&self, vocab_size: usize) -> Result<()> {
        if self.stop.len() > STOP_STRINGS_MAX {
            let value = format!("{} strings", self.stop.len());
            return Err(invalid("stop", value, format!("at most {STOP_STRINGS_MAX} strings")));
        }
        for (index, stop) in self.stop.iter().enumerate() {
            if stop.is_empty() || stop.len() > STOP_BYTES_MAX {
                let value = format!("a string of {} bytes", stop.len());
                return Err(invalid(format!("stop[{index}]"), value, format!("1 to {STOP_BYTES_MAX} bytes")));
            }
        }
        for (index, &id) in self.stop_token_ids.iter().enumerate() {
            token_id(&format!("stop_token_ids[{index}]"), id, vocab_size)?;
        }
        Ok(())
    }
}

fn invalid(field: impl Into<String>, value: impl ToString, allowed: impl Into<String>) -> Error {
    Error::InvalidParam { field: field.into(), value: value.to_string(), allowed: allowed.into() }
}

fn range(field: &str, value: f32, inside: bool, allowed: &str) -> Result<()> {
    if inside { Ok(()) } else { Err(invalid(field, value, allowed)) }
}

fn at_least_one(field: &str, value: Option<usize>, allowed: &str) -> Result<()> {
    if value == Some(0) { Err(invalid(field, 0, allowed)) } else { Ok(()) }
}

fn token_id(field: &str, id: u32, vocab_size: usize) -> Result<()> {
    if (id as usize) < vocab_size {
        return Ok(());
    }
    Err(invalid(field, format!("token {id}"), format!("ids below the vocabulary size {vocab_size}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: usize = 100;

    /// `expected` is the offending field with the value, or `None` for valid parameters.
    #[track_caller]
    fn check(change: impl Fn(&mut SamplingParams), expected: Option<(&str, &str)>) {
        let mut params = SamplingParams::default();
        change(&mut params);
        let got = match params.validate(VOCAB) {
            Ok(()) => None,
            Err(Error::InvalidParam { field, value, allowed }) => {
                assert!(!allowed.is_empty());
                Some((field, value))
            }
            Err(other) => panic!("unexpected error {other}"),
        };
        assert_eq!(got, expected.map(|(field, value)| (field.to_owned(), value.to_owned())));
    }

    #[test]
    fn ranges_of_numbers() {
        check(|_| {}, None);
        for good in [0.0, 1e-30, 2.0] {
            check(|p| p.temperature = good, None);
        }
        for (bad, shown) in [(-0.1, "-0.1"), (2.01, "2.01"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            check(|p| p.temperature = bad, Some(("temperature", shown)));
        }
        check(|p| p.top_k = Some(1), None);
        check(|p| p.top_k = Some(usize::MAX), None);
        check(|p| p.top_k = Some(0), Some(("top_k", "0")));
        check(|p| p.top_p = 1e-6, None);
        for (bad, shown) in [(0.0, "0"), (1.5, "1.5"), (f32::NAN, "NaN"), (-1.0, "-1")] {
            check(|p| p.top_p = bad, Some(("top_p", shown)));
        }
        check(|p| p.min_p = 1.0, None);
        for (bad, shown) in [(-0.5, "-0.5"), (1.5, "1.5"), (f32::NAN, "NaN")] {
            check(|p| p.min_p = bad, Some(("min_p", shown)));
        }
        check(|p| p.repetition_penalty = 0.5, None);
        for (bad, shown) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            check(|p| p.repetition_penalty = bad, Some(("repetition_penalty", shown)));
        }
        check(|p| (p.frequency_penalty, p.presence_penalty) = (-2.0, 2.0), None);
        for (bad, shown) in [(-2.1, "-2.1"), (2.1, "2.1"), (f32::NAN, "NaN")] {
            check(|p| p.frequency_penalty = bad, Some(("frequency_penalty", shown)));
            check(|p| p.presence_penalty = bad, Some(("presence_penalty", shown)));
        }
        check(|p| p.max_tokens = Some(0), Some(("max_tokens", "0")));
        check(|p| p.logprobs = Some(20), None);
        check(|p| p.logprobs = Some(21), Some(("logprobs", "21")));
    }

    #[test]
    fn lists() {
        check(|p| p.logit_bias = vec![(0, -100.0), (99, 100.0)], None);
        check(|p| p.logit_bias = vec![(3, 1.0), (100, 1.0)], Some(("logit_bias[1]", "token 100")));
        check(|p| p.logit_bias = vec![(3, 101.0)], Some(("logit_bias[0]", "101 for token 3")));
        check(|p| p.logit_bias = vec![(3, f32::NAN)], Some(("logit_bias[0]", "NaN for token 3")));
        check(|p| p.logit_bias = vec![(3, 1.0), (3, 1.0)], Some(("logit_bias[1]", "token 3 a second time")));
        check(|p| p.stop = vec!["x".to_owned(); 16], None);
        check(|p| p.stop = vec!["x".to_owned(); 17], Some(("stop", "17 strings")));
        check(|p| p.stop = vec!["x".into(), String::new()], Some(("stop[1]", "a string of 0 bytes")));
        check(|p| p.stop = vec!["x".repeat(4097)], Some(("stop[0]", "a string of 4097 bytes")));
        check(|p| p.stop_token_ids = vec![99], None);
        check(|p| p.stop_token_ids = vec![99, 100], Some(("stop_token_ids[1]", "token 100")));
    }

    #[test]
    fn the_message_names_field_value_and_range() {
        let params = SamplingParams { temperature: 3.0, ..SamplingParams::default() };
        let message = params.validate(VOCAB).expect_err("3 is too hot").to_string();
        assert_eq!(message, "sampling parameter `temperature` is 3; allowed: 0 (greedy) to 2");
    }

    #[test]
    fn json_fills_in_defaults_and_refuses_unknown_names() {
        let params: SamplingParams =
            serde_json::from_str(r#"{"temperature": 0, "stop": ["a"], "logit_bias": [[7, -100]]}"#).unwrap();
        let expected = SamplingParams {
            stop: vec!["a".to_owned()],
            logit_bias: vec![(7, -100.0)],
            ..SamplingParams::greedy()
        };
        assert_eq!(params, expected);
        let text = serde_json::to_string(&params).unwrap();
        assert_eq!(serde_json::from_str::<SamplingParams>(&text).unwrap(), params);
        assert!(serde_json::from_str::<SamplingParams>(r#"{"temprature": 0}"#).is_err());
    }
}
