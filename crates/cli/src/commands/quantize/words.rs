//! What goes with the weights: tokenizer, chat template, recommended sampling, in the form of the result.

use std::path::Path;

use anyhow::{Context, Result};
use fathom_checkpoint::Checkpoint;
use fathom_checkpoint::gguf::{Value, is_gguf, read_metadata};
use fathom_engine::{Language, gguf_generation_entries, gguf_vocabulary, gguf_vocabulary_entries};
use fathom_model::{Config, config};
use fathom_text::{Error, GenerationConfig, GgufVocabulary};
use serde_json::{Map, json};

use crate::commands::synth::TOKENIZER_FILES;

/// The metadata of a GGUF file's vocabulary; a source without a tokenizer gives none but the ids that end a text.
pub(super) fn gguf_entries(model: &Path, config: &Config) -> Result<Vec<(String, Value)>> {
    let vocabulary = if is_gguf(model) {
        gguf_vocabulary(&read_metadata(model)?)?
    } else {
        match GgufVocabulary::from_dir(model, config.vocab_size) {
            Ok(vocabulary) => Some(vocabulary),
            Err(Error::NoTokenizer { .. }) => None,
            Err(other) => return Err(other.into()),
        }
    };
    let mut entries = match &vocabulary {
        Some(vocabulary) => gguf_vocabulary_entries(vocabulary),
        None => Vec::new(),
    };
    if vocabulary.is_none() {
        let ids = [("bos", config.bos_token_id), ("eos", config.eos_token_id.first().copied())];
        let named =
            |(name, id): (&str, Option<u32>)| Some((format!("tokenizer.ggml.{name}_token_id"), id?.into()));
        entries.extend(ids.into_iter().filter_map(named));
    }
    entries.extend(gguf_generation_entries(&Language::open(model)?.recommendation()?));
    Ok(entries)
}

/// The source's `config.json`.
pub(super) fn config_json(model: &Path, checkpoint: &Checkpoint) -> Result<String> {
    if is_gguf(model) {
        return Ok(config::gguf::config_json(checkpoint)?);
    }
    let file = if model.is_dir() { model.join("config.json") } else { model.to_owned() };
    std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// Name and contents of the files beside a directory's weights.
pub(super) fn of_directory(model: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for name in TOKENIZER_FILES.into_iter().chain([GenerationConfig::FILE]) {
        let path = model.join(name);
        if path.exists() {
            let contents = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.push((name.to_owned(), contents));
        }
    }
    Ok(files)
}

/// The same files as a GGUF file's metadata say them.
pub(super) fn of_gguf(model: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    if let Some(vocabulary) = gguf_vocabulary(&read_metadata(model)?)? {
        let config = vocabulary.config()?;
        let special = &config.special_tokens;
        let mut object = Map::new();
        let mut set = |name: &str, value: serde_json::Value| {
            if !value.is_null() {
                object.insert(name.to_owned(), value);
            }
        };
        set("add_bos_token", json!(config.add_bos_token));
        set("add_eos_token", json!(config.add_eos_token));
        set("bos_token", json!(special.bos_token));
        set("eos_token", json!(special.eos_token));
        set("pad_token", json!(special.pad_token));
        set("unk_token", json!(special.unk_token));
        let templates = &config.chat_templates;
        set(
            "chat_template",
            match &templates[..] {
                [] => json!(null),
                [only] => json!(only.template),
                many => many.iter().map(|t| json!({ "name": t.name, "template": t.template })).collect(),
            },
        );
        files.push((TOKENIZER_FILES[0].to_owned(), vocabulary.tokenizer_json()?));
        files.push((TOKENIZER_FILES[1].to_owned(), format!("{:#}\n", json!(object)).into_bytes()));
    }
    let generation = Language::open(model)?.recommendation()?;
    let fields = [
        ("temperature", json!(generation.temperature)),
        ("top_p", json!(generation.top_p)),
        ("top_k", json!(generation.top_k)),
        ("min_p", json!(generation.min_p)),
        ("repetition_penalty", json!(generation.repetition_penalty)),
    ];
    let fields: Map<String, serde_json::Value> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    if !fields.is_empty() {
        files.push((GenerationConfig::FILE.to_owned(), format!("{:#}\n", json!(fields)).into_bytes()));
    }
    Ok(files)
}
