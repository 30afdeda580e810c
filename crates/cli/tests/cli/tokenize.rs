//! `fathom tokenize`.

use serde_json::{Value, json};

use crate::fathom::{Golden, fixture, run, run_with, scratch};

#[test]
fn text_becomes_ids_and_ids_become_text() {
    let model = fixture("tiny-v3");
    for text in ["Hello, 世界! def f(x): return x**2  # 12345", "a\n\n b\r\n", " ", "", "<｜User｜>hi", "🦀é"]
    {
        let ids = run_with("tokenize", &model, &[], text.as_bytes()).ok().stdout;
        let count = serde_json::from_str::<Value>(&ids).unwrap().as_array().unwrap().len();
        assert_eq!(run_with("tokenize", &model, &["--decode"], ids.as_bytes()).ok().stdout, text);
        assert_eq!(
            run_with("tokenize", &model, &["--count"], text.as_bytes()).ok().stdout,
            format!("{count}\n")
        );
        let (_dir, file) = scratch("text", text);
        assert_eq!(run("tokenize", &model, &["--file", &file]).ok().stdout, ids);
        assert_eq!(run("tokenize", &model, &["--text", text]).ok().stdout, ids);
    }
}

#[test]
fn ids_are_the_references() {
    let golden = Golden::open("tiny-v2");
    let text = "Hello, 世界! def f(x): return x**2  # 12345";
    let got = run("tokenize", &fixture("tiny-v2"), &["--text", text, "--add-special-tokens"]).json();
    assert_eq!(got, json!(golden.ids("seq4.input_ids")));
}

#[test]
fn control_tokens_count_unless_plain() {
    let model = fixture("tiny-v3");
    let ids = |args: &[&str]| run("tokenize", &model, &[&["--text", "<｜User｜>"], args].concat()).json();
    assert_eq!(ids(&[]), json!([508]));
    assert!(ids(&["--plain"]).as_array().unwrap().len() > 1);
    let decoded =
        |args: &[&str]| run("tokenize", &model, &[&["--decode", "--text", "0 42 71"], args].concat());
    assert_eq!(decoded(&[]).ok().stdout, "<｜begin▁of▁sentence｜>He");
    assert_eq!(decoded(&["--skip-special-tokens"]).ok().stdout, "He");
}

#[test]
fn what_is_no_input() {
    let model = fixture("tiny-v3");
    run("tokenize", &model, &["--decode", "--text", "[1, x]"]).refused(&["expected token ids", "[1"]);
    run("tokenize", &model, &["--decode", "--text", "[0, 42, 99999]"])
        .refused(&["id 99999 at position 2 is not in tokenizer.json, which has 512 ids"]);
    run("tokenize", &model, &["--file", "/no/such/file"]).refused(&["cannot read /no/such/file"]);
    run_with("tokenize", &model, &[], b"ab\xff").refused(&["standard input", "UTF-8", "offset 2"]);
}
