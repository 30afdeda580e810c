//! The form of an answer that comes after reasoning, which is free.

use fathom_engine::Grammar;
use fathom_text::{Tokenizer, with_bounded_white_space};

/// The grammar of reasoning and an answer in the form of `grammar`.
pub(crate) fn after_reasoning(grammar: Grammar, tokenizer: &Tokenizer) -> Grammar {
    Grammar::Lark(fathom_text::after_reasoning(&lark(grammar), tokenizer))
}

fn lark(grammar: Grammar) -> String {
    match grammar {
        Grammar::JsonObject => lark(Grammar::JsonSchema(serde_json::json!({ "type": "object" }))),
        Grammar::JsonSchema(schema) => format!("start: %json {}\n", with_bounded_white_space(&schema)),
        Grammar::Regex(regex) => format!("start: /{}/\n", with_escaped_slashes(&regex)),
        Grammar::Lark(lark) => lark,
    }
}

/// A slash ends a regular expression in Lark unless a backslash stands before it.
fn with_escaped_slashes(regex: &str) -> String {
    let mut out = String::with_capacity(regex.len() + 8);
    let mut escaped = false;
    for c in regex.chars() {
        match c {
            '/' if !escaped => out.push_str("\\/"),
            '\n' => out.push_str(if escaped { "n" } else { "\\n" }),
            c => out.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_a_rule() {
        for (grammar, want) in [
            (Grammar::Regex("a/b\\/c".to_owned()), "start: /a\\/b\\/c/\n"),
            (Grammar::Regex("a\nb\\\\/".to_owned()), "start: /a\\nb\\\\\\//\n"),
            (Grammar::JsonSchema(serde_json::json!(false)), "start: %json false\n"),
            (Grammar::Lark("start: x".to_owned()), "start: x"),
        ] {
            assert_eq!(lark(grammar), want);
        }
    }
}
