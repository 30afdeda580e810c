//! A GGUF file instead of a directory: the same words, and what we write says what llama.cpp's converter says.

use std::path::{Path, PathBuf};

use fathom_checkpoint::gguf::{Metadata, Value, read_metadata};
use fathom_engine::{
    Language, gguf_generation_config, gguf_generation_entries, gguf_vocabulary, gguf_vocabulary_entries,
};
use fathom_text::{ChatInput, GgufVocabulary, Message, TokenizerConfig};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

#[test]
fn the_words_of_a_gguf_file_are_those_of_the_directory() {
    let (dir, gguf) = (
        Language::open(&fixture("tiny-v2")).unwrap(),
        Language::open(&fixture("gguf/tiny-v2.gguf")).unwrap(),
    );
    let (a, b) = (dir.tokenizer().unwrap(), gguf.tokenizer_if_present().unwrap().unwrap());
    for text in ["Hello, world!", "", "The 12345 <｜User｜>ünï 你好 <think>x</think>\n\n  end ", "👩‍🚀"]
    {
        assert_eq!(a.encode(text, true).unwrap(), b.encode(text, true).unwrap(), "{text:?}");
        assert_eq!(a.encode_plain(text).unwrap(), b.encode_plain(text).unwrap(), "{text:?}");
    }
    assert_eq!((a.bos_token(), a.eos_token_id()), (b.bos_token(), b.eos_token_id()));
    let messages = [Message::user("Hi"), Message::assistant("Ho"), Message::user("?")];
    let input = ChatInput::to_answer(&messages);
    let render = |language: &Language| language.chat_template().unwrap().render(&input).unwrap();
    assert_eq!(render(&dir), render(&gguf));
    let (want, got) = (dir.recommendation().unwrap(), gguf.recommendation().unwrap());
    assert_eq!((want.temperature, want.top_p, want.top_k), (got.temperature, got.top_p, got.top_k));
}

#[test]
fn our_entries_are_the_converters() {
    let dir = fixture("tiny-v2");
    let json = std::fs::read(dir.join("tokenizer.json")).unwrap();
    let config = TokenizerConfig::from_dir(&dir).unwrap();
    let ours = GgufVocabulary::from_tokenizer_json(&json, &config, 512).unwrap();
    let theirs = read_metadata(&fixture("gguf/tiny-v2.gguf")).unwrap();
    let entries = gguf_vocabulary_entries(&ours);
    for (key, value) in &entries {
        assert_eq!(theirs.get(key), Some(value), "{key}");
    }
    let words = theirs.iter().filter(|(key, _)| key.starts_with("tokenizer."));
    assert_eq!(words.count(), entries.len());

    let generation = Language::open(&dir).unwrap().recommendation().unwrap();
    for (key, value) in gguf_generation_entries(&generation) {
        assert_eq!(theirs.get(&key), Some(&value), "{key}");
    }
}

fn metadata(entries: Vec<(String, Value)>) -> Metadata {
    Metadata::new(Path::new("m.gguf"), entries)
}

#[test]
fn templates_by_name_and_no_words_at_all() {
    let mut vocabulary =
        GgufVocabulary { file: "m.gguf".into(), model: "gpt2".into(), ..GgufVocabulary::default() };
    vocabulary.tokens = vec!["a".into()];
    vocabulary.token_types = vec![1];
    for name in ["default", "tool_use"] {
        let (name, template) = (name.to_owned(), format!("I am {name}"));
        vocabulary.chat_templates.push(fathom_text::NamedTemplate { name, template });
    }
    let entries = gguf_vocabulary_entries(&vocabulary);
    assert_eq!(gguf_vocabulary(&metadata(entries)).unwrap(), Some(vocabulary));
    assert_eq!(gguf_vocabulary(&metadata(vec![])).unwrap(), None);
}

#[test]
fn wrong_values_name_file_and_key() {
    let check = |key: &str, value: Value, parts: &[&str]| {
        let mut entries = vec![("tokenizer.ggml.tokens".to_owned(), vec!["a".to_owned()].into())];
        entries.push((key.to_owned(), value));
        let metadata = metadata(entries);
        let message = match gguf_vocabulary(&metadata) {
            Err(error) => error.to_string(),
            Ok(_) => gguf_generation_config(&metadata).unwrap_err().to_string(),
        };
        for part in parts.iter().chain(&["m.gguf", key]) {
            assert!(message.contains(part), "{part:?} is missing in: {message}");
        }
    };
    check("tokenizer.ggml.bos_token_id", Value::U64(1 << 40), &["a token id"]);
    check("tokenizer.ggml.bos_token_id", "zero".into(), &["\"zero\""]);
    check("tokenizer.ggml.merges", Value::U32(1), &["texts"]);
    check("tokenizer.ggml.add_bos_token", Value::U32(1), &["true or false", "got 1"]);
    check("tokenizer.chat_template", Value::Bool(true), &["a text"]);
    check("general.sampling.top_p", Value::F32(1.5), &["from 0 to 1", "1.5"]);
    check("general.sampling.temp", Value::F32(-1.0), &["at least 0"]);
    check("general.sampling.temp", Value::F32(f32::NAN), &["at least 0"]);
}
