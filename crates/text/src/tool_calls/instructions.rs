//! Tools told to a model whose chat template does not.

use std::fmt::Write as _;

use serde_json::Value;

use super::{CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, SEP, ToolCallFormat};

/// A system text that lists the tools and shows how one is called.
pub(crate) fn instructions(format: ToolCallFormat, tools: &[Value]) -> String {
    let example = match format {
        ToolCallFormat::V3 => {
            format!(
                "function{SEP}FUNCTION_NAME\n```json\n{{\"param1\": \"value1\", \"param2\": \"value2\"}}\n```"
            )
        }
        ToolCallFormat::V31 => {
            format!("FUNCTION_NAME{SEP}{{\"param1\": \"value1\", \"param2\": \"value2\"}}")
        }
    };
    let mut text = format!(
        "You can call tools. When a tool call is needed, you MUST write it in this form:\n\
         {CALLS_BEGIN}{CALL_BEGIN}{example}{CALL_END}{CALLS_END}\n\n\
         The parameters are valid JSON. Several calls may stand one after another between {CALLS_BEGIN} and \
         {CALLS_END}.\n\n## Tools\n\n### Function\n\nYou have the following functions:\n"
    );
    for tool in tools {
        let function = tool.get("function").unwrap_or(tool);
        let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = write!(text, "\n- `{name}`:\n```json\n{function}\n```\n");
    }
    text
}
