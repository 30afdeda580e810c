//! Conversations through the fixture's template: `<｜User｜>…<｜Assistant｜>…<eos>`.

use std::fs;
use std::ops::ControlFlow;

use fathom_text::{Message, Tokenizer};

use super::{ChatEncoder, ChatOptions, prepare_chat};
use crate::Error;
use crate::test_data::tokenizer_directory;

/// What is learnt, and what is only read, decoded.
fn learnt(messages: &[Message]) -> Vec<(String, String)> {
    let encoder = ChatEncoder::from_dir(&tokenizer_directory()).unwrap();
    let tokenizer = Tokenizer::from_dir(&tokenizer_directory()).unwrap();
    let decode = |ids: Vec<u32>| tokenizer.decode(&ids, false).unwrap();
    let examples = encoder.encode(messages).unwrap();
    let part = |example: &super::ChatExample, learn| {
        let of = example.ids.iter().zip(&example.learn).filter(|(_, l)| **l == learn);
        decode(of.map(|(&id, _)| id).collect())
    };
    examples.iter().map(|example| (part(example, false), part(example, true))).collect()
}

#[test]
fn answers_are_learnt_with_their_end_and_nothing_else_is() {
    let turns = [
        Message::user("hello"),
        Message::assistant("world"),
        Message::user("more"),
        Message::assistant("no"),
    ];
    let read = "<｜begin▁of▁sentence｜><｜User｜>hello<｜Assistant｜><｜User｜>more<｜Assistant｜>";
    let said = "world<｜end▁of▁sentence｜>no<｜end▁of▁sentence｜>";
    assert_eq!(learnt(&turns), [(read.to_owned(), said.to_owned())]);
}

#[test]
fn reasoning_is_learnt_however_it_is_given() {
    let apart = Message { reasoning_content: Some("because".to_owned()), ..Message::assistant("yes") };
    let said = |message| learnt(&[Message::user("why"), message]).remove(0).1;
    assert_eq!(said(apart), "<think>\nbecause\n</think>\n\nyes<｜end▁of▁sentence｜>");
    let inside = Message::assistant("<think>because</think>yes");
    assert_eq!(said(inside), "<think>because</think>yes<｜end▁of▁sentence｜>");
}

#[test]
fn an_answer_that_history_changes_becomes_a_document_of_its_own() {
    // The fixture's template keeps contents as they are, but drops a field of reasoning.
    let first = Message { reasoning_content: Some("hm".to_owned()), ..Message::assistant("a") };
    let documents = learnt(&[Message::user("1"), first, Message::user("2"), Message::assistant("b")]);
    assert_eq!(documents.len(), 2);
    assert!(documents[0].1.contains("hm") && !documents[1].0.contains("hm") && documents[1].0.contains("a"));
}

#[test]
fn control_tokens_in_what_people_wrote_are_text() {
    let encoder = ChatEncoder::from_dir(&tokenizer_directory()).unwrap();
    let eos = Tokenizer::from_dir(&tokenizer_directory()).unwrap().eos_token_id().unwrap();
    let text = "stop <｜end▁of▁sentence｜> now";
    let examples = encoder.encode(&[Message::user(text), Message::assistant(text)]).unwrap();
    assert_eq!(examples[0].ids.iter().filter(|&&id| id == eos).count(), 1);
}

#[test]
fn files_become_a_masked_dataset_and_a_bad_line_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chats.jsonl");
    let line = |question: usize| {
        let turns = [Message::user(format!("question {question}")), Message::assistant("answer")];
        serde_json::json!({ "messages": turns }).to_string()
    };
    let mut lines: Vec<String> = (0..200).map(line).collect();
    fs::write(&file, lines.join("\n\n")).unwrap();
    let options = ChatOptions {
        files: vec![file.clone()],
        tokenizer: tokenizer_directory(),
        out: directory.path().join("data"),
        validation: 0.2,
    };
    let (dataset, report) = prepare_chat(&options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(dataset.is_masked());
    assert_eq!((report.conversations, report.documents), (200, 200));
    assert_eq!(dataset.train().tokens() + dataset.validation().tokens(), report.tokens);
    assert!((10..80).contains(&dataset.validation().documents()), "{}", dataset.validation().documents());
    assert!(report.learnt_tokens < report.tokens);

    lines[3] = r#"{"messages": [{"role": "user", "content": "alone"}]}"#.to_owned();
    fs::write(&file, lines.join("\n")).unwrap();
    let options = ChatOptions { out: directory.path().join("other"), ..options };
    let error = prepare_chat(&options, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(&error, Error::BadConversation { line: 4, .. }), "{error}");
    assert!(!options.out.join("dataset.json").exists());
}
