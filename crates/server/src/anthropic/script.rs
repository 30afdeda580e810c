//! Writing an answer down in Anthropic's form.

use fathom_engine::{FinishReason, Update};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::answer::{Answer, Delta, Reading, Whole};
use crate::api_error::{ApiError, ApiResult};
use crate::identity::random_id;
use crate::sse::{Script, event, json as to_json};

/// How a request wants its answer.
pub(crate) struct Style {
    pub(crate) model: String,
    pub(crate) prompt_tokens: usize,
    pub(crate) reading: Reading,
    pub(crate) stop: Vec<String>,
    pub(crate) stream: bool,
}

/// An answer, whole.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessagesAnswer {
    id: String,
    /// `message`.
    r#type: &'static str,
    /// `assistant`.
    role: &'static str,
    model: String,
    /// Blocks of type `thinking`, `text` and `tool_use`.
    #[schema(value_type = Vec<Object>)]
    content: Vec<Value>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`.
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
    usage: MessagesUsage,
}

/// What an answer used. The prompt's tokens are the sum of the three inputs.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct MessagesUsage {
    /// Tokens of the prompt that were not cached.
    input_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
}

impl Style {
    fn usage(&self, cached: usize, output_tokens: usize) -> MessagesUsage {
        let cached = cached.min(self.prompt_tokens);
        MessagesUsage {
            input_tokens: self.prompt_tokens - cached,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens,
        }
    }

    fn answer(&self, content: Vec<Value>, ending: Ending, usage: MessagesUsage) -> MessagesAnswer {
        MessagesAnswer {
            id: format!("msg_{}", random_id()),
            r#type: "message",
            role: "assistant",
            model: self.model.clone(),
            content,
            stop_reason: ending.reason,
            stop_sequence: ending.sequence,
            usage,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Debug, Default)]
struct Ending {
    reason: Option<&'static str>,
    sequence: Option<String>,
}

impl Ending {
    fn new(reason: FinishReason, stop: Option<&String>, calls: usize) -> Self {
        let (reason, sequence) = match reason {
            FinishReason::Length => ("max_tokens", None),
            FinishReason::Stop if calls > 0 => ("tool_use", None),
            FinishReason::Stop if stop.is_some() => ("stop_sequence", stop.cloned()),
            FinishReason::Unavailable => ("pause_turn", None),
            _ => ("end_turn", None),
        };
        Self { reason: Some(reason), sequence }
    }
}

fn tool_id(index: usize) -> String {
    format!("toolu_{index:02}_{}", random_id())
}

/// The answer in one piece.
pub(crate) struct Message {
    style: Style,
    answer: Answer,
    whole: Whole,
    ending: Ending,
    usage: MessagesUsage,
}

impl Message {
    pub(crate) fn new(style: Style) -> Self {
        let answer = Answer::new(style.reading);
        let (whole, ending, usage) = Default::default();
        Self { style, answer, whole, ending, usage }
    }
}

impl Script for Message {
    const CONTENT_TYPE: &'static str = "application/json";
    const KEEP_ALIVE: &'static str = "\n";

    fn hear(&mut self, _: usize, update: Update, _: &mut String) -> ApiResult<()> {
        let ended = match &update {
            Update::Finished(finished) => {
                self.usage = self.style.usage(finished.cached_tokens, finished.completion_tokens);
                Some((finished.finish_reason, finished.stop))
            }
            _ => None,
        };
        for delta in self.answer.hear(update).deltas {
            self.whole.add(delta);
        }
        if let Some((reason, stop)) = ended {
            let stop = stop.and_then(|index| self.style.stop.get(index));
            self.ending = Ending::new(reason, stop, self.whole.calls.len());
        }
        Ok(())
    }

    fn end(&mut self, out: &mut String) {
        let whole = std::mem::take(&mut self.whole);
        let mut content = Vec::new();
        if !whole.reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": whole.reasoning, "signature": ""}));
        }
        if !whole.content.is_empty() {
            content.push(json!({"type": "text", "text": whole.content}));
        }
        for (index, call) in whole.calls.into_iter().enumerate() {
            let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
            content
                .push(json!({"type": "tool_use", "id": tool_id(index), "name": call.name, "input": input}));
        }
        out.push_str(&to_json(&self.style.answer(content, self.ending.clone(), self.usage)));
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        out.push_str(&to_json(&error.anthropic_body()));
    }
}

/// The block that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    Call(usize),
}

/// The answer as events.
pub(crate) struct Events {
    style: Style,
    answer: Answer,
    open: Option<Open>,
    /// Index of the open block, or of the next.
    block: usize,
    begun: bool,
    ending: Ending,
    usage: MessagesUsage,
}

impl Events {
    pub(crate) fn new(style: Style) -> Self {
        let answer = Answer::new(style.reading);
        let (ending, usage) = Default::default();
        Self { style, answer, open: None, block: 0, begun: false, ending, usage }
    }

    fn begin(&mut self, cached: usize, out: &mut String) {
        if !std::mem::replace(&mut self.begun, true) {
            let message = self.style.answer(Vec::new(), Ending::default(), self.style.usage(cached, 0));
            send(out, json!({"type": "message_start", "message": message}));
        }
    }

    fn close(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            send(out, json!({"type": "content_block_stop", "index": self.block}));
            self.block += 1;
        }
    }

    /// Opens a block unless it is open already.
    fn open(&mut self, open: Open, block: Value, out: &mut String) {
        if self.open != Some(open) {
            self.close(out);
            self.open = Some(open);
            send(out, json!({"type": "content_block_start", "index": self.block, "content_block": block}));
        }
    }

    fn say(&mut self, delta: Delta, out: &mut String) {
        let delta = match delta {
            Delta::Reasoning(text) => {
                let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.open(Open::Thinking, block, out);
                json!({"type": "thinking_delta", "thinking": text})
            }
            Delta::Content(text) => {
                self.open(Open::Text, json!({"type": "text", "text": ""}), out);
                json!({"type": "text_delta", "text": text})
            }
            Delta::CallStart { index, name } => {
                let block = json!({"type": "tool_use", "id": tool_id(index), "name": name, "input": {}});
                self.open(Open::Call(index), block, out);
                return;
            }
            Delta::Arguments { delta, .. } => json!({"type": "input_json_delta", "partial_json": delta}),
        };
        send(out, json!({"type": "content_block_delta", "index": self.block, "delta": delta}));
    }
}

/// The event's name is its type.
fn send(out: &mut String, data: Value) {
    event(out, data["type"].as_str(), &data);
}

impl Script for Events {
    const CONTENT_TYPE: &'static str = "text/event-stream";
    const KEEP_ALIVE: &'static str = "event: ping\ndata: {\"type\":\"ping\"}\n\n";

    fn hear(&mut self, _: usize, update: Update, out: &mut String) -> ApiResult<()> {
        let mut ended = None;
        match &update {
            Update::Started { cached_tokens } => self.begin(*cached_tokens, out),
            Update::Token { .. } => self.begin(0, out),
            Update::Finished(finished) => {
                self.begin(finished.cached_tokens, out);
                self.usage = self.style.usage(finished.cached_tokens, finished.completion_tokens);
                ended = Some((finished.finish_reason, finished.stop));
            }
        }
        for delta in self.answer.hear(update).deltas {
            self.say(delta, out);
        }
        if let Some((reason, stop)) = ended {
            let stop = stop.and_then(|index| self.style.stop.get(index));
            self.ending = Ending::new(reason, stop, self.answer.calls);
        }
        Ok(())
    }

    fn end(&mut self, out: &mut String) {
        self.close(out);
        let delta = json!({"stop_reason": self.ending.reason, "stop_sequence": self.ending.sequence});
        send(out, json!({"type": "message_delta", "delta": delta, "usage": self.usage}));
        send(out, json!({"type": "message_stop"}));
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        event(out, Some("error"), &error.anthropic_body());
    }
}
