//! What an answer with tools may look like, as a grammar for the sampler.
//!
//! The grammars are Lark's, in the dialect of `llguidance`: `<[7]>` is the token with that id, `%json` a JSON
//! schema. Markers are written as tokens where the vocabulary has them; a sampler then cannot spell one out in
//! other tokens, nor can a model be led to by what it reads.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, NAME_MAX, SEP, ToolCallFormat, is_name};
use crate::error::{Error, Result};
use crate::files::kind;
use crate::json_form::with_bounded_white_space;
use crate::tokenizer::Tokenizer;

/// Whether and which tools an answer calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// Text, calls, or text and then calls.
    Auto,
    /// At least one call, of any tools.
    Required,
    /// One call of this tool.
    Named(String),
}

/// A Lark grammar of the answers that `choice` allows. The arguments of a call fit the schema of its tool.
///
/// `tools` are OpenAI's objects, `{"type": "function", "function": {"name", "parameters"}}`, or the inner object
/// alone. Whether the schemas themselves make sense is for the compiler of the grammar to say.
///
/// # Errors
/// [`Error::Tool`] for a tool without a usable name, one whose parameters are no object, two of one name, a
/// choice that names none of them, or no tools.
pub fn tool_grammar(
    format: ToolCallFormat,
    tools: &[Value],
    choice: &ToolChoice,
    tokenizer: &Tokenizer,
) -> Result<String> {
    let mut functions = parse(tools)?;
    if let ToolChoice::Named(wanted) = choice {
        functions.retain(|function| function.name == wanted);
    }
    if functions.is_empty() {
        let (expected, got) = match choice {
            ToolChoice::Named(name) => ("the name of one of the tools", format!("{name:?}")),
            ToolChoice::Auto | ToolChoice::Required => ("at least one tool", "none".to_owned()),
        };
        return Err(Error::Tool { field: "tool_choice".to_owned(), expected, got });
    }
    let marker = |text: &str| marker(tokenizer, text);
    let (begin, end) = (marker(CALLS_BEGIN), marker(CALLS_END));
    // V3's template writes a line end between calls; models copy it or not.
    let calls = match choice {
        ToolChoice::Named(_) => format!("call {end}"),
        ToolChoice::Auto | ToolChoice::Required => format!("call (\"\\n\"? call)* {end}"),
    };
    let mut grammar = match choice {
        ToolChoice::Named(_) | ToolChoice::Required => format!("start: {begin} calls\n"),
        ToolChoice::Auto => auto_start(tokenizer, &begin),
    };
    let separator = marker(SEP);
    let (before, between, after) = match format {
        ToolCallFormat::V3 => {
            (format!("\"function\" {separator} "), " \"\\n```json\\n\" ".to_owned(), " \"\\n```\"")
        }
        ToolCallFormat::V31 => (String::new(), format!(" {separator} "), ""),
    };
    let names: Vec<String> = (0..functions.len()).map(|i| format!("tool_{i}")).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(grammar, "calls: {calls}");
    let _ = writeln!(
        grammar,
        "call: {} {before}({}){after} {}",
        marker(CALL_BEGIN),
        names.join(" | "),
        marker(CALL_END)
    );
    for (function, rule) in functions.iter().zip(names) {
        let parameters = with_bounded_white_space(&function.parameters);
        let _ = writeln!(grammar, "{rule}: \"{}\"{between}%json {parameters}", function.name);
    }
    Ok(grammar)
}

/// `grammar`, to be obeyed only after the reasoning of an answer that begins in it: any text up to `</think>`,
/// and line ends. `grammar` is Lark with a rule `start`.
pub fn after_reasoning(grammar: &str, tokenizer: &Tokenizer) -> String {
    match tokenizer.token_to_id("</think>") {
        Some(close) => {
            format!(
                "start: REASONING? <[{close}]> GAP? answer\nREASONING: {ANY}+\nGAP: /\\n{{1,2}}/\nanswer: %lark {{\n{grammar}\n}}\n"
            )
        }
        None => format!(
            "start: reasoning GAP? answer\nreasoning[suffix=\"</think>\"]: /(.|\\n)*/\nGAP: /\\n{{1,2}}/\n\
             answer: %lark {{\n{grammar}\n}}\n"
        ),
    }
}

const ANY: &str = "/(.|\\n)/";

/// Text that may be followed by calls.
fn auto_start(tokenizer: &Tokenizer, begin: &str) -> String {
    if tokenizer.token_to_id(CALLS_BEGIN).is_none() {
        // The marker is spelled out in characters, so text must not contain it.
        return format!(
            "start: TEXT | lead calls\nlead[suffix={begin}]: /(.|\\n)*/\n\
             TEXT: /(.|\\n)*/ & ~/(.|\\n)*{CALLS_BEGIN}(.|\\n)*/\n"
        );
    }
    // The tokens of reasoning are no characters to a sampler that keeps control tokens out of text.
    let reasoning: Vec<String> = ["<think>", "</think>"]
        .iter()
        .filter_map(|token| tokenizer.token_to_id(token))
        .map(|id| format!("<[{id}]>"))
        .collect();
    let text: Vec<String> = std::iter::once("TEXT".to_owned()).chain(reasoning).collect();
    format!("start: text* ({begin} calls)?\ntext: {}\nTEXT: {ANY}+\n", text.join(" | "))
}

/// A marker as a token if it is one, else as its characters.
fn marker(tokenizer: &Tokenizer, text: &str) -> String {
    match tokenizer.token_to_id(text) {
        Some(id) => format!("<[{id}]>"),
        None => format!("\"{text}\""),
    }
}

struct Function<'a> {
    name: &'a str,
    parameters: Value,
}

fn parse(tools: &[Value]) -> Result<Vec<Function<'_>>> {
    let mut functions: Vec<Function> = Vec::with_capacity(tools.len());
    for (i, tool) in tools.iter().enumerate() {
        let wrong = |field: &str, expected, got: String| {
            Err(Error::Tool { field: format!("tools[{i}].function.{field}"), expected, got })
        };
        let function = tool.get("function").unwrap_or(tool);
        let name = match function.get("name") {
            Some(Value::String(name)) if is_name(name) => name,
            other => {
                let got = other.map_or_else(|| "none".to_owned(), kind);
                const { assert!(NAME_MAX == 64) };
                return wrong("name", "1 to 64 letters, digits, _ or -", got);
            }
        };
        if functions.iter().any(|function| function.name == name) {
            return wrong("name", "a name that no other tool has", format!("{name:?}"));
        }
        let parameters = match function.get("parameters") {
            None | Some(Value::Null) => {
                json!({ "type": "object", "properties": {}, "additionalProperties": false })
            }
            Some(Value::Object(schema)) => {
                let mut schema = schema.clone();
                let shaped = ["type", "$ref", "anyOf", "oneOf", "allOf", "const", "enum"];
                if !shaped.iter().any(|&key| schema.contains_key(key)) {
                    schema.insert("type".to_owned(), "object".into());
                }
                Value::Object(schema)
            }
            Some(other) => return wrong("parameters", "a JSON schema: an object", kind(other)),
        };
        functions.push(Function { name, parameters });
    }
    Ok(functions)
}
