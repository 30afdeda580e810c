//! `[model]`: a file, a preset, a table of fields, or weights to start from.

use std::path::{Path, PathBuf};

use fathom_model::{Config, presets};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What is trained; exactly one of `config`, `preset`, `fields` and `from` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelChoice {
    /// A `config.json`.
    pub config: Option<PathBuf>,
    /// The name of a released configuration.
    pub preset: Option<String>,
    /// The fields of a `config.json` themselves.
    pub fields: Option<serde_json::Map<String, serde_json::Value>>,
    /// A model's directory: its configuration, and its weights to start from.
    pub from: Option<PathBuf>,
    /// Directory of the tokenizer that is saved with the model; the data's (or the model's) if not given.
    pub tokenizer: Option<PathBuf>,
}

/// A configuration as text, and where the weights begin.
#[derive(Clone, Debug)]
pub struct ModelSource {
    /// The text of the `config.json`.
    pub json: String,
    /// Parsed.
    pub config: Config,
    /// What to call it in errors.
    pub file: PathBuf,
    /// A directory of weights to start from; random if there is none.
    pub weights: Option<PathBuf>,
}

impl ModelChoice {
    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.config.iter_mut().chain(&mut self.from).chain(&mut self.tokenizer)
    }

    /// How many of the four ways are given.
    pub(super) fn ways(&self) -> usize {
        [self.config.is_some(), self.preset.is_some(), self.fields.is_some(), self.from.is_some()]
            .into_iter()
            .filter(|given| *given)
            .count()
    }

    /// Reads and checks the configuration. `run_file` is named where it holds the fields itself.
    ///
    /// # Errors
    /// If it cannot be read, or is no model: as [`Config::read`].
    pub fn source(&self, run_file: &Path) -> Result<ModelSource> {
        let (json, file) = if let Some(name) = &self.preset {
            let json = presets::json(name).ok_or_else(|| fathom_model::Error::UnknownPreset(name.clone()))?;
            (json.to_owned(), PathBuf::from(name))
        } else if let Some(fields) = &self.fields {
            let json = serde_json::to_string_pretty(fields).expect("a JSON object is JSON");
            (json, PathBuf::from(format!("{} [model.fields]", run_file.display())))
        } else {
            let file = match (&self.config, &self.from) {
                (Some(config), _) if !config.is_dir() => config.clone(),
                (Some(dir), _) | (None, Some(dir)) => dir.join("config.json"),
                (None, None) => return Err(Error::config(run_file, "model", super::check::ONE_MODEL)),
            };
            (std::fs::read_to_string(&file).map_err(Error::io(&file, "read"))?, file)
        };
        let config = Config::parse_trainable(&json, &file)?;
        Ok(ModelSource { json, config, file, weights: self.from.clone() })
    }
}
