//! A conversation becomes the prompt that the model was trained on.

use std::collections::HashSet;

use fathom_engine::Grammar;
use fathom_text::{ChatInput, Message, ToolChoice, encode_chat, tool_grammar};
use serde_json::{Map, Value};

use crate::answer::Reading;
use crate::api_error::{ApiError, ApiResult};
use crate::app::App;
use crate::grammar::after_reasoning;

/// Most tools on offer.
const TOOLS_MAX: usize = 128;

/// A conversation, in no API's words.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    /// `{"type": "function", "function": {"name", "description", "parameters", "strict"}}`.
    pub(crate) tools: Vec<Value>,
    pub(crate) choice: Choice,
    pub(crate) one_call: bool,
    pub(crate) thinking: Option<bool>,
    /// The answer's own beginning.
    pub(crate) prefix: Option<Prefix>,
    /// The form that the answer must have.
    pub(crate) form: Option<Grammar>,
}

/// Whether tools may, must or must not be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// How an answer begins.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    pub(crate) reasoning: Option<String>,
    pub(crate) content: String,
}

/// A conversation as the engine wants it.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    pub(crate) reading: Reading,
    pub(crate) grammar: Option<Grammar>,
}

/// Writes the conversation down and chooses the grammar of its answer.
pub(crate) fn write(app: &App, conversation: Conversation) -> ApiResult<Prompt> {
    let words = &app.words;
    let Some(template) = &words.template else {
        return Err(ApiError::param("messages", "this model has no chat template; use /v1/completions"));
    };
    if conversation.messages.is_empty() && conversation.prefix.is_none() {
        return Err(ApiError::param("messages", "`messages` is empty; give at least one"));
    }
    check_tools(&conversation.tools)?;
    let offered = !conversation.tools.is_empty() && conversation.choice != Choice::None;
    let format = match (offered, app.tool_format) {
        (false, _) => None,
        (true, Some(format)) => Some(format),
        (true, None) => {
            return Err(ApiError::param("tools", "this model's chat template has no place for tools"));
        }
    };
    let mut extra = Map::new();
    if let Some(thinking) = conversation.thinking {
        extra.insert("thinking".to_owned(), thinking.into());
        extra.insert("enable_thinking".to_owned(), thinking.into());
    }
    let input = ChatInput {
        messages: &conversation.messages,
        tools: offered.then_some(conversation.tools.as_slice()),
        add_generation_prompt: true,
        extra,
        now: None,
    };
    let written = encode_chat(template, &words.tokenizer, &input)?;
    let (mut ids, mut in_reasoning) = (written.ids, written.starts_in_reasoning);
    if let Some(prefix) = &conversation.prefix {
        in_reasoning = continue_with(app, &mut ids, in_reasoning, prefix)?;
    }
    if ids.is_empty() {
        return Err(ApiError::internal("the chat template wrote nothing"));
    }
    let mut grammar = conversation.form;
    if let Some(format) = format {
        let functions: Vec<Value> = conversation.tools.iter().map(|tool| tool["function"].clone()).collect();
        let strict = functions.iter().any(|function| function["strict"] == true);
        let choice = match conversation.choice {
            Choice::Required => Some(ToolChoice::Required),
            Choice::Named(name) => Some(ToolChoice::Named(name)),
            // A grammar costs time for every token, so it is for those who asked that arguments fit.
            Choice::Auto if strict && grammar.is_none() => Some(ToolChoice::Auto),
            Choice::Auto | Choice::None => None,
        };
        if let Some(choice) = choice {
            let lark = tool_grammar(format, &functions, &choice, &words.tokenizer)
                .map_err(|error| ApiError::param("tools", error.to_string()))?;
            grammar = Some(Grammar::Lark(lark));
        }
    }
    Ok(Prompt {
        ids,
        reading: Reading { reasoning: Some(in_reasoning), tools: format, one_call: conversation.one_call },
        grammar: grammar
            .map(|form| if in_reasoning { after_reasoning(form, &words.tokenizer) } else { form }),
    })
}

/// Appends the answer's beginning. Its text is encoded plain; whether the reasoning is still open is returned.
fn continue_with(app: &App, ids: &mut Vec<u32>, in_reasoning: bool, prefix: &Prefix) -> ApiResult<bool> {
    let tokenizer = &app.words.tokenizer;
    let tag = |tag: &str| tokenizer.encode(tag, false);
    let mut open = in_reasoning;
    if let Some(reasoning) = prefix.reasoning.as_deref().filter(|text| !text.is_empty()) {
        if !open {
            ids.extend(tag("<think>")?);
            open = true;
        }
        ids.extend(tokenizer.encode_plain(reasoning)?);
    }
    if !prefix.content.is_empty() {
        if open {
            ids.extend(tag("</think>")?);
            open = false;
        }
        ids.extend(tokenizer.encode_plain(&prefix.content)?);
    }
    Ok(open)
}

/// Names must be the ones that the API allows, each once.
fn check_tools(tools: &[Value]) -> ApiResult<()> {
    if tools.len() > TOOLS_MAX {
        return Err(ApiError::param("tools", format!("{} tools; at most {TOOLS_MAX}", tools.len())));
    }
    let mut seen = HashSet::new();
    for (index, tool) in tools.iter().enumerate() {
        let name = tool["function"]["name"].as_str().unwrap_or_default();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let problem = if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            "must have 1 to 64 characters of a-z A-Z 0-9 _ -"
        } else if !seen.insert(name) {
            "is there a second time"
        } else {
            continue;
        };
        return Err(ApiError::param(format!("tools[{index}].function.name"), format!("the name {problem}")));
    }
    Ok(())
}
