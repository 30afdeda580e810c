//! What stands beside the weights of a model: configuration, tokenizer, generation settings.

use std::fs;
use std::path::Path;

use fathom_model::differentiable::DifferentiableModel;
use serde_json::{Value, json};

use crate::config::ModelSource;
use crate::{Error, Result};

/// The tokenizer's files.
const TOKENIZER: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];
/// What is taken from the model that a run began from.
const GENERATION: &str = "generation_config.json";

/// Writes `config.json` to `directory` and copies the tokenizer of the data in `data`.
pub(super) fn write(
    directory: &Path,
    source: &ModelSource,
    model: &DifferentiableModel,
    data: &Path,
) -> Result<()> {
    let path = directory.join("config.json");
    let text = config_json(source, model.config().num_nextn_predict_layers)?;
    fs::write(&path, text).map_err(Error::io(&path, "write"))?;
    let of_model = source.weights.as_deref();
    for name in TOKENIZER {
        let from = [Some(data), of_model].into_iter().flatten().map(|dir| dir.join(name));
        copy(from, &directory.join(name))?;
    }
    copy(of_model.map(|dir| dir.join(GENERATION)).into_iter(), &directory.join(GENERATION))
}

/// Copies the first of `candidates` that exists.
fn copy(mut candidates: impl Iterator<Item = std::path::PathBuf>, to: &Path) -> Result<()> {
    match candidates.find(|from| from.is_file()) {
        Some(from) => fs::copy(&from, to).map(|_| ()).map_err(Error::io(to, "write")),
        None => Ok(()),
    }
}

/// The configuration that the run began with, true of what is saved: F32, not quantized, as many MTP modules as there are.
fn config_json(source: &ModelSource, mtp_modules: usize) -> Result<String> {
    let mut config: Value = serde_json::from_str(&source.json)
        .map_err(|error| Error::Syntax { file: source.file.clone(), reason: error.to_string() })?;
    let fields = config.as_object_mut().expect("the configuration was parsed from an object");
    fields.shift_remove("quantization_config");
    let dtype = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    fields.insert(dtype.to_owned(), json!("float32"));
    if fields.contains_key("num_nextn_predict_layers") || mtp_modules > 0 {
        fields.insert("num_nextn_predict_layers".to_owned(), json!(mtp_modules));
    }
    fields.entry("architectures").or_insert_with(|| {
        json!([match source.config.model_type {
            fathom_model::config::ModelType::DeepseekV2 => "DeepseekV2ForCausalLM",
            fathom_model::config::ModelType::DeepseekV3 => "DeepseekV3ForCausalLM",
            fathom_model::config::ModelType::Deepseek => "DeepseekForCausalLM",
        }])
    });
    Ok(format!("{config:#}\n"))
}
