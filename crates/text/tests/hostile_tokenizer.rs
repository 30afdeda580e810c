//! Tokenizer files that are missing, contradict themselves, are of another kind, or are damaged.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fathom_text::{StreamDecoder, Tokenizer, TokenizerConfig};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

static TINY_JSON: LazyLock<Vec<u8>> =
    LazyLock::new(|| std::fs::read(fixture("tiny-v3/tokenizer.json")).unwrap());
static TINY_CONFIG: LazyLock<Vec<u8>> =
    LazyLock::new(|| std::fs::read(fixture("tiny-v3/tokenizer_config.json")).unwrap());

/// A small byte-level tokenizer: the words are `a`, `b`, `ab` and what `more` changes.
fn tokenizer_json(more: &[(&str, Value)]) -> Vec<u8> {
    let mut json = json!({
        "version": "1.0",
        "added_tokens": [added(4, "<s>"), added(5, "</s>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": ["a b"]},
    });
    for (pointer, value) in more {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    serde_json::to_vec(&json).unwrap()
}

fn added(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

fn config(json: Value) -> TokenizerConfig {
    TokenizerConfig::from_bytes(json.to_string().as_bytes(), Path::new("tokenizer_config.json")).unwrap()
}

#[test]
fn bos_and_eos_come_as_configured_and_never_twice() {
    let post_processor = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}},
    });
    let both = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let with = |key: &str, value: bool| {
        let mut config = both.clone();
        config[key] = value.into();
        config
    };
    let rows: [(bool, Value, &str, &[u32]); 12] = [
        (false, both.clone(), "ab", &[2]),
        (true, both.clone(), "ab", &[4, 2]),
        (true, json!({}), "ab", &[4, 2]),
        (true, both.clone(), "<s>ab", &[4, 2]),
        (true, with("add_bos_token", true), "ab", &[4, 2]),
        (true, with("add_bos_token", false), "ab", &[2]),
        (true, with("add_bos_token", false), "<s>ab", &[4, 2]),
        (false, with("add_bos_token", true), "ab", &[4, 2]),
        (false, with("add_bos_token", true), "<s>", &[4]),
        (false, with("add_eos_token", true), "ab", &[2, 5]),
        (false, with("add_eos_token", true), "ab</s>", &[2, 5]),
        (true, with("add_eos_token", true), "", &[4, 5]),
    ];
    for (processed, settings, text, want) in rows {
        let more = if processed { vec![("/post_processor", post_processor.clone())] } else { vec![] };
        let tokenizer =
            Tokenizer::from_bytes(&tokenizer_json(&more), Some(&config(settings.clone()))).unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), want, "{processed} {settings} {text:?}");
    }
}

#[test]
fn plain_encoding_cannot_be_tricked_by_the_vocabulary() {
    // With ignore_merges a whole word is looked up first, so "<ab>" in the vocabulary is one id.
    let more = [
        ("/model/vocab", json!({"a": 0, "b": 1, "ab": 2, "<": 3, ">": 4, "<ab>": 5})),
        ("/model/ignore_merges", json!(true)),
        ("/added_tokens", json!([added(5, "<ab>")])),
        ("/pre_tokenizer/use_regex", json!(false)),
    ];
    let tokenizer = Tokenizer::from_bytes(&tokenizer_json(&more), None).unwrap();
    assert_eq!(tokenizer.encode("<ab>", false).unwrap(), [5]);
    assert_eq!(tokenizer.encode_plain("<ab>").unwrap(), [3, 2, 4]);
    assert_eq!(tokenizer.encode_plain("a<ab>b").unwrap(), [0, 3, 2, 4, 1]);
}

#[test]
fn truncation_and_padding_in_the_file_are_ignored() {
    let more = [
        (
            "/truncation",
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}),
        ),
        (
            "/padding",
            json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                            "pad_id": 3, "pad_type_id": 0, "pad_token": "c"}),
        ),
    ];
    let tokenizer = Tokenizer::from_bytes(&tokenizer_json(&more), None).unwrap();
    assert_eq!(tokenizer.encode("acacac", true).unwrap(), [0, 3, 0, 3, 0, 3]);
}

#[test]
fn a_folder_without_a_tokenizer_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let message = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.starts_with("no tokenizer: "), "{message}");
    assert!(message.contains(dir.path().to_str().unwrap()), "{message}");
}

#[test]
fn contradictions_name_file_and_field() {
    let rows = [
        (vec![("/model/type", json!("Unigram"))], "field `model.type`: expected \"BPE\", got \"Unigram\""),
        (vec![("/decoder", json!(null))], "field `decoder.type`: expected \"ByteLevel\", got null"),
        (vec![("/decoder/type", json!("Metaspace"))], "field `decoder.type`"),
        (vec![("/model/continuing_subword_prefix", json!("##"))], "field `model.continuing_subword_prefix`"),
        (vec![("/model/dropout", json!(0.1))], "field `model.dropout`"),
        (vec![("/added_tokens", json!([added(9, "<s>")]))], "added token \"<s>\": expected id 9, got 4"),
        (vec![("/added_tokens", json!([added(4, "a")]))], "added token \"a\": expected id 4, got 0"),
        (vec![("/added_tokens", json!([{"id": -1}]))], "tokenizer.json: "),
        (vec![("/model/merges", json!(["a c"]))], "tokenizer.json: "),
        (vec![("/pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "("}}))], "tokenizer.json: "),
        (vec![("/version", json!("9.0"))], "tokenizer.json: Unknown tokenizer version"),
        (vec![("/model", json!(null))], "tokenizer.json: "),
        (vec![("/model/vocab/d", json!(u32::MAX))], ""),
    ];
    for (more, want) in rows {
        let built = Tokenizer::from_bytes(&tokenizer_json(&more), None);
        if want.is_empty() {
            continue;
        }
        let message = built.unwrap_err().to_string();
        assert!(message.starts_with("tokenizer.json: ") && message.contains(want), "{more:?}: {message}");
    }
    for (settings, want) in [
        (
            json!({"add_bos_token": true}),
            "field `bos_token`: expected a token, because add_bos_token is true",
        ),
        (
            json!({"add_eos_token": true, "eos_token": "x"}),
            "field `eos_token`: expected a token of tokenizer.json",
        ),
    ] {
        let built = Tokenizer::from_bytes(&tokenizer_json(&[]), Some(&config(settings)));
        let message = built.unwrap_err().to_string();
        assert!(message.starts_with("tokenizer_config.json: ") && message.contains(want), "{message}");
    }
}

/// Uses a tokenizer that a damaged file still built: no call may panic.
fn exercise(tokenizer: &Tokenizer) {
    let text = "ab <｜User｜>Hello, 天気 12345 é\n\n<s>";
    let _ = tokenizer.encode_plain(text);
    if let Ok(ids) = tokenizer.encode(text, true) {
        let mut decoder = StreamDecoder::new(tokenizer, false);
        let streamed: String = ids.iter().map(|&id| decoder.push(id)).collect();
        assert_eq!(streamed + &decoder.finish(), tokenizer.decode(&ids, false).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_tokenizers_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        // Most of the file is vocabulary; what surrounds it deserves more than its share.
        near_the_start: bool,
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = TINY_JSON.clone();
        let range = if near_the_start { bytes.len().min(3000) } else { bytes.len() };
        for (at, byte) in edits {
            bytes[at.index(range)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes, None) {
            exercise(&tokenizer);
        }
    }

    #[test]
    fn swapped_values_never_panic(
        at in prop::sample::select(vec![
            "/model/vocab/a", "/model/merges", "/added_tokens", "/pre_tokenizer", "/decoder", "/normalizer",
            "/post_processor", "/truncation", "/padding", "/model/unk_token", "/model/dropout",
        ]),
        value in prop::sample::select(vec![
            json!(null), json!(-1), json!(4294967295u32), json!(1e300), json!(""), json!([]), json!({}),
            json!([""]), json!([["", ""]]), json!(["a"]), json!({"type": "Sequence", "decoders": []}),
            json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "a"}),
            json!({"type": "Strip", "strip_left": true, "strip_right": true}),
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false}),
            json!({"type": "Prepend", "prepend": ""}),
            json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9}),
        ]),
    ) {
        if let Ok(tokenizer) = Tokenizer::from_bytes(&tokenizer_json(&[(at, value)]), None) {
            let _ = tokenizer.encode_plain("ab <s>abc");
            let _ = tokenizer.encode("ab <s>abc", true).map(|ids| tokenizer.decode(&ids, false));
        }
    }

    #[test]
    fn damaged_configs_never_panic(at: prop::sample::Index, byte: u8) {
        let mut bytes = TINY_CONFIG.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(config) = TokenizerConfig::from_bytes(&bytes, Path::new("tokenizer_config.json")) {
            let _ = Tokenizer::from_bytes(&TINY_JSON, Some(&config));
            let _ = fathom_text::ChatTemplate::from_tokenizer_config(&config)
                .and_then(|template| template.render(&fathom_text::ChatInput::to_answer(&[])));
        }
    }
}
