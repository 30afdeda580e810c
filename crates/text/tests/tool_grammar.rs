//! The grammars of tool calls, run by the library that the sampler runs them with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fathom_text::{Tokenizer, ToolCallFormat, ToolChoice, after_reasoning, tool_grammar};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

const MARKERS: [&str; 5] = [
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
];

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

/// The small tokenizer, with the markers as added tokens or without.
fn tokenizer(with_markers: bool) -> Tokenizer {
    let json = std::fs::read(fixture("tiny-v3/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&json).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for (i, marker) in MARKERS.iter().enumerate().filter(|_| with_markers) {
        added.push(json!({
            "id": 512 + i, "content": marker, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false,
        }));
    }
    Tokenizer::from_bytes(json.to_string().as_bytes(), None).unwrap()
}

/// The bytes of byte-level BPE (GPT-2's table); control tokens behind the byte that marks them.
fn token_bytes(token: &str) -> Vec<u8> {
    if token.starts_with('<') && token.ends_with('>') && token.len() > 3 {
        return [&[0xff], token.as_bytes()].concat();
    }
    let plain = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let rest: Vec<u32> = (0..256).filter(|&b| !plain(b)).collect();
    token.chars().map(|c| if c as u32 >= 0x100 { rest[c as usize - 0x100] } else { c as u32 } as u8).collect()
}

fn environment(tokenizer: &Tokenizer) -> TokEnv {
    let size = tokenizer.vocab_size() as u32;
    let words: Vec<Vec<u8>> = (0..size)
        .map(|id| tokenizer.id_to_token(id).map_or(Vec::new(), |token| token_bytes(&token)))
        .collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, 1), &words);
    Arc::new(ApproximateTokEnv::new(trie))
}

struct Grammar {
    tokenizer: Tokenizer,
    factory: ParserFactory,
    lark: String,
}

impl Grammar {
    fn new(with_markers: bool, format: ToolCallFormat, choice: &ToolChoice) -> Self {
        let tokenizer = tokenizer(with_markers);
        let tools = [
            json!({"type": "function", "function": {"name": "rain", "parameters": {
                "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                "additionalProperties": false}}}),
            json!({"type": "function", "function": {"name": "now"}}),
        ];
        let lark = tool_grammar(format, &tools, choice, &tokenizer).unwrap();
        let mut factory = ParserFactory::new_simple(&environment(&tokenizer)).unwrap();
        factory.quiet();
        Self { tokenizer, factory, lark }
    }

    /// Whether the whole text is an answer, and how much of it is the beginning of one.
    fn run(&self, text: &str) -> (bool, String) {
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(self.lark.clone()));
        let mut matcher = Matcher::new(parser);
        assert!(!matcher.is_error(), "{:?}\n{}", matcher.get_error(), self.lark);
        let ids = self.tokenizer.encode(text, false).unwrap();
        // As a sampler goes: each token must be in the mask.
        for (i, &id) in ids.iter().enumerate() {
            if !matcher.compute_mask_or_eos().unwrap().is_allowed(id) {
                return (false, self.tokenizer.decode(&ids[..i], false).unwrap());
            }
            matcher.consume_token(id).unwrap();
        }
        (matcher.is_accepting().unwrap(), text.to_owned())
    }

    #[track_caller]
    fn accepts(&self, text: &str) {
        let (accepted, begun) = self.run(text);
        assert!(accepted, "{text:?} only as far as {begun:?}\n{}", self.lark);
    }

    #[track_caller]
    fn refuses(&self, text: &str) {
        assert!(!self.run(text).0, "{text:?}\n{}", self.lark);
    }
}

fn v31(calls: &[(&str, &str)]) -> String {
    let call = |(name, arguments): &(&str, &str)| {
        format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>")
    };
    let calls: String = calls.iter().map(call).collect();
    format!("<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>")
}

fn v3(calls: &[(&str, &str)]) -> String {
    let call = |(name, arguments): &(&str, &str)| {
        format!(
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"
        )
    };
    let calls: Vec<String> = calls.iter().map(call).collect();
    format!("<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>", calls.join("\n"))
}

const GOOD: (&str, &str) = ("rain", "{\"city\": \"Oslo\"}");

#[test]
fn calls_that_must_be() {
    for with_markers in [true, false] {
        for (format, write) in
            [(ToolCallFormat::V31, v31 as fn(&[(&str, &str)]) -> String), (ToolCallFormat::V3, v3)]
        {
            let grammar = Grammar::new(with_markers, format, &ToolChoice::Required);
            grammar.accepts(&write(&[GOOD]));
            grammar.accepts(&write(&[GOOD, ("now", "{}"), ("rain", "{ \"city\":\"ｘ\"}")]));
            grammar.refuses(&write(&[]));
            grammar.refuses("text");
            grammar.refuses(&format!("text{}", write(&[GOOD])));
            grammar.refuses(&write(&[("rain", "{}")]));
            grammar.refuses(&write(&[("rain", "{\"city\": 3}")]));
            grammar.refuses(&write(&[("snow", "{}")]));
            grammar.refuses(&write(&[("now", "[]")]));

            let grammar = Grammar::new(with_markers, format, &ToolChoice::Named("now".into()));
            grammar.accepts(&write(&[("now", "{}")]));
            grammar.refuses(&write(&[GOOD]));
            grammar.refuses(&write(&[("now", "{}"), ("now", "{}")]));
        }
    }
}

#[test]
fn calls_that_may_be() {
    for with_markers in [true, false] {
        for (format, write) in
            [(ToolCallFormat::V31, v31 as fn(&[(&str, &str)]) -> String), (ToolCallFormat::V3, v3)]
        {
            let grammar = Grammar::new(with_markers, format, &ToolChoice::Auto);
            grammar.accepts("");
            grammar.accepts("plain < text\n\n```json é```");
            grammar.accepts(&write(&[GOOD, ("now", "{}")]));
            grammar.accepts(&format!("Let me look.\n{}", write(&[GOOD])));
            grammar.refuses(&format!("Let me look.\n{}", write(&[("rain", "{}")])));
            grammar.refuses(&write(&[("snow", "{}")]));
        }
    }
    Grammar::new(true, ToolCallFormat::V31, &ToolChoice::Auto).accepts("<think>why</think>text");
}

#[test]
fn calls_after_reasoning() {
    let mut grammar = Grammar::new(true, ToolCallFormat::V31, &ToolChoice::Required);
    grammar.lark = after_reasoning(&grammar.lark, &grammar.tokenizer);
    grammar.accepts(&format!("I think so.</think>{}", v31(&[GOOD])));
    grammar.accepts(&format!("I think so.</think>\n\n{}", v31(&[GOOD])));
    grammar.accepts(&format!("</think>{}", v31(&[GOOD])));
    grammar.refuses(&v31(&[GOOD]));
    grammar.refuses("I think so.</think>text");
    grammar.lark = after_reasoning("start: %json {\"type\": \"object\"}", &grammar.tokenizer);
    grammar.accepts("so {</think>{\"a\": {}}");
    grammar.refuses("so</think>3");
}

#[test]
fn white_space_is_bounded() {
    let grammar = Grammar::new(true, ToolCallFormat::V31, &ToolChoice::Required);
    let call = |spaces: usize| v31(&[("rain", &format!("{{{}\"city\": \"Rome\"}}", " ".repeat(spaces)))]);
    grammar.accepts(&call(0));
    grammar.accepts(&call(64));
    grammar.refuses(&call(65));
    grammar.refuses(&call(200));
}

#[test]
fn wrong_tools() {
    let tokenizer = tokenizer(true);
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let rows: [(Vec<Value>, ToolChoice, &str); 7] = [
        (vec![], ToolChoice::Auto, "`tool_choice`: expected at least one tool, got none"),
        (
            vec![tool("a")],
            ToolChoice::Named("b".into()),
            "`tool_choice`: expected the name of one of the tools, got \"b\"",
        ),
        (
            vec![tool("a"), tool("a")],
            ToolChoice::Auto,
            "`tools[1].function.name`: expected a name that no other",
        ),
        (vec![tool("a b")], ToolChoice::Auto, "`tools[0].function.name`: expected 1 to 64"),
        (vec![tool("\"")], ToolChoice::Auto, "`tools[0].function.name`: expected 1 to 64"),
        (
            vec![json!({})],
            ToolChoice::Auto,
            "`tools[0].function.name`: expected 1 to 64 letters, digits, _ or -, got none",
        ),
        (vec![json!({"name": "a", "parameters": 3})], ToolChoice::Auto, "`tools[0].function.parameters`"),
    ];
    for (tools, choice, want) in rows {
        let message = tool_grammar(ToolCallFormat::V31, &tools, &choice, &tokenizer).unwrap_err().to_string();
        assert!(message.starts_with(want), "{message}");
    }
}
