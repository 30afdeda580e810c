//! A conversation, in the shape that chat templates expect.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation.
///
/// In a template, fields that are not set do not exist (`'tool_calls' in message` is false), except
/// `content`, which is then `none`: templates ask `message['content'] is none` of turns that only call tools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`; the template decides which it knows.
    pub role: String,
    /// The text.
    #[serde(default)]
    pub content: Option<String>,
    /// What the assistant thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The tools that the assistant calls, as in OpenAI's API:
    /// `{"id", "type": "function", "function": {"name", "arguments"}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// The call that a `tool` turn answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The name of the speaker or tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Any other fields that the template may know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A turn with a role and text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), ..Self::default() }
    }

    /// Instructions to the assistant.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the assistant answers.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// What a chat template is rendered with.
#[derive(Clone, Debug, Default)]
pub struct ChatInput<'a> {
    /// The conversation, oldest turn first.
    pub messages: &'a [Message],
    /// The tools on offer, as JSON schemas; `none` in the template if absent.
    pub tools: Option<&'a [Value]>,
    /// Whether the prompt ends with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables, such as `thinking: true`; they override those of the same name.
    pub extra: Map<String, Value>,
    /// The time for `strftime_now`, in UTC; the clock's if absent.
    pub now: Option<SystemTime>,
}

impl<'a> ChatInput<'a> {
    /// The conversation as a prompt that the assistant is to answer.
    pub fn to_answer(messages: &'a [Message]) -> Self {
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_are_absent_keys_but_content_is_null() {
        let json = |message: &Message| serde_json::to_string(message).unwrap();
        assert_eq!(json(&Message::user("hi")), r#"{"role":"user","content":"hi"}"#);
        let text = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"1"}],"mood":"glad"}"#;
        let message: Message = serde_json::from_str(text).unwrap();
        assert_eq!(message.content, None);
        assert_eq!(message.extra["mood"], "glad");
        assert_eq!(json(&message), text);
        let bare: Message = serde_json::from_str(r#"{"role":"assistant","tool_calls":null}"#).unwrap();
        assert_eq!(json(&bare), r#"{"role":"assistant","content":null}"#);
    }
}
