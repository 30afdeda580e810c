//! Chat templates against Jinja2 (fixtures/deepseek-v3-tokenizer/gen_chat_golden.py), their errors, and
//! templates that mean harm.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fathom_text::{ChatInput, ChatTemplate, Message, SpecialTokens, TokenizerConfig};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Golden {
    now: u64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    #[serde(default)]
    source: String,
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
    #[serde(default)]
    add_generation_prompt: bool,
    #[serde(default)]
    extra: Map<String, Value>,
    expected: String,
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

#[test]
fn renders_what_jinja2_renders() {
    let v3 = fixture("deepseek-v3-tokenizer");
    let golden = std::fs::read(v3.join("chat_golden.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&golden).unwrap();
    let tokens = TokenizerConfig::from_dir(&v3).unwrap().special_tokens;
    assert!(golden.cases.len() > 30);
    for case in &golden.cases {
        let template = match case.template.as_str() {
            "deepseek-v3" => ChatTemplate::from_dir(&v3),
            "tiny-v3" => ChatTemplate::from_dir(&fixture("tiny-v3")),
            _ => ChatTemplate::from_source(&case.source, Path::new("inline"), &tokens),
        };
        let got = template.unwrap().render(&ChatInput {
            messages: &case.messages,
            tools: case.tools.as_deref(),
            add_generation_prompt: case.add_generation_prompt,
            extra: case.extra.clone(),
            now: Some(UNIX_EPOCH + Duration::from_secs(golden.now)),
        });
        let shown = serde_json::to_string(&case.messages).unwrap();
        assert_eq!(got.unwrap(), case.expected, "{} {}{shown}", case.template, case.source);
    }
}

fn render(source: &str) -> Result<String, fathom_text::Error> {
    let template = ChatTemplate::from_source(source, Path::new("m/t.jinja"), &SpecialTokens::default())?;
    template.render(&ChatInput::to_answer(&[Message::user("hi")]))
}

#[test]
fn errors_name_file_line_and_reason() {
    let rows = [
        ("a\n{{ raise_exception('no system turn, please') }}", "line 2: no system turn, please"),
        ("a\n\n{% for %}", "line 3: syntax error"),
        ("{{ messages[0].x.y }}", "line 1: undefined value"),
        ("{% if true %}", "line 1: syntax error"),
        ("{{ nothing() }}", "line 1: unknown function"),
        ("{% include 'tokenizer.json' %}", "line 1: template not found"),
        ("{{ messages | tojson(width=3) }}", "line 1: too many arguments: unknown keyword argument 'width'"),
        ("{{ missing | tojson }}", "line 1: could not serialize to value: tojson: an undefined value"),
        ("{{ '' | tojson(indent=-1) }}", "line 1: "),
    ];
    for (source, want) in rows {
        let message = render(source).expect_err(source).to_string();
        assert!(message.starts_with("m/t.jinja: chat template, "), "{message}");
        assert!(message.contains(want), "{source}: {message}");
    }
}

#[test]
fn a_template_cannot_hang_or_eat_the_memory() {
    let nest = |from: &str, step: &str, rounds: usize, then: &str| {
        format!(
            "{{% set ns = namespace(x={from}) %}}{{% for i in range({rounds}) %}}{{% set ns.x = {step} %}}\
             {{% endfor %}}{then}"
        )
    };
    let rows = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{{ 'a' * 1000000000000 }}".to_owned(),
        nest("'ab'", "ns.x + ns.x", 60, ""),
        nest("'aa'", "ns.x.replace('a', ns.x)", 20, ""),
        nest("'ab'", "ns.x ~ ns.x", 15, "{{ ns.x.join(range(50000)) | length }}"),
        nest("[1]", "[ns.x, ns.x]", 60, "{{ ns.x | tojson }}"),
        nest("[1]", "[ns.x, ns.x]", 60, "{{ ns.x }}"),
        nest("[1]", "[ns.x, ns.x]", 60, "{{ ns.x | string }}"),
        nest("[1]", "[ns.x, ns.x]", 60, "{{ ','.join(ns.x) }}"),
        nest("[1]", "[ns.x]", 200, "{{ ns.x | tojson }}"),
        // Runs out of fuel with the deepest value that it buys, which then has to be dropped.
        nest("1", &format!("{}ns.x{}", "[".repeat(100), "]".repeat(100)), 90_000, ""),
        nest("1", &format!("{}ns.x{}", "{1:".repeat(100), "}".repeat(100)), 90_000, ""),
        "{{ '{:>1000000000000}'.format('a') }}".to_owned(),
        "{{ '{:>{}}'.format('a', 1000000000000) }}".to_owned(),
        "{{ '%1000000000000d' | format(3) }}".to_owned(),
        format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
    ];
    for source in rows {
        let shown: String = source.chars().take(160).collect();
        let message = render(&source).expect_err(&shown).to_string();
        assert!(!message.contains("did not finish"), "the deadline is the last resort: {shown}");
    }
}

#[test]
fn long_conversations_stay_within_the_budget() {
    let template = ChatTemplate::from_dir(&fixture("deepseek-v3-tokenizer")).unwrap();
    let mut messages = Vec::new();
    for _ in 0..2_000 {
        messages.push(Message::user("question ".repeat(50)));
        messages.push(Message::assistant("<think>hm</think>answer ".repeat(50)));
    }
    let prompt = template.render(&ChatInput::to_answer(&messages)).unwrap();
    assert!(prompt.ends_with("question <｜Assistant｜>answer <｜end▁of▁sentence｜><｜Assistant｜>"));
}

#[test]
fn where_the_template_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let prompt = |tools: &[Value]| {
        let input = ChatInput { tools: Some(tools), ..ChatInput::default() };
        ChatTemplate::from_dir(dir.path()).and_then(|template| template.render(&input))
    };
    let none = prompt(&[]).unwrap_err().to_string();
    assert!(none.contains("no chat template") && none.contains("--raw"), "{none}");

    write(
        "tokenizer_config.json",
        &json!({"bos_token": "<s>", "chat_template": "one{{ bos_token }}"}).to_string(),
    );
    assert_eq!(prompt(&[]).unwrap(), "one<s>");

    let two = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]);
    write("tokenizer_config.json", &json!({"bos_token": "<s>", "chat_template": two}).to_string());
    assert_eq!(prompt(&[]).unwrap(), "plain");
    assert_eq!(prompt(&[json!({})]).unwrap(), "tools");

    write("chat_template.jinja", "file{{ bos_token }}\n");
    assert_eq!(prompt(&[]).unwrap(), "file<s>");

    write("chat_template.jinja", "file\n{{");
    let broken = prompt(&[]).unwrap_err().to_string();
    assert!(broken.contains("chat_template.jinja: chat template, line 2: syntax error"), "{broken}");
}
