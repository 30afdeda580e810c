//! A tokenizer of one's own: byte-level BPE with DeepSeek-V3's cuts and control tokens, trained on text.
//!
//! The files are those of a model folder, so that everything that reads DeepSeek's tokenizers reads these.

mod merges;
mod word_counts;

use ahash::AHashMap;
use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper,
    Tokenizer as HfTokenizer,
};

use crate::bulk::Splitter;
use crate::byte_level::{byte_of, symbol_of};
use crate::error::{Error, Result};
use crate::pre_tokenizer::PreTokenizer;
use merges::Words;
use word_counts::WordCounts;

/// Ids 0 to 9 in this order; bos, eos and pad have the ids that DeepSeek-V3's have.
pub const SPECIAL_TOKENS: [&str; 10] = [
    BOS,
    EOS,
    PAD,
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
];
const BOS: &str = "<｜begin▁of▁sentence｜>";
const EOS: &str = "<｜end▁of▁sentence｜>";
const PAD: &str = "<｜▁pad▁｜>";

/// Distinct words at a time, in bytes: ten times as much is the memory to merge within them, and a gigabyte of English
/// has no more. A vocabulary from more text is hardly another one.
const DISTINCT_WORDS: usize = 32 << 20;

/// Control tokens and one token per byte.
pub const SMALLEST_VOCABULARY: usize = SPECIAL_TOKENS.len() + 256;

/// Reasoning is shown to the model for the turn it is to learn or answer and left out of earlier ones, as V3.1 does.
const CHAT_TEMPLATE: &str = concat!(
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}",
    "{{ bos_token }}{% for message in messages %}",
    "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}",
    "{% elif message['role'] == 'assistant' %}{{ '<｜Assistant｜>' }}",
    "{% if loop.last and message['reasoning_content'] is defined and message['reasoning_content'] is not none %}",
    "{{ '<think>' + message['reasoning_content'] + '</think>' }}{% endif %}",
    "{% if loop.last %}{{ message['content'] }}{% else %}{{ message['content'].split('</think>')[-1] }}{% endif %}",
    "{{ eos_token }}{% else %}{{ message['content'] }}{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
);

/// How numbers are cut before the merges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digits {
    /// Up to three digits are a word, as in DeepSeek-V3.
    #[default]
    Three,
    /// Every digit is, as in DeepSeek-V2: arithmetic is learnt digit by digit.
    Single,
}

/// What a tokenizer is to be.
#[derive(Clone, Debug)]
pub struct BpeTraining {
    /// Ids, control tokens included; at least [`SMALLEST_VOCABULARY`].
    pub vocab_size: usize,
    /// How numbers are cut.
    pub digits: Digits,
    /// A regex before DeepSeek-V3's cuts: what it matches is a word of its own.
    pub isolate: Option<String>,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
    /// The chat template, if not the one that writes DeepSeek-V3's turns.
    pub chat_template: Option<String>,
}

/// The two files of a trained tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainedTokenizer {
    /// The content of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// The content of `tokenizer_config.json`: control tokens and chat template.
    pub tokenizer_config_json: Vec<u8>,
}

impl BpeTraining {
    /// Whether the cuts can be made: an `isolate` that is no regex is found here, before there is text.
    ///
    /// # Errors
    /// [`Error::Pattern`].
    pub fn check(&self) -> Result<()> {
        self.cuts().map(|_| ())
    }

    /// Trains on `texts`, in memory that does not grow with them. The result depends on the texts alone, not on threads;
    /// on their order only if they have more than some millions of distinct words, of which a part is then taken.
    ///
    /// # Errors
    /// [`Error::Pattern`]; [`Error::Tokenizer`] if `tokenizers` cannot train.
    pub fn train(&self, texts: impl Iterator<Item = String>) -> Result<TrainedTokenizer> {
        let cuts = self.cuts()?;
        let symbols: [char; 256] = std::array::from_fn(|byte| symbol_of(byte as u8));
        let mut sorted = symbols;
        sorted.sort_unstable();
        let alphabet = sorted.iter().map(char::to_string);
        let mut vocab: Vec<String> = SPECIAL_TOKENS.iter().map(ToString::to_string).chain(alphabet).collect();
        let id_of_byte: [u32; 256] = symbols.map(|symbol| {
            let place = sorted.binary_search(&symbol).expect("it is one of them");
            (SPECIAL_TOKENS.len() + place) as u32
        });
        let words = self.count_words(&cuts, texts, &id_of_byte)?;
        let vocab_size = self.vocab_size.max(SMALLEST_VOCABULARY);
        let merges = words.learn(&mut vocab, vocab_size, self.min_frequency);
        let text = |(left, right): (u32, u32)| (vocab[left as usize].clone(), vocab[right as usize].clone());
        let merges = merges.into_iter().map(text).collect();
        let model =
            BPE::builder().vocab_and_merges(vocab.into_iter().zip(0..).collect::<AHashMap<_, _>>(), merges);
        let model = model.build().map_err(failed("train"))?;
        let mut tokenizer = HfTokenizer::new(model);
        let special = SPECIAL_TOKENS.iter().map(|token| added_token(token));
        tokenizer.add_special_tokens(special).map_err(failed("train"))?;
        tokenizer.with_pre_tokenizer(Some(cuts));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        self.files(&tokenizer)
    }

    fn count_words(
        &self,
        cuts: &PreTokenizerWrapper,
        texts: impl Iterator<Item = String>,
        id_of_byte: &[u32; 256],
    ) -> Result<Words> {
        let mut counts = WordCounts::new(DISTINCT_WORDS);
        let mut words = Words::default();
        if let Some(splitter) = Splitter::of_json(&self.pre_tokenizer()) {
            texts.for_each(|text| splitter.split(&text, |word| counts.add(word)));
            for (word, count) in counts.finish() {
                words.push(word.bytes().map(|byte| id_of_byte[usize::from(byte)]), count);
            }
            return Ok(words);
        }
        for text in texts {
            cut(cuts, &text, &mut counts).map_err(failed("train"))?;
        }
        // These are written in the alphabet of byte-level BPE.
        for (word, count) in counts.finish() {
            words.push(word.chars().filter_map(byte_of).map(|byte| id_of_byte[usize::from(byte)]), count);
        }
        Ok(words)
    }

    fn files(&self, tokenizer: &HfTokenizer) -> Result<TrainedTokenizer> {
        let text = tokenizer.to_string(false).map_err(failed("write"))?;
        let mut value: Value = serde_json::from_str(&text).map_err(|error| failed("write")(error.into()))?;
        value["pre_tokenizer"] = self.pre_tokenizer();
        let config = json!({
            "add_bos_token": true,
            "add_eos_token": false,
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": false,
            "model_max_length": 1_000_000,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": self.chat_template.as_deref().unwrap_or(CHAT_TEMPLATE),
        });
        Ok(TrainedTokenizer {
            tokenizer_json: format!("{value:#}\n").into_bytes(),
            tokenizer_config_json: format!("{config:#}\n").into_bytes(),
        })
    }

    fn cuts(&self) -> Result<PreTokenizerWrapper> {
        let parse = |value: Value| serde_json::from_value::<PreTokenizerWrapper>(value);
        parse(self.pre_tokenizer()).map_err(|error| Error::Pattern {
            pattern: self.isolate.clone().unwrap_or_default(),
            reason: error.to_string(),
        })
    }

    fn pre_tokenizer(&self) -> Value {
        let mut json = PreTokenizer::find("deepseek-v3").expect("one of the known names").to_json();
        let digits = (self.digits == Digits::Single).then_some(r"\p{N}");
        let steps = json["pretokenizers"].as_array_mut().expect("a sequence");
        for pattern in digits.into_iter().chain(self.isolate.as_deref()) {
            let step = json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
            steps.insert(0, step);
        }
        json
    }
}

/// As DeepSeek-V3 marks them: what begins, ends and fills is left out of decoded text, the rest is markup.
fn added_token(content: &str) -> AddedToken {
    AddedToken::from(content, [BOS, EOS, PAD].contains(&content)).normalized(false)
}

/// Counts the words of `text` through `tokenizers`, for patterns that need a regex engine.
fn cut(cuts: &PreTokenizerWrapper, text: &str, words: &mut WordCounts) -> tokenizers::Result<()> {
    let mut pieces = PreTokenizedString::from(text);
    cuts.pre_tokenize(&mut pieces)?;
    let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::None);
    pieces.into_iter().for_each(|(piece, ..)| words.add(piece));
    Ok(())
}

fn failed(action: &'static str) -> impl Fn(tokenizers::Error) -> Error {
    move |error| Error::Tokenizer { action, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChatInput, ChatTemplate, Message, Tokenizer, TokenizerConfig};

    const TEXT: &str =
        "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。 The cat sat on the mat; the cat sat. 12345 + 678\n";

    fn training(digits: Digits, isolate: Option<&str>) -> BpeTraining {
        let isolate = isolate.map(str::to_owned);
        BpeTraining { vocab_size: 300, digits, isolate, min_frequency: 2, chat_template: None }
    }

    fn train(training: &BpeTraining) -> (Tokenizer, TokenizerConfig, TrainedTokenizer) {
        let trained = training.train((0..20).map(|_| TEXT.to_owned())).unwrap();
        let file = std::path::Path::new("tokenizer_config.json");
        let config = TokenizerConfig::from_bytes(&trained.tokenizer_config_json, file).unwrap();
        let tokenizer = Tokenizer::from_bytes(&trained.tokenizer_json, Some(&config)).unwrap();
        (tokenizer, config, trained)
    }

    #[test]
    fn a_trained_tokenizer_is_one_of_deepseeks_kind() {
        let (tokenizer, config, trained) = train(&training(Digits::Three, None));
        assert_eq!(tokenizer.vocab_size(), 300);
        for (id, token) in (0..).zip(SPECIAL_TOKENS) {
            assert_eq!(tokenizer.token_to_id(token), Some(id));
            assert_eq!(tokenizer.is_special(id), id < 3);
            assert!(tokenizer.is_added(id));
        }
        let ids = tokenizer.encode(TEXT, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), TEXT);
        assert!(ids.len() < TEXT.chars().count(), "{} tokens", ids.len());
        assert_eq!(train(&training(Digits::Three, None)).2, trained, "training is repeatable");
        let template = ChatTemplate::from_tokenizer_config(&config).unwrap();
        let earlier = Message::assistant("<think>a</think>b");
        let mut last = Message::assistant("d");
        last.reasoning_content = Some("c".to_owned());
        let messages = [Message::user("1"), earlier, Message::user("2"), last];
        let text = template.render(&ChatInput { messages: &messages, ..ChatInput::default() }).unwrap();
        let expected =
            format!("{BOS}<｜User｜>1<｜Assistant｜>b{EOS}<｜User｜>2<｜Assistant｜><think>c</think>d{EOS}");
        assert_eq!(text, expected);
    }

    #[test]
    fn single_digits_are_words_of_their_own() {
        let count = |digits| {
            let training = BpeTraining { vocab_size: 400, ..training(digits, None) };
            train(&training).0.encode("12345", false).unwrap().len()
        };
        assert_eq!(count(Digits::Single), 5);
        assert_eq!(count(Digits::Three), 2);
    }

    #[test]
    fn isolated_patterns_are_never_merged_with_what_is_around_them() {
        for (pattern, splits) in [(r"[\u3400-\u9fff]", true), (r"[\u3400-\u9fff]|cat sat", false)] {
            let training = training(Digits::Three, Some(pattern));
            assert_eq!(Splitter::of_json(&training.pre_tokenizer()).is_some(), splits, "{pattern}");
            let (tokenizer, ..) = train(&training);
            let ids = tokenizer.encode("處處聞啼鳥", false).unwrap();
            assert!(
                ids.iter().all(|&id| tokenizer.token_bytes(id).unwrap().len() <= 3),
                "{pattern}: {ids:?}"
            );
        }
        let error = training(Digits::Three, Some("(")).check().unwrap_err().to_string();
        assert!(error.contains("`isolate`") && error.contains("\"(\""), "{error}");
    }
}
