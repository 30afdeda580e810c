//! Conversations and code gaps become the ids that the model was trained on, whatever their authors wrote.

use serde_json::{Map, Value};

use crate::chat::{ChatInput, Message};
use crate::control::Occurrence;
use crate::error::Result;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::tool_calls::{ToolCallFormat, instructions};

const THINK: &str = "<think>";

/// A conversation, written down for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The ids, bos included if the template writes it.
    pub ids: Vec<u32>,
    /// The text that they are of.
    pub text: String,
    /// The prompt ends with `<think>`: the answer begins in the middle of its reasoning.
    pub starts_in_reasoning: bool,
}

/// Renders and encodes a conversation.
///
/// The texts of control tokens inside any field of a message, and inside tools, are encoded as the plain
/// characters that they are ([`Tokenizer::encode_plain`]); control tokens come from the template alone. Of
/// conversations without such texts the ids are those of [`ChatTemplate::render`] and [`Tokenizer::encode`].
/// `input.extra` is the caller's own and is trusted.
///
/// Templates that have a markup for tool calls but do not show the tools to the model (DeepSeek-V3's, R1's
/// and V3.1's) get them at the end of what the system says first.
///
/// # Errors
/// As [`ChatTemplate::render`] and [`Tokenizer::encode`].
pub fn encode_chat(template: &ChatTemplate, tokenizer: &Tokenizer, input: &ChatInput) -> Result<ChatPrompt> {
    let marked = Marked::of(template, tokenizer, input);
    let rendered = template.render(&marked.input())?;
    prompt_of(tokenizer, &rendered, |text, ours, theirs| encode_between(tokenizer, text, ours, theirs))
}

/// A conversation in which control tokens that strangers wrote are marked, and in which the model is told of the tools.
pub(crate) struct Marked<'a> {
    input: &'a ChatInput<'a>,
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
}

impl<'a> Marked<'a> {
    pub(crate) fn of(template: &ChatTemplate, tokenizer: &Tokenizer, input: &'a ChatInput<'a>) -> Self {
        let mark_tools = |tools: &[Value]| tools.iter().map(|tool| mark_value(tokenizer, tool)).collect();
        let tools: Option<Vec<Value>> = input.tools.map(mark_tools);
        let mut messages: Vec<Message> =
            input.messages.iter().map(|message| mark_message(tokenizer, message)).collect();
        if let Some(tools @ [_, ..]) = tools.as_deref()
            && !template.shows_tools()
            && let Some(format) = ToolCallFormat::detect(template.source())
        {
            tell(&mut messages, &instructions(format, tools));
        }
        Self { input, messages, tools }
    }

    /// What the template is to write.
    pub(crate) fn input(&self) -> ChatInput<'_> {
        ChatInput {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            add_generation_prompt: self.input.add_generation_prompt,
            extra: self.input.extra.clone(),
            now: self.input.now,
        }
    }
}

/// The prompt that a template wrote of a marked conversation. `encode` is given the text, and in it the template's control
/// tokens and strangers'.
pub(crate) fn prompt_of(
    tokenizer: &Tokenizer,
    rendered: &str,
    encode: impl FnOnce(&str, &[Occurrence], &[Occurrence]) -> Result<Vec<u32>>,
) -> Result<ChatPrompt> {
    let control = tokenizer.control_tokens();
    let unmarked = control.unmark(rendered);
    let (ours, theirs) = control.sort(&unmarked);
    let text = unmarked.text;
    let ids = encode(&text, &ours, &theirs)?;
    let end = text.trim_end().len();
    let starts_in_reasoning = ours.last().is_some_and(|last| last.end == end) && text[..end].ends_with(THINK);
    Ok(ChatPrompt { ids, text, starts_in_reasoning })
}

/// Adds to what the system says first. A turn of its own would not do: R1's template keeps the last one only.
fn tell(messages: &mut Vec<Message>, instructions: &str) {
    let leading = messages.iter().take_while(|message| message.role == "system").count();
    match leading.checked_sub(1).map(|last| &mut messages[last]) {
        Some(Message { content: Some(said), .. }) if !said.is_empty() => {
            said.push_str("\n\n");
            said.push_str(instructions);
        }
        Some(silent) => silent.content = Some(instructions.to_owned()),
        None => messages.insert(0, Message::system(instructions)),
    }
}

/// Encodes `text`: what stands between two tokens of `ours` and contains one of `theirs` is plain.
fn encode_between(
    tokenizer: &Tokenizer,
    text: &str,
    ours: &[Occurrence],
    theirs: &[Occurrence],
) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut done = 0;
    let mut theirs = theirs.iter().peekable();
    while let Some(stranger) = theirs.next() {
        let next = ours.partition_point(|token| token.start < stranger.start);
        let start = next.checked_sub(1).map_or(0, |before| ours[before].end);
        let end = ours.get(next).map_or(text.len(), |after| after.start);
        while theirs.next_if(|other| other.start < end).is_some() {}
        if done < start {
            ids.extend(tokenizer.encode(&text[done..start], false)?);
        }
        ids.extend(tokenizer.encode_plain(&text[start..end])?);
        done = end;
    }
    if done < text.len() {
        ids.extend(tokenizer.encode(&text[done..], false)?);
    }
    Ok(ids)
}

fn mark_message(tokenizer: &Tokenizer, message: &Message) -> Message {
    let mark = |text: &Option<String>| text.as_ref().map(|text| mark(tokenizer, text, true));
    Message {
        // Templates compare roles, so no edges.
        role: self::mark(tokenizer, &message.role, false),
        content: mark(&message.content),
        reasoning_content: mark(&message.reasoning_content),
        tool_calls: message
            .tool_calls
            .as_ref()
            .map(|calls| calls.iter().map(|call| mark_value(tokenizer, call)).collect()),
        tool_call_id: mark(&message.tool_call_id),
        name: mark(&message.name),
        extra: mark_object(tokenizer, &message.extra),
    }
}

fn mark_value(tokenizer: &Tokenizer, value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(mark(tokenizer, text, true)),
        Value::Array(items) => items.iter().map(|item| mark_value(tokenizer, item)).collect(),
        Value::Object(fields) => Value::Object(mark_object(tokenizer, fields)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn mark_object(tokenizer: &Tokenizer, fields: &Map<String, Value>) -> Map<String, Value> {
    let mark = |(key, value): (&String, &Value)| (mark(tokenizer, key, false), mark_value(tokenizer, value));
    fields.iter().map(mark).collect()
}

fn mark(tokenizer: &Tokenizer, text: &str, edges: bool) -> String {
    let control = tokenizer.control_tokens();
    // A normalizer could make a control token of what is none yet.
    if let Some(normal) = tokenizer.normalized(text)
        && control.find(&normal).count() > control.find(text).count()
    {
        return control.mark(&normal, edges);
    }
    control.mark(text, edges)
}

/// The prompt that asks for what belongs between `prefix` and `suffix`, in DeepSeek's markup:
/// `<｜fim▁begin｜>prefix<｜fim▁hole｜>suffix<｜fim▁end｜>` after bos. Both texts are encoded as plain
/// characters. `None` if the vocabulary lacks the markup: the model was not trained to do it.
///
/// # Errors
/// As [`Tokenizer::encode_plain`].
pub fn encode_fim(tokenizer: &Tokenizer, prefix: &str, suffix: &str) -> Result<Option<Vec<u32>>> {
    let [Some(begin), Some(hole), Some(end)] =
        ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"].map(|token| tokenizer.token_to_id(token))
    else {
        return Ok(None);
    };
    let mut ids: Vec<u32> = tokenizer.bos_token_id().into_iter().collect();
    ids.push(begin);
    ids.extend(tokenizer.encode_plain(prefix)?);
    ids.push(hole);
    ids.extend(tokenizer.encode_plain(suffix)?);
    ids.push(end);
    Ok(Some(ids))
}
