//! The tokenizer against Hugging Face's own ids and text, and streaming against decoding.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use fathom_text::{StreamDecoder, Tokenizer, TokenizerConfig};
use proptest::prelude::*;
use serde::Deserialize;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

fn deepseek_v3_json() -> Vec<u8> {
    let packed = std::fs::File::open(fixture("deepseek-v3-tokenizer/tokenizer.json.gz")).unwrap();
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut json).unwrap();
    json
}

static DEEPSEEK_V3: LazyLock<Tokenizer> = LazyLock::new(|| {
    let config = TokenizerConfig::from_dir(&fixture("deepseek-v3-tokenizer")).unwrap();
    Tokenizer::from_bytes(&deepseek_v3_json(), Some(&config)).unwrap()
});
static TINY: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_dir(&fixture("tiny-v3")).unwrap());

/// The ids of `added_tokens` in a `tokenizer.json`.
fn added(json: &[u8]) -> HashSet<u32> {
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    let ids = json["added_tokens"].as_array().unwrap().iter();
    ids.map(|token| token["id"].as_u64().unwrap() as u32).collect()
}

static DEEPSEEK_V3_ADDED: LazyLock<HashSet<u32>> = LazyLock::new(|| added(&deepseek_v3_json()));
static TINY_ADDED: LazyLock<HashSet<u32>> =
    LazyLock::new(|| added(&std::fs::read(fixture("tiny-v3/tokenizer.json")).unwrap()));

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip_special_tokens: bool) -> String {
    let mut decoder = StreamDecoder::new(tokenizer, skip_special_tokens);
    let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text.push_str(&decoder.finish());
    text
}

#[derive(Deserialize)]
struct Golden {
    vocab_size_with_added: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    decoded_keep_special: String,
    decoded_skip_special: String,
}

#[test]
fn all_golden_strings_encode_and_decode_exactly() {
    let golden = std::fs::read(fixture("deepseek-v3-tokenizer/golden.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&golden).unwrap();
    assert_eq!(golden.cases.len(), 80);
    assert_eq!(DEEPSEEK_V3.vocab_size(), golden.vocab_size_with_added);
    for case in &golden.cases {
        assert_eq!(DEEPSEEK_V3.encode(&case.text, false).unwrap(), case.ids, "{:?}", case.text);
        assert_eq!(DEEPSEEK_V3.encode(&case.text, true).unwrap(), case.ids, "add_bos_token is false");
        for (skip, want) in [(false, &case.decoded_keep_special), (true, &case.decoded_skip_special)] {
            assert_eq!(&DEEPSEEK_V3.decode(&case.ids, skip).unwrap(), want);
            assert_eq!(&stream(&DEEPSEEK_V3, &case.ids, skip), want);
        }
        // Without control tokens in the text, plain encoding is encoding; with them, none comes through.
        let plain = DEEPSEEK_V3.encode_plain(&case.text).unwrap();
        assert!(plain.iter().all(|id| !DEEPSEEK_V3_ADDED.contains(id)), "{:?}", case.text);
        assert_eq!(DEEPSEEK_V3.decode(&plain, true).unwrap(), case.text);
        if case.ids.iter().all(|id| !DEEPSEEK_V3_ADDED.contains(id)) {
            assert_eq!(plain, case.ids);
        }
    }
}

#[test]
fn special_tokens_by_text_and_id() {
    let tokenizer = &*DEEPSEEK_V3;
    assert_eq!(tokenizer.bos_token(), Some("<｜begin▁of▁sentence｜>"));
    assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(0), Some(1)));
    let user = tokenizer.token_to_id("<｜User｜>").unwrap();
    assert_eq!(tokenizer.id_to_token(user).as_deref(), Some("<｜User｜>"));
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(user) && !tokenizer.is_special(100));
    assert_eq!(tokenizer.encode("<｜User｜>", false).unwrap(), [user]);
    assert_eq!(tokenizer.id_to_token(1 << 30), None);
    assert_eq!(tokenizer.decode(&[1 << 30], false).unwrap(), "");
}

#[test]
fn the_fixture_adds_bos_once() {
    let (bos, hi) = (TINY.bos_token().unwrap(), TINY.encode("hi", false).unwrap());
    let with_bos = [&[0], hi.as_slice()].concat();
    assert_eq!(TINY.encode("hi", true).unwrap(), with_bos);
    assert_eq!(TINY.encode(&format!("{bos}hi"), true).unwrap(), with_bos);
    assert_eq!(TINY.encode(&format!("{bos}{bos}"), true).unwrap(), [0, 0]);
    assert_eq!(TINY.encode("", true).unwrap(), [0]);
}

#[test]
fn a_streamed_character_waits_for_its_last_byte() {
    let ids = DEEPSEEK_V3.encode("a𓀀b", false).unwrap();
    let mut decoder = StreamDecoder::new(Arc::new(DEEPSEEK_V3.clone()), true);
    let pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id)).collect();
    assert!(pieces.len() > 3, "the character is spread over tokens: {pieces:?}");
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
    assert_eq!(pieces.concat(), "a𓀀b");
    let mut cut = StreamDecoder::new(&*DEEPSEEK_V3, true);
    let pieces: String = ids[..2].iter().map(|&id| cut.push(id)).collect();
    assert_eq!((pieces.as_str(), cut.finish().as_str()), ("a", "\u{fffd}"));
}

#[test]
fn long_texts_cost_their_length() {
    let time = |repeats: usize| {
        let text =
            "Über 3 Wörter, 天気 and\n\n code(x) <｜User｜>".repeat(repeats) + &" ".repeat(10 * repeats);
        let start = std::time::Instant::now();
        let ids = DEEPSEEK_V3.encode(&text, true).unwrap();
        assert_eq!(DEEPSEEK_V3.decode(&ids, false).unwrap(), text);
        start.elapsed().as_secs_f64()
    };
    let best_of_two = |repeats| time(repeats).min(time(repeats));
    let (short, long) = (best_of_two(1_000), best_of_two(16_000));
    assert!(long < 16.0 * 6.0 * short.max(1e-3), "16 times the text took {} times as long", long / short);
}

/// Ids biased to bytes (the first entries of a byte-level vocabulary) and special tokens.
fn ids(tokenizer: &'static Tokenizer) -> impl Strategy<Value = Vec<u32>> {
    let size = tokenizer.vocab_size() as u32;
    let id = prop_oneof![4 => 0..300u32, 2 => 0..size, 1 => size - 20..size + 20];
    prop::collection::vec(id, 0..40)
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => any::<String>(),
        2 => prop::sample::select(vec!["<｜User｜>", "<think>", "</think>", "<｜end▁of▁sentence｜>", "👩‍🚀", " \n\n", "1234"])
            .prop_map(String::from),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn streaming_equals_decoding_deepseek_v3(ids in ids(&DEEPSEEK_V3), skip: bool) {
        prop_assert_eq!(stream(&DEEPSEEK_V3, &ids, skip), DEEPSEEK_V3.decode(&ids, skip).unwrap());
    }

    #[test]
    fn streaming_equals_decoding_fixture(ids in ids(&TINY), skip: bool) {
        prop_assert_eq!(stream(&TINY, &ids, skip), TINY.decode(&ids, skip).unwrap());
    }

    #[test]
    fn text_survives_the_round_trip(text in text()) {
        for (tokenizer, added) in [(&*DEEPSEEK_V3, &*DEEPSEEK_V3_ADDED), (&*TINY, &*TINY_ADDED)] {
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), &text);
            let plain = tokenizer.encode_plain(&text).unwrap();
            prop_assert!(plain.iter().all(|id| !added.contains(id)));
            prop_assert_eq!(&tokenizer.decode(&plain, true).unwrap(), &text);
        }
    }
}
