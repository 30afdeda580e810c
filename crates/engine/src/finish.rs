//! Why an answer ended, and the part of that decision which needs only token ids.

use serde::{Deserialize, Serialize};

use crate::params::SamplingParams;

/// Why an answer ended. Serialized with the strings of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// An end token, a stop token or a stop string: `stop`.
    Stop,
    /// `max_tokens` or the end of the context: `length`.
    Length,
    /// The caller asked for no more: `cancelled`. (Ours; the API has no word for it.)
    Cancelled,
    /// The engine was stopped before the end: `insufficient_system_resource`.
    #[serde(rename = "insufficient_system_resource")]
    Unavailable,
    /// Something went wrong: `failed`. (Ours; the API answers with an error.)
    Failed,
}

impl FinishReason {
    /// The API string.
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
            FinishReason::Unavailable => "insufficient_system_resource",
            FinishReason::Failed => "failed",
        }
    }
}

impl std::fmt::Display for FinishReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Ends a sequence by token id or by length.
///
/// The token that ends an answer by [`FinishReason::Stop`] is not part of its text: do not hand it to the
/// [`TextAssembler`](crate::TextAssembler). The last token of [`FinishReason::Length`] is.
#[derive(Debug, Clone)]
pub struct FinishRule {
    /// Sorted.
    end_ids: Vec<u32>,
    tokens_max: usize,
}

impl FinishRule {
    /// The rule of one request. `eos_token_ids` are the model's own end tokens, `room` the number of tokens
    /// that fit into the context after the prompt.
    pub fn new(params: &SamplingParams, eos_token_ids: &[u32], room: usize) -> Self {
        let mut end_ids = params.stop_token_ids.clone();
        if !params.ignore_eos {
            end_ids.extend_from_slice(eos_token_ids);
        }
        end_ids.sort_unstable();
        end_ids.dedup();
        FinishRule { end_ids, tokens_max: params.max_tokens.map_or(room, |max_tokens| max_tokens.min(room)) }
    }

    /// Whether the answer ends with `token`, its `num_generated`-th token (counted from 1). An end token in
    /// the last place counts as an end token.
    pub fn check(&self, token: u32, num_generated: usize) -> Option<FinishReason> {
        if self.end_ids.binary_search(&token).is_ok() {
            Some(FinishReason::Stop)
        } else if num_generated >= self.tokens_max {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// The most tokens this answer can have.
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_tokens_and_length() {
        let plain = SamplingParams { stop_token_ids: vec![9, 7], ..SamplingParams::default() };
        let ignoring = SamplingParams { ignore_eos: true, ..plain.clone() };
        let short = SamplingParams { max_tokens: Some(3), ..plain.clone() };
        let (stop, length) = (Some(FinishReason::Stop), Some(FinishReason::Length));
        // (parameters, room, token, num_generated, expected); the model's end token is 1.
        let rows = [
            (&plain, 10, 1, 1, stop),
            (&plain, 10, 7, 1, stop),
            (&plain, 10, 9, 10, stop),
            (&plain, 10, 2, 9, None),
            (&plain, 10, 2, 10, length),
            (&ignoring, 10, 1, 1, None),
            (&ignoring, 10, 7, 1, stop),
            (&ignoring, 10, 1, 10, length),
            (&short, 10, 2, 2, None),
            (&short, 10, 2, 3, length),
            (&short, 2, 2, 2, length),
        ];
        for (params, room, token, num_generated, expected) in rows {
            let got = FinishRule::new(params, &[1], room).check(token, num_generated);
            assert_eq!(got, expected, "token {token} as number {num_generated} of {room}: {params:?}");
        }
    }

    #[test]
    fn api_strings() {
        for reason in [FinishReason::Stop, FinishReason::Length, FinishReason::Cancelled] {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
        assert_eq!(FinishReason::Length.as_str(), "length");
    }
}
