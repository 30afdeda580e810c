//! The words of a model, whether it is a directory or a GGUF file: tokenizer, chat template, recommended
//! sampling. `fathom_text` knows the words and `fathom_checkpoint` the file; this is where they meet.

use std::path::{Path, PathBuf};

use fathom_checkpoint::gguf::{self, Metadata, Value};
use fathom_text::{ChatTemplate, GenerationConfig, GgufVocabulary, NamedTemplate, Tokenizer};

use crate::error::Result;

/// Where a model's words are read from.
#[derive(Clone, Debug)]
pub struct Language(Origin);

#[derive(Clone, Debug)]
enum Origin {
    Directory(PathBuf),
    Gguf { file: PathBuf, vocabulary: Option<Box<GgufVocabulary>>, generation: Box<GenerationConfig> },
}

impl Language {
    /// Of the model at `model`: a directory, or a `.gguf` file, whose metadata are read here.
    ///
    /// # Errors
    /// A GGUF file that cannot be read, or a key of the wrong type.
    pub fn open(model: &Path) -> Result<Self> {
        if !gguf::is_gguf(model) {
            return Ok(Self(Origin::Directory(model.to_owned())));
        }
        let metadata = gguf::read_metadata(model)?;
        Ok(Self(Origin::Gguf {
            file: model.to_owned(),
            vocabulary: gguf_vocabulary(&metadata)?.map(Box::new),
            generation: Box::new(gguf_generation_config(&metadata)?),
        }))
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`fathom_text::Error::NoTokenizer`] if the model has none; as [`Tokenizer::from_dir`] and
    /// [`GgufVocabulary::tokenizer`].
    pub fn tokenizer(&self) -> fathom_text::Result<Tokenizer> {
        match &self.0 {
            Origin::Directory(dir) => Tokenizer::from_dir(dir),
            Origin::Gguf { vocabulary: Some(vocabulary), .. } => vocabulary.tokenizer(),
            Origin::Gguf { file, .. } => Err(fathom_text::Error::NoTokenizer { dir: file.clone() }),
        }
    }

    /// The tokenizer, `None` if the model has none.
    ///
    /// # Errors
    /// As [`Language::tokenizer`] otherwise.
    pub fn tokenizer_if_present(&self) -> fathom_text::Result<Option<Tokenizer>> {
        match self.tokenizer() {
            Ok(tokenizer) => Ok(Some(tokenizer)),
            Err(fathom_text::Error::NoTokenizer { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The chat template.
    ///
    /// # Errors
    /// [`fathom_text::Error::NoChatTemplate`] if the model has none; as [`ChatTemplate::from_dir`].
    pub fn chat_template(&self) -> fathom_text::Result<ChatTemplate> {
        match &self.0 {
            Origin::Directory(dir) => ChatTemplate::from_dir(dir),
            Origin::Gguf { vocabulary: Some(vocabulary), .. } => vocabulary.chat_template(),
            Origin::Gguf { file, .. } => Err(fathom_text::Error::NoChatTemplate { place: file.clone() }),
        }
    }

    /// What the authors recommend for sampling.
    ///
    /// # Errors
    /// As [`GenerationConfig::from_dir`].
    pub fn recommendation(&self) -> fathom_text::Result<GenerationConfig> {
        match &self.0 {
            Origin::Directory(dir) => GenerationConfig::from_dir(dir),
            Origin::Gguf { generation, .. } => Ok((**generation).clone()),
        }
    }
}

const TEMPLATE: &str = "tokenizer.chat_template";
const TEMPLATES: &str = "tokenizer.chat_templates";
const DEFAULT_TEMPLATE: &str = "default";

fn ggml(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

/// What GGUF metadata say of words; `None` if they hold no vocabulary.
///
/// # Errors
/// A key of the wrong type, or an id beyond `u32`.
pub fn gguf_vocabulary(metadata: &Metadata) -> Result<Option<GgufVocabulary>> {
    let Some(tokens) = metadata.texts(&ggml("tokens"))? else { return Ok(None) };
    let text = |name: &str| Ok::<_, crate::Error>(metadata.text(&ggml(name))?.unwrap_or_default().to_owned());
    let flag = |name: &str| metadata.flag(&ggml(name));
    let id = |name: &str| match metadata.unsigned(&ggml(name))? {
        None => Ok(None),
        Some(id) => u32::try_from(id).map(Some).map_err(|_| metadata.wrong(&ggml(name), "a token id")),
    };
    let kinds = metadata.integers(&ggml("token_type"))?.unwrap_or_default();
    let kinds: Option<Vec<i32>> = kinds.into_iter().map(|kind| i32::try_from(kind).ok()).collect();
    let mut chat_templates = Vec::new();
    let mut add = |name: &str, key: &str| {
        let template = metadata.text(key)?;
        chat_templates.extend(
            template.map(|template| NamedTemplate { name: name.to_owned(), template: template.to_owned() }),
        );
        Ok::<_, crate::Error>(())
    };
    add(DEFAULT_TEMPLATE, TEMPLATE)?;
    for name in metadata.texts(TEMPLATES)?.unwrap_or_default() {
        if name != DEFAULT_TEMPLATE {
            add(name, &format!("{TEMPLATE}.{name}"))?;
        }
    }
    Ok(Some(GgufVocabulary {
        file: metadata.file().to_owned(),
        model: text("model")?,
        pre: text("pre")?,
        tokens: tokens.to_vec(),
        token_types: kinds
            .ok_or_else(|| metadata.wrong(&ggml("token_type"), "an array of small integers"))?,
        merges: metadata.texts(&ggml("merges"))?.unwrap_or_default().to_vec(),
        bos_token_id: id("bos_token_id")?,
        eos_token_id: id("eos_token_id")?,
        pad_token_id: id("padding_token_id")?,
        unk_token_id: id("unknown_token_id")?,
        add_bos_token: flag("add_bos_token")?,
        add_eos_token: flag("add_eos_token")?,
        chat_templates,
    }))
}

/// The metadata that [`gguf_vocabulary`] reads, as llama.cpp wants them.
pub fn gguf_vocabulary_entries(vocabulary: &GgufVocabulary) -> Vec<(String, Value)> {
    let mut entries = vec![
        (ggml("model"), Value::from(vocabulary.model.as_str())),
        (ggml("pre"), vocabulary.pre.as_str().into()),
        (ggml("tokens"), vocabulary.tokens.clone().into()),
        (ggml("token_type"), vocabulary.token_types.clone().into()),
        (ggml("merges"), vocabulary.merges.clone().into()),
    ];
    let ids = [
        ("bos_token_id", vocabulary.bos_token_id),
        ("eos_token_id", vocabulary.eos_token_id),
        ("padding_token_id", vocabulary.pad_token_id),
        ("unknown_token_id", vocabulary.unk_token_id),
    ];
    entries.extend(ids.into_iter().filter_map(|(name, id)| Some((ggml(name), id?.into()))));
    let flags = [("add_bos_token", vocabulary.add_bos_token), ("add_eos_token", vocabulary.add_eos_token)];
    entries.extend(flags.into_iter().filter_map(|(name, flag)| Some((ggml(name), flag?.into()))));
    let (default, named): (Vec<_>, Vec<_>) =
        vocabulary.chat_templates.iter().partition(|template| template.name == DEFAULT_TEMPLATE);
    entries.extend(default.first().map(|only| (TEMPLATE.to_owned(), only.template.as_str().into())));
    if !named.is_empty() {
        let names: Vec<String> = named.iter().map(|template| template.name.clone()).collect();
        entries.push((TEMPLATES.to_owned(), names.into()));
        let named = named.into_iter();
        entries.extend(named.map(|t| (format!("{TEMPLATE}.{}", t.name), t.template.as_str().into())));
    }
    entries
}

/// The recommended sampling in GGUF metadata (`general.sampling.*`), and the ids at which answers end.
///
/// # Errors
/// A key of the wrong type or range.
pub fn gguf_generation_config(metadata: &Metadata) -> Result<GenerationConfig> {
    let number = |name: &str, expected: &str, allowed: fn(f64) -> bool| {
        let key = format!("general.sampling.{name}");
        match metadata.number(&key)? {
            Some(value) if !allowed(value) => Err(crate::Error::from(metadata.wrong(&key, expected))),
            value => Ok(value.map(|value| value as f32)),
        }
    };
    let share = "a number from 0 to 1";
    let top_k = metadata.unsigned("general.sampling.top_k")?;
    Ok(GenerationConfig {
        temperature: number("temp", "a number of at least 0", |t| (0.0..1e6).contains(&t))?,
        top_p: number("top_p", share, |p| (0.0..=1.0).contains(&p))?,
        min_p: number("min_p", share, |p| (0.0..=1.0).contains(&p))?,
        repetition_penalty: number("penalty_repeat", "a number above 0", |p| p > 0.0 && p < 1e6)?,
        top_k: top_k.map(|top_k| u32::try_from(top_k).unwrap_or(u32::MAX)),
        ..GenerationConfig::default()
    })
}

/// The metadata that [`gguf_generation_config`] reads.
pub fn gguf_generation_entries(generation: &GenerationConfig) -> Vec<(String, Value)> {
    let key = |name: &str| format!("general.sampling.{name}");
    let temperature = match generation.do_sample {
        Some(false) => Some(0.0),
        _ => generation.temperature,
    };
    let numbers = [
        ("temp", temperature),
        ("top_p", generation.top_p),
        ("min_p", generation.min_p),
        ("penalty_repeat", generation.repetition_penalty),
    ];
    let numbers = numbers.into_iter().filter_map(|(name, value)| Some((key(name), value?.into())));
    let top_k = generation.top_k.and_then(|top_k| i32::try_from(top_k).ok());
    numbers.chain(top_k.map(|top_k| (key("top_k"), Value::I32(top_k)))).collect()
}
