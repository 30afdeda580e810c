//! The body of a request in Anthropic's form.

use std::time::Instant;

use fathom_engine::SamplingParams;
use fathom_text::Message;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::script::Style;
use crate::admission::Caller;
use crate::api_error::{ApiError, ApiResult};
use crate::app::App;
use crate::body;
use crate::chat::user_id;
use crate::prompt::{self, Choice, Conversation, Prefix};
use crate::run::Job;

/// What cannot change an answer here.
const IGNORED: [&str; 8] = [
    "container",
    "mcp_servers",
    "service_tier",
    "context_management",
    "betas",
    "output_config",
    "cache_control",
    "inference_geo",
];

/// A request to answer a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesRequest {
    /// The model's id, another name of it, or any name that begins with `claude`.
    model: String,
    /// The conversation, oldest turn first. If the last is the assistant's, the answer goes on with it.
    messages: Vec<Turn>,
    /// Longest answer in tokens.
    max_tokens: usize,
    /// Instructions.
    system: Option<Text>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoiceField>,
    thinking: Option<Thinking>,
    metadata: Option<Metadata>,
}

/// A request to count tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CountRequest {
    model: String,
    messages: Vec<Turn>,
    system: Option<Text>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoiceField>,
    thinking: Option<Thinking>,
}

/// One turn.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: Role,
    content: Text,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Role {
    User,
    Assistant,
    System,
}

/// A text, or blocks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Blocks(Vec<Block>),
}

/// A part of a turn. Which fields there are depends on its type.
#[derive(Debug, Deserialize, ToSchema)]
struct Block {
    /// `text`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    r#type: String,
    text: Option<String>,
    thinking: Option<String>,
    id: Option<String>,
    name: Option<String>,
    #[schema(value_type = Option<Object>)]
    input: Option<Value>,
    tool_use_id: Option<String>,
    /// Of a `tool_result`: a text or blocks of texts.
    #[schema(value_type = Option<Object>)]
    content: Option<Value>,
    is_error: Option<bool>,
}

/// A tool on offer.
#[derive(Debug, Deserialize, ToSchema)]
struct Tool {
    /// `custom`, or absent: this server has no tools of its own.
    r#type: Option<String>,
    name: String,
    description: Option<String>,
    #[schema(value_type = Option<Object>)]
    input_schema: Option<Map<String, Value>>,
    strict: Option<bool>,
}

/// Whether tools may, must or must not be called.
#[derive(Debug, Deserialize, ToSchema)]
struct ToolChoiceField {
    r#type: ToolMode,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

/// Whether tools may, must or must not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ToolMode {
    Auto,
    Any,
    Tool,
    None,
}

/// Whether to think. The budget is not kept.
#[derive(Debug, Deserialize, ToSchema)]
struct Thinking {
    r#type: ThinkingType,
}

/// Whether to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ThinkingType {
    Enabled,
    Disabled,
    Adaptive,
}

/// About the request.
#[derive(Debug, Deserialize, ToSchema)]
struct Metadata {
    user_id: Option<String>,
}

/// A request, ready to be submitted.
pub(crate) struct Prepared {
    pub(crate) job: Job,
    pub(crate) style: Style,
}

/// Parses and checks a request, writes its prompt and compiles its grammar.
pub(crate) fn prepare(app: &App, key_id: String, bytes: &[u8], arrived: Instant) -> ApiResult<Prepared> {
    let request: MessagesRequest = body::parse(bytes, &IGNORED)?;
    check_model(app, &request.model)?;
    let recommended = SamplingParams::recommended(&app.words.recommendation);
    let stop = request.stop_sequences.unwrap_or_default();
    let params = SamplingParams {
        temperature: request.temperature.unwrap_or(recommended.temperature),
        top_p: request.top_p.unwrap_or(recommended.top_p),
        top_k: request.top_k.or(recommended.top_k),
        max_tokens: Some(request.max_tokens),
        stop: stop.clone(),
        ..recommended
    };
    params.validate(app.engine.config().vocab_size)?;
    let user_id = user_id(request.metadata.and_then(|metadata| metadata.user_id))?;
    let thinking = thinking(app, &request.model, request.thinking);
    let conversation = conversation(request.messages, request.system, request.tools, request.tool_choice)?;
    check_length(app, &conversation)?;
    let prompt = prompt::write(app, Conversation { thinking, ..conversation })?;
    let constraint = prompt.grammar.map(|grammar| app.engine.constraint(&grammar)).transpose()?;
    if app.config.log_prompts {
        let text = app.words.tokenizer.decode(&prompt.ids, false).unwrap_or_default();
        tracing::info!(prompt = text, "messages");
    }
    let style = Style {
        model: app.model_id.clone(),
        prompt_tokens: prompt.ids.len(),
        reading: prompt.reading,
        stop,
        stream: request.stream == Some(true),
    };
    let caller = Caller { key_id, user_id };
    let prompts = vec![prompt.ids];
    let job = Job { route: "messages", caller, prompts, params, n: 1, constraint, arrived };
    Ok(Prepared { job, style })
}

/// The number of tokens of the prompt.
pub(crate) fn count(app: &App, bytes: &[u8]) -> ApiResult<usize> {
    let request: CountRequest = body::parse(bytes, &IGNORED)?;
    check_model(app, &request.model)?;
    let thinking = thinking(app, &request.model, request.thinking);
    let conversation = conversation(request.messages, request.system, request.tools, request.tool_choice)?;
    check_length(app, &conversation)?;
    Ok(prompt::write(app, Conversation { thinking, ..conversation })?.ids.len())
}

/// Anthropic's own names stand for whatever model is here.
fn check_model(app: &App, model: &str) -> ApiResult<()> {
    if model.starts_with("claude") { Ok(()) } else { app.check_model(model) }
}

fn check_length(app: &App, conversation: &Conversation) -> ApiResult<()> {
    let (have, most) = (conversation.messages.len(), app.config.max_messages);
    if have > most {
        return Err(ApiError::param("messages", format!("{have} turns; at most {most}")));
    }
    Ok(())
}

fn thinking(app: &App, model: &str, field: Option<Thinking>) -> Option<bool> {
    let asked = field.map(|thinking| thinking.r#type != ThinkingType::Disabled);
    asked.or_else(|| app.default_thinking(model))
}

fn conversation(
    turns: Vec<Turn>,
    system: Option<Text>,
    tools: Option<Vec<Tool>>,
    choice: Option<ToolChoiceField>,
) -> ApiResult<Conversation> {
    let mut messages = Vec::new();
    if let Some(system) = system {
        messages.push(Message::system(plain(system, "system")?));
    }
    let last = turns.len().saturating_sub(1);
    let mut prefix = None;
    for (index, turn) in turns.into_iter().enumerate() {
        let field = format!("messages[{index}].content");
        match turn.role {
            Role::System => messages.push(Message::system(plain(turn.content, &field)?)),
            Role::User => user_turn(turn.content, &field, &mut messages)?,
            Role::Assistant => {
                let message = assistant_turn(turn.content, &field)?;
                if index == last && message.tool_calls.is_none() {
                    let content = message.content.unwrap_or_default();
                    prefix = Some(Prefix { reasoning: message.reasoning_content, content });
                } else {
                    messages.push(message);
                }
            }
        }
    }
    let tools = tools.unwrap_or_default();
    let offered: Vec<Value> =
        tools.into_iter().enumerate().map(|(index, tool)| tool.convert(index)).collect::<ApiResult<_>>()?;
    let one_call = choice.as_ref().is_some_and(|choice| choice.disable_parallel_tool_use == Some(true));
    let known = |name: &str| offered.iter().any(|tool| tool["function"]["name"] == *name);
    let choice = match choice {
        None => Choice::Auto,
        Some(choice) => match (choice.r#type, choice.name) {
            (ToolMode::Auto, _) => Choice::Auto,
            (ToolMode::None, _) => Choice::None,
            (ToolMode::Any, _) if !offered.is_empty() => Choice::Required,
            (ToolMode::Tool, Some(name)) if known(&name) => Choice::Named(name),
            _ => return Err(ApiError::param("tool_choice", "it names no tool among `tools`")),
        },
    };
    Ok(Conversation { messages, tools: offered, choice, one_call, thinking: None, prefix, form: None })
}

impl Tool {
    fn convert(self, index: usize) -> ApiResult<Value> {
        if let Some(kind) = self.r#type.filter(|kind| kind != "custom") {
            let kind: String = kind.chars().take(40).collect();
            let message = format!("a tool of type {kind:?}: this server has no tools of its own");
            return Err(ApiError::param(format!("tools[{index}].type"), message));
        }
        let parameters = self.input_schema.unwrap_or_default();
        let mut function = json!({"name": self.name, "parameters": parameters});
        if let Some(description) = self.description {
            function["description"] = description.into();
        }
        if let Some(strict) = self.strict {
            function["strict"] = strict.into();
        }
        Ok(json!({"type": "function", "function": function}))
    }
}

/// A text of texts only.
fn plain(text: Text, field: &str) -> ApiResult<String> {
    match text {
        Text::Plain(text) => Ok(text),
        Text::Blocks(blocks) => {
            let texts = blocks.into_iter().enumerate().map(|(index, block)| {
                match (block.r#type.as_str(), block.text) {
                    ("text", Some(text)) => Ok(text),
                    (kind, _) => Err(unreadable(field, index, kind)),
                }
            });
            Ok(texts.collect::<ApiResult<Vec<String>>>()?.concat())
        }
    }
}

fn unreadable(field: &str, index: usize, kind: &str) -> ApiError {
    let kind: String = kind.chars().take(40).collect();
    let message =
        format!("a block of type {kind:?} cannot stand here, or lacks a field; this model reads text only");
    ApiError::param(format!("{field}[{index}]"), message)
}

/// Results of tools become turns of their own, before the text.
fn user_turn(content: Text, field: &str, messages: &mut Vec<Message>) -> ApiResult<()> {
    let blocks = match content {
        Text::Plain(text) => {
            messages.push(Message::user(text));
            return Ok(());
        }
        Text::Blocks(blocks) => blocks,
    };
    let (mut text, mut results) = (String::new(), 0);
    for (index, block) in blocks.into_iter().enumerate() {
        match (block.r#type.as_str(), block.text, block.tool_use_id) {
            ("text", Some(more), _) => text.push_str(&more),
            ("tool_result", _, Some(id)) => {
                let field = format!("{field}[{index}].content");
                let result: Text = match block.content {
                    None => Text::Plain(String::new()),
                    Some(content) => serde_json::from_value(content)
                        .map_err(|_| ApiError::param(&*field, "a text or blocks of texts belong here"))?,
                };
                let mut result = plain(result, &field)?;
                if block.is_error == Some(true) {
                    result.insert_str(0, "Error: ");
                }
                let id = Some(id);
                messages.push(Message { tool_call_id: id, ..Message::new("tool", result) });
                results += 1;
            }
            (kind, ..) => return Err(unreadable(field, index, kind)),
        }
    }
    if !text.is_empty() || results == 0 {
        messages.push(Message::user(text));
    }
    Ok(())
}

fn assistant_turn(content: Text, field: &str) -> ApiResult<Message> {
    let blocks = match content {
        Text::Plain(text) => return Ok(Message::assistant(text)),
        Text::Blocks(blocks) => blocks,
    };
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for (index, block) in blocks.into_iter().enumerate() {
        match (block.r#type.as_str(), block.text, block.thinking, block.id, block.name) {
            ("text", Some(more), ..) => text.push_str(&more),
            ("thinking", _, Some(more), ..) => reasoning.push_str(&more),
            ("redacted_thinking", ..) => {}
            ("tool_use", _, _, Some(id), Some(name)) => {
                let input = block.input.unwrap_or_else(|| json!({}));
                let function = json!({"name": name, "arguments": input.to_string()});
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            (kind, ..) => return Err(unreadable(field, index, kind)),
        }
    }
    Ok(Message {
        role: "assistant".to_owned(),
        content: (calls.is_empty() || !text.is_empty()).then_some(text),
        reasoning_content: (!reasoning.is_empty()).then_some(reasoning),
        tool_calls: (!calls.is_empty()).then_some(calls),
        ..Message::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> ApiResult<Conversation> {
        let request: CountRequest = body::parse(body.to_string().as_bytes(), &IGNORED)?;
        conversation(request.messages, request.system, request.tools, request.tool_choice)
    }

    #[test]
    fn blocks_become_turns() {
        let conversation = read(json!({
            "model": "m", "system": [{"type": "text", "text": "s"}],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "f"},
            "messages": [
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "t", "signature": ""},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "r"}]},
                    {"type": "text", "text": "v"}]},
                {"role": "assistant", "content": "begin"},
            ],
        }))
        .unwrap();
        let roles: Vec<&str> = conversation.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
        let call = &conversation.messages[2].tool_calls.as_ref().unwrap()[0];
        assert_eq!(call["function"]["arguments"], "{\"a\":1}");
        assert_eq!(conversation.messages[2].reasoning_content.as_deref(), Some("t"));
        assert_eq!(conversation.messages[3].content.as_deref(), Some("r"));
        assert_eq!(conversation.choice, Choice::Named("f".to_owned()));
        assert_eq!(conversation.prefix.unwrap().content, "begin");
    }

    #[test]
    fn mistakes() {
        for (messages, param) in [
            (json!([{"role": "user", "content": [{"type": "image"}]}]), "messages[0].content[0]"),
            (json!([{"role": "user", "content": [{"type": "tool_result"}]}]), "messages[0].content[0]"),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
        ] {
            let error = read(json!({"model": "m", "messages": messages})).expect_err("a mistake");
            assert_eq!(error.param.as_deref(), Some(param), "{messages}");
        }
    }
}
