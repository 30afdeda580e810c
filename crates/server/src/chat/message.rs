//! The messages of a request: what clients send becomes what templates know.

use fathom_text::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api_error::{ApiError, ApiResult};
use crate::prompt::Prefix;

/// One turn of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    /// Who speaks.
    pub(crate) role: Role,
    /// The text. May be absent in turns of the assistant that call tools.
    #[serde(default)]
    pub(crate) content: Option<Content>,
    /// The speaker's name.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// What the assistant thought before it answered.
    #[serde(default)]
    pub(crate) reasoning_content: Option<String>,
    /// The calls of an assistant's turn.
    #[serde(default)]
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool's turn answers.
    #[serde(default)]
    pub(crate) tool_call_id: Option<String>,
    /// On the last message, the assistant's: the answer begins with it.
    #[serde(default)]
    pub(crate) prefix: Option<bool>,
    /// Ignored: clients send back what they were given.
    #[serde(default, rename = "refusal")]
    #[schema(value_type = Option<String>)]
    _refusal: Option<Value>,
    /// Ignored.
    #[serde(default, rename = "annotations")]
    #[schema(value_type = Option<Vec<Object>>)]
    _annotations: Option<Value>,
    /// Ignored.
    #[serde(default, rename = "audio")]
    #[schema(value_type = Option<Object>)]
    _audio: Option<Value>,
    /// Ignored if null.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    function_call: Option<Value>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    System,
    /// OpenAI's newer word for system.
    Developer,
    User,
    Assistant,
    Tool,
}

/// A text, or its parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Part {
    /// `text`: this model reads nothing else.
    r#type: String,
    text: Option<String>,
}

/// The call of a tool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    /// `function`.
    #[serde(default = "function")]
    pub(crate) r#type: String,
    pub(crate) function: FunctionCall,
}

/// Which function with which arguments.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct FunctionCall {
    pub(crate) name: String,
    /// JSON, as text.
    pub(crate) arguments: String,
}

fn function() -> String {
    "function".to_owned()
}

impl Content {
    /// The text, its parts joined.
    pub(crate) fn text(self, field: &str) -> ApiResult<String> {
        let parts = match self {
            Content::Text(text) => return Ok(text),
            Content::Parts(parts) => parts,
        };
        let mut all = String::new();
        for (index, part) in parts.into_iter().enumerate() {
            match (part.r#type.as_str(), part.text) {
                ("text", Some(text)) => all.push_str(&text),
                (kind, _) => {
                    let kind: String = kind.chars().take(40).collect();
                    let message =
                        format!("a part of type {kind:?}: this model reads `text` parts with a `text` only");
                    return Err(ApiError::param(format!("{field}[{index}]"), message));
                }
            }
        }
        Ok(all)
    }
}

/// The messages for a template, and the answer's beginning if the last message is one.
pub(crate) fn convert(messages: Vec<ChatMessage>) -> ApiResult<(Vec<Message>, Option<Prefix>)> {
    let last = messages.len().saturating_sub(1);
    let mut converted = Vec::with_capacity(messages.len());
    let mut prefix = None;
    for (index, message) in messages.into_iter().enumerate() {
        let place = |field: &str| format!("messages[{index}].{field}");
        let role = message.role;
        if message.function_call.is_some() {
            return Err(ApiError::param(
                place("function_call"),
                "`function_call` is no more; use `tool_calls`",
            ));
        }
        let content = message.content.map(|content| content.text(&place("content"))).transpose()?;
        if content.is_none() && role != Role::Assistant {
            return Err(ApiError::param(place("content"), "a message needs a `content`"));
        }
        if message.prefix == Some(true) {
            if index != last || role != Role::Assistant {
                let message = "`prefix` belongs to the last message, and that to the assistant";
                return Err(ApiError::param(place("prefix"), message));
            }
            prefix =
                Some(Prefix { reasoning: message.reasoning_content, content: content.unwrap_or_default() });
            continue;
        }
        if role == Role::Tool && message.tool_call_id.is_none() {
            return Err(ApiError::param(
                place("tool_call_id"),
                "a tool's message names the call that it answers",
            ));
        }
        let calls = message.tool_calls.filter(|calls| !calls.is_empty());
        if calls.is_some() && role != Role::Assistant {
            return Err(ApiError::param(place("tool_calls"), "only the assistant calls tools"));
        }
        converted.push(Message {
            role: match role {
                Role::System | Role::Developer => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
                Role::Tool => "tool",
            }
            .to_owned(),
            // Turns that only call tools have no content in templates; others have one.
            content: if calls.is_none() { Some(content.unwrap_or_default()) } else { content },
            reasoning_content: message.reasoning_content,
            tool_calls: calls.map(|calls| calls.iter().map(|call| json!(call)).collect()),
            tool_call_id: message.tool_call_id,
            name: message.name,
            ..Message::default()
        });
    }
    Ok((converted, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: Value) -> ApiResult<(Vec<Message>, Option<Prefix>)> {
        convert(serde_json::from_value(messages).unwrap())
    }

    #[test]
    fn turns() {
        let (messages, prefix) = read(json!([
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "c", "name": "n"},
            {"role": "assistant", "content": null, "refusal": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "d", "tool_call_id": "1"},
            {"role": "assistant", "content": "e", "prefix": true, "reasoning_content": "r"},
        ]))
        .unwrap();
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        assert_eq!(messages[0].content.as_deref(), Some("ab"));
        assert_eq!(
            (messages[2].content.as_deref(), messages[2].tool_calls.as_ref().unwrap().len()),
            (None, 1)
        );
        let prefix = prefix.unwrap();
        assert_eq!((prefix.content.as_str(), prefix.reasoning.as_deref()), ("e", Some("r")));
    }

    #[test]
    fn mistakes() {
        for (messages, param) in [
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0]"),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
            (json!([{"role": "user", "content": "x", "prefix": true}]), "messages[0].prefix"),
            (
                json!([{"role": "assistant", "content": "x", "prefix": true}, {"role": "user", "content": "x"}]),
                "messages[0].prefix",
            ),
            (json!([{"role": "assistant", "function_call": {}}]), "messages[0].function_call"),
        ] {
            let error = read(messages.clone()).expect_err("a mistake");
            assert_eq!(error.param.as_deref(), Some(param), "{messages}");
        }
    }
}
