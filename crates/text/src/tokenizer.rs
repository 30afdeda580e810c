//! `tokenizer.json` through the `tokenizers` crate: the ids are bit for bit Hugging Face's.
//!
//! What this module adds is the door and the edges: a file is checked before the crate sees it, bos and
//! eos are added as `tokenizer_config.json` says and never twice, truncation and padding stored in the
//! file are switched off, and text from strangers can be encoded without its control tokens
//! ([`Tokenizer::encode_plain`]).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    AddedToken, Encoding, Model as _, NormalizedString, Normalizer as _, NormalizerWrapper, OffsetType,
    PreTokenizedString, PreTokenizer as _, Tokenizer as HfTokenizer,
};

use crate::byte_level::extend_with_token;
use crate::config::TokenizerConfig;
use crate::control::ControlTokens;
use crate::error::{Error, Result};
use crate::files::{field_error, kind, malformed, read_if_present};

/// The file's name in a model folder.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// Encodes text to ids and decodes ids to text.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: HfTokenizer,
    config: TokenizerConfig,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    control_tokens: Arc<ControlTokens>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and `tokenizer_config.json` and `special_tokens_map.json` if they are there.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] if the folder has none; otherwise as [`Self::from_bytes`].
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let file = dir.join(TOKENIZER);
        let Some(bytes) = read_if_present(&file)? else {
            return Err(Error::NoTokenizer { dir: dir.to_path_buf() });
        };
        Self::build(&bytes, &file, TokenizerConfig::from_dir(dir)?)
    }

    /// Builds from the content of a `tokenizer.json`, with an empty configuration if none is given.
    ///
    /// # Errors
    /// Content that is malformed, has no vocabulary, contradicts itself or is not byte-level BPE; a configuration that wants a
    /// bos or eos added but has no such token, or names one the vocabulary lacks.
    pub fn from_bytes(tokenizer_json: &[u8], config: Option<&TokenizerConfig>) -> Result<Self> {
        Self::build(tokenizer_json, Path::new(TOKENIZER), config.cloned().unwrap_or_default())
    }

    pub(crate) fn build(bytes: &[u8], file: &Path, config: TokenizerConfig) -> Result<Self> {
        let outline = Outline::check(bytes, file)?;
        let mut inner =
            guarded(|| HfTokenizer::from_bytes(bytes)).map_err(|reason| malformed(file, reason))?;
        if inner.get_vocab_size(false) == 0 {
            return Err(malformed(file, "`model.vocab`: expected at least one entry, got none"));
        }
        inner.with_padding(None);
        guarded(|| inner.with_truncation(None).map(|_| ())).map_err(|reason| malformed(file, reason))?;
        for token in outline.added_tokens.iter().flatten().filter(|token| !token.content.is_empty()) {
            let got = inner.token_to_id(&token.content);
            if got != Some(token.id) {
                return Err(Error::AddedToken {
                    file: file.to_path_buf(),
                    token: token.content.clone(),
                    expected: token.id,
                    got: got.map_or_else(|| "none".into(), |id| id.to_string()),
                });
            }
        }
        let special = &config.special_tokens;
        let find = |field, token: &Option<String>, wanted: Option<bool>| match token {
            Some(text) => match inner.token_to_id(text) {
                None if wanted == Some(true) => {
                    Err(field_error(&config.file, field, "a token of tokenizer.json", format!("{text:?}")))
                }
                id => Ok(id),
            },
            None if wanted == Some(true) => Err(field_error(
                &config.file,
                field,
                &format!("a token, because add_{field} is true"),
                "none",
            )),
            None => Ok(None),
        };
        let bos_token_id = find("bos_token", &special.bos_token, config.add_bos_token)?;
        let eos_token_id = find("eos_token", &special.eos_token, config.add_eos_token)?;
        let control_tokens = Arc::new(control_tokens(&inner));
        Ok(Self { inner, config, bos_token_id, eos_token_id, control_tokens })
    }

    /// Encodes text in which the control tokens count, such as a rendered chat template.
    ///
    /// With `add_special_tokens`, bos and eos are added if the configuration says so (if it is silent: if
    /// the post-processor in `tokenizer.json` does), except where the text already begins or ends with them.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], only for a `tokenizer.json` that contradicts itself.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.run("encode", || self.inner.encode_fast(text, false))?;
        if !add_special_tokens {
            return Ok(encoding.get_ids().to_vec());
        }
        let of_text = (
            self.bos_token_id.map_or(0, |bos| leading(encoding.get_ids().iter(), bos)),
            self.eos_token_id.map_or(0, |eos| leading(encoding.get_ids().iter().rev(), eos)),
        );
        let processed = self.run("encode", || self.inner.post_process(encoding, None, true))?;
        let mut ids = processed.get_ids().to_vec();
        if let Some(bos) = self.bos_token_id {
            let have = leading(ids.iter(), bos);
            let want = wanted_count(of_text.0, have, self.config.add_bos_token);
            ids.splice(..have, std::iter::repeat_n(bos, want));
        }
        if let Some(eos) = self.eos_token_id {
            let have = leading(ids.iter().rev(), eos);
            let want = wanted_count(of_text.1, have, self.config.add_eos_token);
            ids.truncate(ids.len() - have);
            ids.resize(ids.len() + want, eos);
        }
        Ok(ids)
    }

    /// Encodes text from strangers: the text of special and added tokens in it is encoded as the plain
    /// characters it is, never as the control token. No bos or eos is added.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.plain_ids(text)?;
        // A vocabulary that also holds a control token as an ordinary entry could still produce its id.
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let produced: HashSet<u32> = ids.iter().copied().filter(|id| added.contains_key(id)).collect();
        if produced.iter().any(|id| text.contains(&added[id].content)) {
            return self.encode_cut(text);
        }
        Ok(ids)
    }

    /// Encodes with a cut inside every occurrence of an added token.
    fn encode_cut(&self, text: &str) -> Result<Vec<u32>> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let mut cuts: Vec<usize> = added
            .values()
            .filter(|token| token.content.chars().count() > 1)
            .flat_map(|token| {
                let first = token.content.chars().next().map_or(0, char::len_utf8);
                text.match_indices(token.content.as_str()).map(move |(at, _)| at + first)
            })
            .collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        let mut ids = Vec::new();
        let mut start = 0;
        for cut in cuts {
            ids.extend(self.plain_ids(&text[start..cut])?);
            start = cut;
        }
        Ok(ids)
    }

    /// The pipeline of `tokenizers` without its first stage, the extraction of added tokens.
    fn plain_ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding: Encoding = self.run("encode", || {
            let mut pieces = PreTokenizedString::from(text);
            if let Some(normalizer) = self.inner.get_normalizer() {
                pieces.normalize(|piece| normalizer.normalize(piece))?;
            }
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            self.inner.get_model().tokenize_in_pretokenized(&mut pieces, None)?;
            pieces.into_encoding(None, 0, OffsetType::None)
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary nothing.
    /// With `skip_special_tokens`, tokens marked special are left out.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.run("decode", || self.inner.decode(ids, skip_special_tokens))
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// The text of the token that begins a sequence.
    pub fn bos_token(&self) -> Option<&str> {
        self.config.special_tokens.bos_token.as_deref()
    }

    /// The id of the token that begins a sequence.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// The text of the token that ends a sequence.
    pub fn eos_token(&self) -> Option<&str> {
        self.config.special_tokens.eos_token.as_deref()
    }

    /// The id of the token that ends a sequence.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// The id of a vocabulary entry or added token, written as in `tokenizer.json` (a space is `Ġ`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The vocabulary entry or added token of an id, written as in `tokenizer.json`.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocabulary_entry(id)
    }

    /// Whether [`Self::decode`] leaves the id out when it skips special tokens.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        // By text, as `decode` decides it; only added tokens can be special, and most ids are none.
        added.get_added_tokens_decoder().contains_key(&id)
            && self.vocabulary_entry(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// The bytes that a vocabulary entry or added token stands for; `None` for ids outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        extend_with_token(&mut bytes, &self.vocabulary_entry(id)?);
        Some(bytes)
    }

    /// Whether the id is an added token: found in text before anything else, special or not.
    pub fn is_added(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// The number of vocabulary entries and added tokens. A model's `vocab_size` may be larger: it is padded.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The tokens that structure a prompt, as texts.
    pub(crate) fn control_tokens(&self) -> &ControlTokens {
        &self.control_tokens
    }

    /// Whether text is changed before it is cut.
    pub(crate) fn has_normalizer(&self) -> bool {
        let empty = |normalizer: &NormalizerWrapper| matches!(normalizer, NormalizerWrapper::Sequence(steps) if steps.as_ref().is_empty());
        self.inner.get_normalizer().is_some_and(|normalizer| !empty(normalizer))
    }

    pub(crate) fn inner(&self) -> &HfTokenizer {
        &self.inner
    }

    /// `text` as the tokenizer's normalizer leaves it, if it has one that does anything to it.
    pub(crate) fn normalized(&self, text: &str) -> Option<String> {
        if !self.has_normalizer() {
            return None;
        }
        let normalizer = self.inner.get_normalizer()?;
        let mut normal = NormalizedString::from(text);
        normalizer.normalize(&mut normal).ok()?;
        Some(normal.get().to_owned()).filter(|normal| normal != text)
    }

    pub(crate) fn vocabulary_entry(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    fn run<T>(&self, action: &'static str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        guarded(work).map_err(|reason| Error::Tokenizer { action, reason })
    }
}

/// Whether an added token is markup: marked special, or in angle brackets (DeepSeek does not mark all). Others are words.
pub(crate) fn is_control_token(token: &AddedToken) -> bool {
    token.special || (token.content.starts_with('<') && token.content.ends_with('>'))
}

/// The added tokens that are markup. `<think>` counts in any case, because a prompt that ends with it begins the reasoning.
fn control_tokens(tokenizer: &HfTokenizer) -> ControlTokens {
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let mut tokens: Vec<(u32, String)> = added
        .iter()
        .filter(|(_, token)| is_control_token(token))
        .map(|(&id, token)| (id, token.content.clone()))
        .collect();
    tokens.sort_unstable();
    let markup = ["<think>", "</think>"].map(String::from);
    ControlTokens::new(tokens.into_iter().map(|(_, content)| content).chain(markup))
}

/// How often a special token stands at the edge: `of_text` times in the text itself, `have` times after the
/// post-processor.
fn wanted_count(of_text: usize, have: usize, configured: Option<bool>) -> usize {
    match configured {
        _ if of_text > 0 => of_text,
        Some(add) => usize::from(add),
        None => usize::from(have > 0),
    }
}

fn leading<'a>(ids: impl Iterator<Item = &'a u32>, token: u32) -> usize {
    ids.take_while(|&&id| id == token).count()
}

/// Runs a call into `tokenizers`, whose file format has corners that panic (a merge shorter than the
/// subword prefix, ids at the end of `u32`); the panic becomes the reason of an error.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(payload) => Err(payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "internal failure".into())),
    }
}

/// What is read of `tokenizer.json` before `tokenizers` is let at it.
#[derive(Deserialize)]
struct Outline {
    added_tokens: Option<Vec<AddedTokenOutline>>,
    model: ModelOutline,
    decoder: Option<Value>,
}

#[derive(Deserialize)]
struct AddedTokenOutline {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct ModelOutline {
    #[serde(rename = "type")]
    model_type: Option<Value>,
    continuing_subword_prefix: Option<Value>,
    end_of_word_suffix: Option<Value>,
    byte_fallback: Option<Value>,
    dropout: Option<Value>,
}

impl Outline {
    fn check(bytes: &[u8], file: &Path) -> Result<Self> {
        let outline: Self =
            serde_json::from_slice(bytes).map_err(|error| malformed(file, error.to_string()))?;
        let unsupported = |field, expected, got: &Value| {
            Err(Error::Unsupported { file: file.to_path_buf(), field, expected, got: kind(got) })
        };
        let model = &outline.model;
        match &model.model_type {
            None => {}
            Some(Value::String(name)) if name == "BPE" => {}
            Some(other) => return unsupported("model.type", "\"BPE\"", other),
        }
        for (field, value) in [
            ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
            ("model.end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            match value {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if text.is_empty() => {}
                Some(other) => return unsupported(field, "null or \"\"", other),
            }
        }
        match &model.byte_fallback {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(other) => return unsupported("model.byte_fallback", "false", other),
        }
        match &model.dropout {
            None | Some(Value::Null) => {}
            Some(value) if value.as_f64() == Some(0.0) => {}
            Some(other) => return unsupported("model.dropout", "null (the same text, the same ids)", other),
        }
        let decoder = outline.decoder.as_ref().unwrap_or(&Value::Null);
        let only = match decoder.get("decoders").and_then(Value::as_array).map(Vec::as_slice) {
            Some([only]) => only,
            _ => decoder,
        };
        match only.get("type") {
            Some(Value::String(name)) if name == "ByteLevel" => Ok(outline),
            other => unsupported("decoder.type", "\"ByteLevel\"", other.unwrap_or(&Value::Null)),
        }
    }
}
