//! Tokenizers from GGUF vocabularies against Hugging Face's ids.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fathom_text::{ChatInput, ChatTemplate, GgufVocabulary, Message, Tokenizer, TokenizerConfig};
use serde::Deserialize;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Golden {
    vocab_size_with_added: usize,
    cases: Vec<Case>,
}

fn unpacked(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(fixture(path)).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// DeepSeek-V3's tokenizer, and as GGUF metadata: the embedding has 129,280 rows.
static DEEPSEEK_V3: LazyLock<(Vec<u8>, TokenizerConfig, GgufVocabulary)> = LazyLock::new(|| {
    let json = unpacked("deepseek-v3-tokenizer/tokenizer.json.gz");
    let config = TokenizerConfig::from_dir(&fixture("deepseek-v3-tokenizer")).unwrap();
    let vocabulary = GgufVocabulary::from_tokenizer_json(&json, &config, 129_280).unwrap();
    (json, config, vocabulary)
});

#[test]
fn all_golden_strings_encode_exactly() {
    let (json, config, vocabulary) = &*DEEPSEEK_V3;
    assert_eq!((vocabulary.pre.as_str(), vocabulary.tokens.len()), ("deepseek-v3", 129_280));
    assert_eq!((vocabulary.bos_token_id, vocabulary.eos_token_id), (Some(0), Some(1)));
    let (original, tokenizer) =
        (Tokenizer::from_bytes(json, Some(config)).unwrap(), vocabulary.tokenizer().unwrap());
    let golden = std::fs::read(fixture("deepseek-v3-tokenizer/golden.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&golden).unwrap();
    assert_eq!(golden.cases.len(), 80);
    assert_eq!(tokenizer.vocab_size(), golden.vocab_size_with_added);
    for Case { text, ids } in &golden.cases {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.encode(text, true).unwrap(), original.encode(text, true).unwrap(), "{text:?}");
        assert_eq!(tokenizer.encode_plain(text).unwrap(), original.encode_plain(text).unwrap(), "{text:?}");
        assert_eq!(tokenizer.decode(ids, false).unwrap(), original.decode(ids, false).unwrap(), "{text:?}");
    }
    for id in 0..tokenizer.vocab_size() as u32 {
        assert_eq!(tokenizer.id_to_token(id), original.id_to_token(id));
    }
}

#[test]
fn the_chat_template_comes_along() {
    let (_, config, vocabulary) = &*DEEPSEEK_V3;
    let (want, got) =
        (ChatTemplate::from_tokenizer_config(config).unwrap(), vocabulary.chat_template().unwrap());
    let messages = [Message::system("Be brief."), Message::user("Hi")];
    let input = ChatInput::to_answer(&messages);
    assert_eq!(got.render(&input).unwrap(), want.render(&input).unwrap());
}

/// Strings with the ids that transformers' tokenizers and llama.cpp both give, of DeepSeek-LLM and -Coder.
#[test]
fn the_older_tokenizers_cut_words_their_way() {
    #[derive(Deserialize)]
    struct Reduced {
        pre: String,
        tokens: Vec<String>,
        token_types: Vec<i32>,
        merges: Vec<String>,
        bos_token_id: u32,
        eos_token_id: u32,
        cases: Vec<Case>,
    }
    let file = std::fs::read(fixture("gguf/vocabularies.json")).unwrap();
    let all: Vec<Reduced> = serde_json::from_slice(&file).unwrap();
    assert_eq!(all.len(), 2);
    for reduced in all {
        let vocabulary = GgufVocabulary {
            model: "gpt2".into(),
            pre: reduced.pre.clone(),
            tokens: reduced.tokens,
            token_types: reduced.token_types,
            merges: reduced.merges,
            bos_token_id: Some(reduced.bos_token_id),
            eos_token_id: Some(reduced.eos_token_id),
            ..GgufVocabulary::default()
        };
        let tokenizer = vocabulary.tokenizer().unwrap();
        assert!(reduced.cases.len() > 140, "{}", reduced.cases.len());
        for Case { text, ids } in &reduced.cases {
            assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{}: {text:?}", reduced.pre);
        }
        // The strings can tell ways of cutting apart, though not every vocabulary shows every difference.
        let differs = |other: &&str| {
            let tokenizer =
                GgufVocabulary { pre: other.to_string(), ..vocabulary.clone() }.tokenizer().unwrap();
            reduced.cases.iter().any(|case| tokenizer.encode(&case.text, false).unwrap() != case.ids)
        };
        let others = ["deepseek-v3", "deepseek-llm", "deepseek-coder"];
        assert!(others.iter().any(differs), "{}", reduced.pre);
    }
}
