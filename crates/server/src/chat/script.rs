//! Writing a chat answer down, whole or in pieces.

use std::sync::Arc;

use fathom_engine::{Finished, Update};
use fathom_text::Tokenizer;

use super::message::{FunctionCall, ToolCall};
use super::response::{
    AssistantMessage, CallDelta, ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, ChunkDelta, FINGERPRINT,
    FunctionDelta, Logprobs, Usage, entries, finish_reason,
};
use crate::answer::{Answer, Certain, Delta, Reading, Whole};
use crate::api_error::{ApiError, ApiResult};
use crate::identity::{now, random_id};
use crate::sse::{Script, event, json};

/// How a request wants its answer.
pub(crate) struct Style {
    pub(crate) model: String,
    pub(crate) n: usize,
    pub(crate) prompt_tokens: usize,
    pub(crate) reading: Reading,
    pub(crate) logprobs: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// What the answers of a request used together.
#[derive(Default)]
struct Sum {
    cached: usize,
    completion: usize,
    reasoning: usize,
}

impl Sum {
    fn add(&mut self, index: usize, finished: &Finished) {
        // Later answers to the same prompt find it cached by the first.
        if index == 0 {
            self.cached = finished.cached_tokens;
        }
        self.completion += finished.completion_tokens;
    }

    fn usage(&self, style: &Style) -> Usage {
        Usage::new(style.prompt_tokens, self.cached, self.completion, self.reasoning.min(self.completion))
    }
}

fn logprobs(style: &Style, words: &Arc<Tokenizer>, certain: &Certain) -> Option<Logprobs> {
    let wanted = style.logprobs && !certain.tokens.is_empty();
    wanted.then(|| match (entries(words, &certain.tokens), certain.reasoning) {
        (entries, true) => Logprobs { content: None, reasoning_content: Some(entries) },
        (entries, false) => Logprobs { content: Some(entries), reasoning_content: None },
    })
}

fn call_id(index: usize) -> String {
    format!("call_{index:02}_{}", random_id())
}

/// The answer as chunks.
pub(crate) struct Chunks {
    style: Style,
    words: Arc<Tokenizer>,
    id: String,
    created: u64,
    answers: Vec<Answer>,
    /// Which answers have begun: their first chunk names the role.
    begun: Vec<bool>,
    sum: Sum,
}

impl Chunks {
    pub(crate) fn new(style: Style, words: Arc<Tokenizer>) -> Self {
        Self {
            answers: (0..style.n).map(|_| Answer::new(style.reading)).collect(),
            begun: vec![false; style.n],
            id: random_id(),
            created: now(),
            sum: Sum::default(),
            style,
            words,
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.style.model.clone(),
            system_fingerprint: FINGERPRINT,
            choices,
            usage: self.style.include_usage.then_some(usage),
        }
    }

    fn say(
        &self,
        out: &mut String,
        index: usize,
        delta: ChunkDelta,
        logprobs: Option<Logprobs>,
        reason: Option<&'static str>,
    ) {
        let choice = ChunkChoice { index, delta, logprobs, finish_reason: reason };
        event(out, None, &self.chunk(vec![choice], None));
    }

    fn begin(&mut self, index: usize, out: &mut String) {
        if !std::mem::replace(&mut self.begun[index], true) {
            let delta =
                ChunkDelta { role: Some("assistant"), content: Some(String::new()), ..ChunkDelta::default() };
            self.say(out, index, delta, None, None);
        }
    }
}

impl Script for Chunks {
    const CONTENT_TYPE: &'static str = "text/event-stream";
    const KEEP_ALIVE: &'static str = ": keep-alive\n\n";

    fn hear(&mut self, index: usize, update: Update, out: &mut String) -> ApiResult<()> {
        let ended = match &update {
            Update::Finished(finished) => {
                self.sum.add(index, finished);
                Some(finished.finish_reason)
            }
            _ => None,
        };
        self.begin(index, out);
        let certain = self.answers[index].hear(update);
        let mut logprobs = logprobs(&self.style, &self.words, &certain);
        for delta in certain.deltas {
            self.say(out, index, chunk_delta(delta), logprobs.take(), None);
        }
        if let Some(reason) = ended {
            self.sum.reasoning += self.answers[index].reasoning_tokens;
            let reason = finish_reason(reason, self.answers[index].calls);
            // The last tokens may have no text.
            self.say(out, index, ChunkDelta::default(), logprobs, Some(reason));
        }
        Ok(())
    }

    fn end(&mut self, out: &mut String) {
        if self.style.include_usage {
            event(out, None, &self.chunk(Vec::new(), Some(self.sum.usage(&self.style))));
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        event(out, None, &error.body());
        out.push_str("data: [DONE]\n\n");
    }
}

fn chunk_delta(delta: Delta) -> ChunkDelta {
    let nothing = ChunkDelta::default();
    match delta {
        Delta::Reasoning(text) => ChunkDelta { reasoning_content: Some(text), ..nothing },
        Delta::Content(text) => ChunkDelta { content: Some(text), ..nothing },
        Delta::CallStart { index, name } => {
            let function = FunctionDelta { name: Some(name), arguments: String::new() };
            let call = CallDelta { index, id: Some(call_id(index)), r#type: Some("function"), function };
            ChunkDelta { tool_calls: Some(vec![call]), ..nothing }
        }
        Delta::Arguments { index, delta } => {
            let function = FunctionDelta { name: None, arguments: delta };
            let call = CallDelta { index, id: None, r#type: None, function };
            ChunkDelta { tool_calls: Some(vec![call]), ..nothing }
        }
    }
}

/// The answer in one piece.
pub(crate) struct Message {
    style: Style,
    words: Arc<Tokenizer>,
    parts: Vec<MessagePart>,
    sum: Sum,
}

struct MessagePart {
    answer: Answer,
    whole: Whole,
    logprobs: Logprobs,
    finish_reason: &'static str,
}

impl Message {
    pub(crate) fn new(style: Style, words: Arc<Tokenizer>) -> Self {
        let part = |_| MessagePart {
            answer: Answer::new(style.reading),
            whole: Whole::default(),
            logprobs: Logprobs::default(),
            finish_reason: "stop",
        };
        Self { parts: (0..style.n).map(part).collect(), sum: Sum::default(), style, words }
    }
}

impl Script for Message {
    const CONTENT_TYPE: &'static str = "application/json";
    const KEEP_ALIVE: &'static str = "\n";

    fn hear(&mut self, index: usize, update: Update, _: &mut String) -> ApiResult<()> {
        let ended = match &update {
            Update::Finished(finished) => {
                self.sum.add(index, finished);
                Some(finished.finish_reason)
            }
            _ => None,
        };
        let part = &mut self.parts[index];
        let certain = part.answer.hear(update);
        if let Some(more) = logprobs(&self.style, &self.words, &certain) {
            let add = |all: &mut Option<Vec<_>>, more: Option<Vec<_>>| {
                if let Some(more) = more {
                    all.get_or_insert_default().extend(more);
                }
            };
            add(&mut part.logprobs.content, more.content);
            add(&mut part.logprobs.reasoning_content, more.reasoning_content);
        }
        certain.deltas.into_iter().for_each(|delta| part.whole.add(delta));
        if let Some(reason) = ended {
            self.sum.reasoning += part.answer.reasoning_tokens;
            part.finish_reason = finish_reason(reason, part.whole.calls.len());
        }
        Ok(())
    }

    fn end(&mut self, out: &mut String) {
        let parts = std::mem::take(&mut self.parts).into_iter().enumerate();
        let completion = ChatCompletion {
            id: random_id(),
            object: "chat.completion",
            created: now(),
            model: self.style.model.clone(),
            system_fingerprint: FINGERPRINT,
            choices: parts.map(|(index, part)| part.choice(index, self.style.logprobs)).collect(),
            usage: self.sum.usage(&self.style),
        };
        out.push_str(&json(&completion));
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        out.push_str(&json(&error.body()));
    }
}

impl MessagePart {
    fn choice(self, index: usize, logprobs: bool) -> ChatChoice {
        let calls: Vec<ToolCall> = self
            .whole
            .calls
            .into_iter()
            .enumerate()
            .map(|(index, call)| ToolCall {
                id: call_id(index),
                r#type: "function".to_owned(),
                function: FunctionCall { name: call.name, arguments: call.arguments },
            })
            .collect();
        let content = self.whole.content;
        let message = AssistantMessage {
            role: "assistant",
            content: (calls.is_empty() || !content.is_empty()).then_some(content),
            reasoning_content: (!self.whole.reasoning.is_empty()).then_some(self.whole.reasoning),
            tool_calls: (!calls.is_empty()).then_some(calls),
        };
        let logprobs = logprobs.then_some(self.logprobs);
        ChatChoice { index, message, logprobs, finish_reason: self.finish_reason }
    }
}
