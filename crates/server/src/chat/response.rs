//! What a chat answer looks like.

use std::sync::Arc;

use fathom_engine::{FinishReason, TokenLogprobs};
use fathom_text::Tokenizer;
use serde::Serialize;
use utoipa::ToSchema;

use super::message::ToolCall;

/// What this server calls itself in answers.
pub(crate) const FINGERPRINT: &str = concat!("fathom-", env!("CARGO_PKG_VERSION"));

/// An answer, whole.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    pub(super) id: String,
    /// `chat.completion`.
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) system_fingerprint: &'static str,
    pub(super) choices: Vec<ChatChoice>,
    pub(super) usage: Usage,
}

/// One answer of several.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    pub(super) index: usize,
    pub(super) message: AssistantMessage,
    pub(super) logprobs: Option<Logprobs>,
    /// `stop`, `length`, `tool_calls` or `insufficient_system_resource`.
    pub(super) finish_reason: &'static str,
}

/// The assistant's turn.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AssistantMessage {
    pub(super) role: &'static str,
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_calls: Option<Vec<ToolCall>>,
}

/// A piece of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunk {
    pub(super) id: String,
    /// `chat.completion.chunk`.
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) system_fingerprint: &'static str,
    pub(super) choices: Vec<ChunkChoice>,
    /// In the last chunk, if `stream_options.include_usage` asks for it; null before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<Usage>>,
}

/// A piece of one answer of several.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    pub(super) index: usize,
    pub(super) delta: ChunkDelta,
    pub(super) logprobs: Option<Logprobs>,
    /// As in [`ChatChoice`]; null before the end.
    pub(super) finish_reason: Option<&'static str>,
}

/// What is new.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_calls: Option<Vec<CallDelta>>,
}

/// What is new of a call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallDelta {
    pub(super) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) r#type: Option<&'static str>,
    pub(super) function: FunctionDelta,
}

/// What is new of a call's function.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) arguments: String,
}

/// Log-probabilities of the tokens of an answer.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Logprobs {
    pub(super) content: Option<Vec<TokenEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<Vec<TokenEntry>>,
}

/// A token, how likely it was, and what else was likely.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenEntry {
    #[serde(flatten)]
    entry: TopEntry,
    top_logprobs: Vec<TopEntry>,
}

/// A token and how likely it was.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TopEntry {
    token: String,
    logprob: f32,
    /// Its bytes, which may be a part of a character.
    bytes: Option<Vec<u8>>,
}

/// What a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    pub(crate) prompt_cache_hit_tokens: usize,
    pub(crate) prompt_cache_miss_tokens: usize,
    pub(crate) prompt_tokens_details: PromptDetails,
    pub(crate) completion_tokens_details: CompletionDetails,
}

/// Parts of the prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    pub(crate) cached_tokens: usize,
}

/// Parts of the answer's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct CompletionDetails {
    pub(crate) reasoning_tokens: usize,
}

impl Usage {
    /// Of prompts with so many tokens, of which so many were cached, and their answers.
    pub(crate) fn new(prompt: usize, cached: usize, completion: usize, reasoning: usize) -> Self {
        let cached = cached.min(prompt);
        Self {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_cache_hit_tokens: cached,
            prompt_cache_miss_tokens: prompt - cached,
            prompt_tokens_details: PromptDetails { cached_tokens: cached },
            completion_tokens_details: CompletionDetails { reasoning_tokens: reasoning },
        }
    }
}

/// The API's word for why an answer ended.
pub(crate) fn finish_reason(reason: FinishReason, calls: usize) -> &'static str {
    match reason {
        FinishReason::Stop if calls > 0 => "tool_calls",
        FinishReason::Length => "length",
        FinishReason::Unavailable => "insufficient_system_resource",
        // Whoever cancelled does not read this.
        _ => "stop",
    }
}

/// The text of one token, with U+FFFD where it is a part of a character.
pub(crate) fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.decode(&[id], false).unwrap_or_default()
}

/// The entries of tokens.
pub(super) fn entries(tokenizer: &Arc<Tokenizer>, tokens: &[TokenLogprobs]) -> Vec<TokenEntry> {
    let entry = |id: u32, logprob: f32| {
        let (token, bytes) = (token_text(tokenizer, id), tokenizer.token_bytes(id));
        // JSON has no infinity.
        TopEntry { token, logprob: logprob.max(-9999.0), bytes }
    };
    tokens
        .iter()
        .map(|token| TokenEntry {
            entry: entry(token.token_id, token.logprob),
            top_logprobs: token.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect(),
        })
        .collect()
}
