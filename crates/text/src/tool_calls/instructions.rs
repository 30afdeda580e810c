//! Tools told to a model whose chat template does not.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, SEP, ToolCallFormat};

/// A system text that lists the tools and shows how one is called.
pub(crate) fn instructions(format: ToolCallFormat, tools: &[Value]) -> String {
    match format {
        ToolCallFormat::V3 => v3(tools),
        ToolCallFormat::V31 => v31(tools),
    }
}

fn v3(tools: &[Value]) -> String {
    let mut text = format!(
        "You can call tools. When a tool call is needed, you MUST write it in this form:\n\
         {CALLS_BEGIN}{CALL_BEGIN}function{SEP}FUNCTION_NAME\n```json\n{{\"param1\": \"value1\", \"param2\": \
         \"value2\"}}\n```{CALL_END}{CALLS_END}\n\n\
         The parameters are valid JSON. Several calls may stand one after another between {CALLS_BEGIN} and \
         {CALLS_END}.\n\n## Tools\n\n### Function\n\nYou have the following functions:\n"
    );
    for function in functions(tools) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n- `{}`:\n```json\n{function}\n```\n", word(function, "name"));
    }
    text
}

/// The words that V3.1 was trained on (section ToolCall of its model card).
fn v31(tools: &[Value]) -> String {
    let mut text = "## Tools\nYou have access to the following tools:\n".to_owned();
    for function in functions(tools) {
        let (name, description) = (word(function, "name"), word(function, "description"));
        let parameters = function.get("parameters").cloned().unwrap_or_else(|| json!({}));
        let _ = write!(text, "\n### {name}\nDescription: {description}\n\nParameters: {parameters}\n");
    }
    let _ = write!(
        text,
        "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n\
         {CALLS_BEGIN}{CALL_BEGIN}tool_call_name{SEP}tool_call_arguments{CALL_END}\
         {{additional_tool_calls}}{CALLS_END}\n\nWhere:\n\n\
         - `tool_call_name` must be an exact match to one of the available tools\n\
         - `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n\
         - For multiple tool calls, chain them directly without separators or spaces\n"
    );
    text
}

fn functions(tools: &[Value]) -> impl Iterator<Item = &Value> {
    tools.iter().map(|tool| tool.get("function").unwrap_or(tool))
}

fn word<'a>(function: &'a Value, field: &str) -> &'a str {
    function.get(field).and_then(Value::as_str).unwrap_or_default()
}
