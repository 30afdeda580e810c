//! A tokenizer and chat templates as GGUF files have them, in both directions.
//!
//! A GGUF file says of each id its text and kind, lists the merges, and names the way text is cut into words
//! (`pre_tokenizer.rs`). That is all of a `tokenizer.json` of byte-level BPE, so one is made of it and goes
//! through the one door, [`Tokenizer::from_bytes`]. This crate reads no GGUF file: whoever does fills in
//! [`GgufVocabulary`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::config::{NamedTemplate, SpecialTokens, TokenizerConfig};
use crate::error::{Error, Result};
use crate::files::{field_error, kind, malformed, parse_object, read_if_present};
use crate::pre_tokenizer::{NAMES, PreTokenizer};
use crate::template::{ChatTemplate, DEFAULT, TEMPLATE_FILE};
use crate::tokenizer::{TOKENIZER, Tokenizer};

/// `tokenizer.ggml.model` of byte-level BPE.
pub const BYTE_LEVEL_BPE: &str = "gpt2";

/// What GGUF metadata say of words. The comments name the keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// The file, for error messages.
    pub file: PathBuf,
    /// `tokenizer.ggml.model`
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is cut into words.
    pub pre: String,
    /// `tokenizer.ggml.tokens`: the text of every id; ordinary entries in the alphabet of byte-level BPE,
    /// added tokens as they are.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: the kind of every id (see [`kinds`]); empty if all are ordinary.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`: two entries with a space between, in order.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`
    pub bos_token_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`
    pub eos_token_id: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`
    pub pad_token_id: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`
    pub unk_token_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`
    pub add_bos_token: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`
    pub add_eos_token: Option<bool>,
    /// `tokenizer.chat_template` under the name `default`, and `tokenizer.chat_template.NAME`.
    pub chat_templates: Vec<NamedTemplate>,
}

/// Kinds of tokens in `tokenizer.ggml.token_type`.
pub mod kinds {
    /// An ordinary entry.
    pub const NORMAL: i32 = 1;
    /// An added token that steers the model and is not shown.
    pub const CONTROL: i32 = 3;
    /// An added token that is text, such as `<think>`.
    pub const USER_DEFINED: i32 = 4;
    /// An id without a token: embeddings are often padded to a round number.
    pub const UNUSED: i32 = 5;
}

impl GgufVocabulary {
    /// The tokenizer.
    ///
    /// # Errors
    /// A model other than byte-level BPE, an unknown way to cut words, lists that contradict each other; as
    /// [`Tokenizer::from_bytes`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::build(&self.tokenizer_json()?, &self.file, self.config()?)
    }

    /// The chat template.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if the file has none; as [`ChatTemplate::from_source`].
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::from_tokenizer_config(&self.config()?)
    }

    /// What the model's `tokenizer_config.json` says.
    ///
    /// # Errors
    /// The id of a special token that is outside the vocabulary.
    pub fn config(&self) -> Result<TokenizerConfig> {
        let text = |field: &str, id: Option<u32>| match id.map(|id| (id, self.tokens.get(id as usize))) {
            None => Ok(None),
            Some((_, Some(token))) => Ok(Some(token.clone())),
            Some((id, None)) => {
                let expected = format!("an id below {}", self.tokens.len());
                Err(field_error(&self.file, &format!("tokenizer.ggml.{field}"), &expected, id.to_string()))
            }
        };
        Ok(TokenizerConfig {
            file: self.file.clone(),
            add_bos_token: self.add_bos_token,
            add_eos_token: self.add_eos_token,
            special_tokens: SpecialTokens {
                bos_token: text("bos_token_id", self.bos_token_id)?,
                eos_token: text("eos_token_id", self.eos_token_id)?,
                pad_token: text("padding_token_id", self.pad_token_id)?,
                unk_token: text("unknown_token_id", self.unk_token_id)?,
            },
            chat_templates: self.chat_templates.clone(),
        })
    }

    /// The model's `tokenizer.json`.
    ///
    /// # Errors
    /// As [`GgufVocabulary::tokenizer`].
    pub fn tokenizer_json(&self) -> Result<Vec<u8>> {
        let unsupported = |field, expected, got: &str| {
            let (file, got) = (self.file.clone(), format!("{got:?}"));
            Err(Error::Unsupported { file, field, expected, got })
        };
        if self.model != BYTE_LEVEL_BPE {
            return unsupported("tokenizer.ggml.model", "\"gpt2\"", &self.model);
        }
        let Some(pre_tokenizer) = PreTokenizer::find(&self.pre) else {
            return unsupported("tokenizer.ggml.pre", NAMES, &self.pre);
        };
        if !self.token_types.is_empty() && self.token_types.len() != self.tokens.len() {
            return Err(field_error(
                &self.file,
                "tokenizer.ggml.token_type",
                &format!("one for each of {} tokens", self.tokens.len()),
                self.token_types.len().to_string(),
            ));
        }
        let mut vocab = Map::with_capacity(self.tokens.len());
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let special = match self.token_types.get(id).copied().unwrap_or(kinds::NORMAL) {
                kinds::NORMAL => None,
                kinds::CONTROL => Some(true),
                kinds::USER_DEFINED => Some(false),
                kinds::UNUSED => continue,
                other => {
                    let (field, expected) = (format!("tokenizer.ggml.token_type[{id}]"), "1, 3, 4 or 5");
                    return Err(field_error(&self.file, &field, expected, other.to_string()));
                }
            };
            added.extend(special.map(|special| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            }));
            // Added tokens too, so that each keeps its id wherever that is.
            if vocab.insert(token.clone(), id.into()).is_some() {
                return Err(malformed(&self.file, format!("tokenizer.ggml.tokens has {token:?} twice")));
            }
        }
        let merges = self.merges.iter().map(|merge| self.merge(merge)).collect::<Result<Vec<_>>>()?;
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": pre_tokenizer.to_json(),
            "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocab, "merges": merges,
            },
        });
        serde_json::to_vec(&tokenizer).map_err(|error| malformed(&self.file, error.to_string()))
    }

    fn merge(&self, merge: &str) -> Result<[String; 2]> {
        // No entry holds a space (it is written `Ġ`), and none is empty.
        match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok([left.into(), right.into()]),
            _ => {
                let expected = "two entries with a space between";
                Err(field_error(&self.file, "tokenizer.ggml.merges", expected, format!("{merge:?}")))
            }
        }
    }

    /// The vocabulary of a model directory: [`GgufVocabulary::from_tokenizer_json`] of its files, and its
    /// `chat_template.jinja` where it has one.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] if the directory has none, a file that cannot be read.
    pub fn from_dir(dir: &Path, vocab_size: usize) -> Result<Self> {
        let Some(bytes) = read_if_present(&dir.join(TOKENIZER))? else {
            return Err(Error::NoTokenizer { dir: dir.to_path_buf() });
        };
        let mut config = TokenizerConfig::from_dir(dir)?;
        let file = dir.join(TEMPLATE_FILE);
        if let Some(template) = read_if_present(&file)? {
            let template =
                String::from_utf8(template).map_err(|error| malformed(&file, error.to_string()))?;
            config.chat_templates = vec![NamedTemplate { name: DEFAULT.to_owned(), template }];
        }
        Self::from_tokenizer_json(&bytes, &config, vocab_size)
    }

    /// The vocabulary of a tokenizer's files, padded with unused ids to `vocab_size`. Added tokens count as
    /// control tokens if they are marked special, or look so to llama.cpp's converter (`<｜User｜>`).
    ///
    /// # Errors
    /// A tokenizer that is no byte-level BPE, cuts words in a way that GGUF has no name for, changes text before,
    /// or has more ids than `vocab_size`.
    pub fn from_tokenizer_json(bytes: &[u8], config: &TokenizerConfig, vocab_size: usize) -> Result<Self> {
        let file = Path::new(TOKENIZER);
        let object = parse_object(bytes, file)?;
        let unsupported = |field, expected, got: &Value| Error::Unsupported {
            file: file.to_path_buf(),
            field,
            expected,
            got: kind(got),
        };
        let null = Value::Null;
        let get = |field: &str| object.get(field).unwrap_or(&null);
        let (normalizer, pre, model) = (get("normalizer"), get("pre_tokenizer"), get("model"));
        let changes_nothing = normalizer["normalizers"].as_array().is_some_and(Vec::is_empty);
        if !normalizer.is_null() && !changes_nothing {
            return Err(unsupported("normalizer", "null", normalizer));
        }
        let known = PreTokenizer::of_json(pre).ok_or_else(|| unsupported("pre_tokenizer", NAMES, pre))?;
        let wrong = |field: &str, expected: &str, got: &Value| field_error(file, field, expected, kind(got));
        let vocab = model["vocab"]
            .as_object()
            .ok_or_else(|| wrong("model.vocab", "an object of ids by text", &model["vocab"]))?;

        let mut table = Table::new(vocab_size);
        for (text, id) in vocab {
            table.put(text, id, kinds::NORMAL)?;
        }
        for token in get("added_tokens").as_array().into_iter().flatten() {
            let Some(text) = token["content"].as_str() else {
                return Err(wrong("added_tokens", "objects with id and content", token));
            };
            if ["lstrip", "rstrip", "single_word"].iter().any(|field| token[field] == true) {
                return Err(unsupported("added_tokens", "tokens that take no space with them", token));
            }
            let control = token["special"] == true || looks_special(text);
            table.put(text, &token["id"], if control { kinds::CONTROL } else { kinds::USER_DEFINED })?;
        }
        let merges = merges(&model["merges"]);
        let special = &config.special_tokens;
        let id_of = |token: &Option<String>| table.ids.get(token.as_deref()?).copied();
        Ok(Self {
            file: file.to_path_buf(),
            model: BYTE_LEVEL_BPE.to_owned(),
            pre: known.name.to_owned(),
            merges: merges.ok_or_else(|| wrong("model.merges", "a list of pairs", &model["merges"]))?,
            bos_token_id: id_of(&special.bos_token),
            eos_token_id: id_of(&special.eos_token),
            pad_token_id: id_of(&special.pad_token),
            unk_token_id: id_of(&special.unk_token),
            add_bos_token: config.add_bos_token,
            add_eos_token: config.add_eos_token,
            chat_templates: config.chat_templates.clone(),
            tokens: table.tokens,
            token_types: table.token_types,
        })
    }
}

/// Every id of a vocabulary, unused until it is put.
struct Table {
    tokens: Vec<String>,
    token_types: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl Table {
    fn new(vocab_size: usize) -> Self {
        let tokens = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
        Self { tokens, token_types: vec![kinds::UNUSED; vocab_size], ids: HashMap::new() }
    }

    fn put(&mut self, text: &str, id: &Value, kind: i32) -> Result<()> {
        let vocab_size = self.tokens.len();
        let place =
            id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab_size);
        let Some(place) = place else {
            let expected = format!("ids below vocab_size = {vocab_size}");
            return Err(field_error(Path::new(TOKENIZER), "model.vocab", &expected, self::kind(id)));
        };
        self.tokens[place as usize] = text.to_owned();
        self.token_types[place as usize] = kind;
        self.ids.insert(text.to_owned(), place);
        Ok(())
    }
}

/// The merges of a `tokenizer.json`, which are pairs or, in older files, texts with a space between.
fn merges(list: &Value) -> Option<Vec<String>> {
    let pair = |merge: &Value| match merge {
        Value::String(pair) => Some(pair.clone()),
        pair => Some(format!("{} {}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
    };
    list.as_array()?.iter().map(pair).collect()
}

/// Whether llama.cpp's converter takes an added token for a control token by its text.
fn looks_special(text: &str) -> bool {
    [("<｜", "｜>"), ("<|", "|>")].iter().any(|(start, end)| text.starts_with(start) && text.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> GgufVocabulary {
        let ordinary = (0..=255u8).map(|byte| {
            let symbol = ('\0'..'\u{400}').find(|&symbol| crate::byte_level::byte_of(symbol) == Some(byte));
            symbol.map(String::from).expect("every byte has a symbol")
        });
        let mut tokens: Vec<String> = ordinary.collect();
        tokens.extend(["<s>", "</s>", "<think>", "[PAD259]", "Ġa", "<late>"].map(String::from));
        let mut token_types = vec![kinds::NORMAL; 256];
        token_types.extend([3, 3, 4, 5, 1, 4]);
        GgufVocabulary {
            file: "m.gguf".into(),
            model: "gpt2".into(),
            pre: "deepseek-v3".into(),
            tokens,
            token_types,
            merges: vec!["Ġ a".into()],
            bos_token_id: Some(256),
            eos_token_id: Some(257),
            add_bos_token: Some(true),
            chat_templates: vec![NamedTemplate {
                name: "default".into(),
                template: "{{ bos_token }}x".into(),
            }],
            ..GgufVocabulary::default()
        }
    }

    #[test]
    fn ids_stay_where_they_are() {
        let tokenizer = small().tokenizer().unwrap();
        let ids = tokenizer.encode("b a<think><late>", true).unwrap();
        assert_eq!(ids, [256, u32::from(b'b'), 260, 258, 261]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "b a<think><late>");
        assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(256), Some(257)));
        assert_eq!(tokenizer.vocab_size(), 261, "one id is unused");
        assert!(tokenizer.is_special(256) && !tokenizer.is_special(258));
        assert!(!tokenizer.encode_plain("<s><think>").unwrap().iter().any(|id| (256..=258).contains(id)));
        let template = small().chat_template().unwrap();
        assert_eq!(template.render(&crate::ChatInput::default()).unwrap(), "<s>x");
    }

    #[test]
    fn there_and_back() {
        let small = small();
        let config = small.config().unwrap();
        let json = small.tokenizer_json().unwrap();
        let back = GgufVocabulary::from_tokenizer_json(&json, &config, small.tokens.len()).unwrap();
        assert_eq!(GgufVocabulary { file: small.file.clone(), ..back }, small);
        let error = GgufVocabulary::from_tokenizer_json(&json, &config, 200).unwrap_err().to_string();
        assert!(error.contains("vocab_size = 200"), "{error}");
    }

    #[test]
    fn a_directory_may_have_its_template_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(GgufVocabulary::from_dir(dir.path(), 300), Err(Error::NoTokenizer { .. })));
        std::fs::write(dir.path().join(TOKENIZER), small().tokenizer_json().unwrap()).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template": "old"}"#).unwrap();
        let template =
            || GgufVocabulary::from_dir(dir.path(), 300).unwrap().chat_templates[0].template.clone();
        assert_eq!(template(), "old");
        std::fs::write(dir.path().join(TEMPLATE_FILE), "new").unwrap();
        assert_eq!(template(), "new");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: &dyn Fn(&mut GgufVocabulary), parts: &[&str]| {
            let mut vocabulary = small();
            change(&mut vocabulary);
            let message = vocabulary.tokenizer().unwrap_err().to_string();
            for part in parts.iter().chain(&["m.gguf"]) {
                assert!(message.contains(part), "{part:?} is missing in: {message}");
            }
        };
        check(&|v| v.model = "llama".into(), &["tokenizer.ggml.model", "\"llama\"", "\"gpt2\""]);
        check(
            &|v| v.pre = "deepseek-r1-qwen".into(),
            &["tokenizer.ggml.pre", "deepseek-r1-qwen", "deepseek-llm"],
        );
        check(&|v| v.pre.clear(), &["tokenizer.ggml.pre", "\"\""]);
        check(&|v| v.token_types.truncate(3), &["token_type", "262 tokens", "got 3"]);
        check(&|v| v.token_types[9] = 6, &["token_type[9]", "got 6"]);
        check(&|v| v.tokens[5] = "<s>".into(), &["<s>", "twice"]);
        check(&|v| v.merges.push("alone".into()), &["merges", "alone"]);
        check(&|v| v.merges.push("a zz".into()), &["zz"]);
        check(&|v| v.eos_token_id = Some(1 << 30), &["eos_token_id", "below 262"]);
        check(
            &|v| {
                *v = GgufVocabulary {
                    tokens: vec![],
                    token_types: vec![],
                    merges: vec![],
                    bos_token_id: None,
                    eos_token_id: None,
                    add_bos_token: None,
                    ..v.clone()
                }
            },
            &["vocab"],
        );
        let none = GgufVocabulary { chat_templates: vec![], ..small() };
        assert!(matches!(none.chat_template(), Err(Error::NoChatTemplate { .. })));
    }
}
