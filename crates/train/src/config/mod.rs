//! `run.toml`: everything that decides a run, in one file.
//!
//! [`RunConfig::read`] parses, applies `--set`, and checks what can be checked without the data and the model
//! (`check.rs`); what needs them is for the loop to check before its first step.

mod batch;
mod check;
mod model;
mod optimizer;
mod overrides;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use batch::{Batch, Ramp};
pub use model::{ModelChoice, ModelSource};
pub use optimizer::{AdamW, Moments, Muon, Optimizer, WithoutDecay};

pub use crate::schedule::Schedule;
use crate::{Error, Result};

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Where checkpoints, metrics and report go; `--out` wins.
    pub out: Option<PathBuf>,
    /// Decides initial weights, the order of the data and the choices of this run.
    #[serde(default)]
    pub seed: u64,
    /// Threads; 0 means one per processor.
    #[serde(default)]
    pub threads: usize,
    /// What operands of products are rounded to; sums and master weights are f32 always.
    #[serde(default)]
    pub dtype: Dtype,
    /// How long: exactly one of these three.
    pub steps: Option<u64>,
    /// Tokens to see.
    pub tokens: Option<u64>,
    /// Passes over the training data.
    pub epochs: Option<f64>,
    /// Standard deviation of initial weights (V2, V3: 0.006).
    #[serde(default = "defaults::init_std")]
    pub init_std: f64,
    /// Whether a layer's activations are computed again in the backward pass instead of kept.
    #[serde(default)]
    pub recompute: bool,
    /// Whether weights are packed for products at each use, and not once per step and kept: saves a copy of them in each
    /// direction.
    #[serde(default)]
    pub pack_each_use: bool,
    /// What is trained.
    pub model: ModelChoice,
    /// What it is trained on.
    pub data: Data,
    /// Sequences per step.
    pub batch: Batch,
    /// How weights move.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// The learning rate over the run.
    pub schedule: Schedule,
    /// How experts are kept busy.
    #[serde(default)]
    pub balance: Balance,
    /// Multi-token prediction, where the model has such layers.
    #[serde(default)]
    pub mtp: Mtp,
    /// An average of the weights over time, saved beside them.
    pub ema: Option<Ema>,
    /// Loss on text that is not trained on.
    #[serde(default)]
    pub validation: Validation,
    /// Text written by the model as it is.
    #[serde(default)]
    pub samples: Samples,
    /// What is saved, and how much of it kept.
    #[serde(default)]
    pub checkpoint: Saving,
    /// What to do when it goes wrong.
    #[serde(default)]
    pub trouble: Trouble,
    /// Small matrices beside frozen ones, instead of training all weights (Hu et al., arXiv 2106.09685).
    pub lora: Option<Lora>,
}

/// What operands of products are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Not at all.
    F32,
    /// bf16, with sums in f32.
    #[default]
    Bf16,
}

/// Prepared token shards (`fathom data prepare`), or files of conversations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// One directory of shards, or JSONL files of `messages`, which become tokens at the start of the run.
    #[serde(deserialize_with = "one_or_many")]
    pub path: Vec<PathBuf>,
    /// The share of conversations that is kept for validation; prepared data has its own validation split.
    pub validation: Option<f64>,
    /// Whether a token sees only its own document (V4; the default of `sft`), or all that stands before it in the
    /// sequence (V3; the default of `train`).
    pub document_mask: Option<bool>,
    /// Whether the rest of a document is learnt whose beginning is in another sequence (the default of `train`), or only
    /// what stands behind its whole context (the default of `sft`).
    pub learn_cut_documents: Option<bool>,
    /// Whether windows come in random order.
    #[serde(default = "defaults::yes")]
    pub shuffle: bool,
}

/// Balance of experts. Zero switches a term off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Balance {
    /// γ: how far a router's bias moves per step (V3 §2.1.2: 0.001). Only where `topk_method` is `noaux_tc`.
    pub bias_update: f64,
    /// The share of the run after which γ is zero (V3: 14.3 of 14.8 trillion tokens).
    pub bias_update_until: f64,
    /// α of the sequence-wise loss (V3 eq. 17-20: 0.0001).
    pub sequence: f64,
    /// α1 of the expert-level loss (V2 eq. 23-25: 0.003).
    pub expert: f64,
    /// α2 of the device-level loss (V2 eq. 26-28: 0.05); devices are the model's expert groups (`n_group`).
    pub device: f64,
    /// α3 of the communication loss (V2 eq. 29-31: 0.02), of the same devices.
    pub communication: f64,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            bias_update: 0.001,
            bias_update_until: 1.0,
            sequence: 0.0,
            expert: 0.0,
            device: 0.0,
            communication: 0.0,
        }
    }
}

/// λ of the MTP loss (V3 §2.2, §4.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mtp {
    /// In the beginning.
    pub lambda: f64,
    /// From `switch` on.
    pub lambda_later: f64,
    /// A share of the run.
    pub switch: f64,
}

impl Default for Mtp {
    fn default() -> Self {
        Self { lambda: 0.3, lambda_later: 0.1, switch: 10.0 / 14.8 }
    }
}

/// Exponential moving average of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ema {
    /// What the average keeps of itself per step.
    pub decay: f64,
}

/// Validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// Steps between two.
    pub every: u64,
    /// Micro-batches of each, always the same ones.
    pub batches: u64,
}

impl Default for Validation {
    fn default() -> Self {
        Self { every: 100, batches: 16 }
    }
}

/// Samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Samples {
    /// Beginnings that the model goes on with after every checkpoint.
    pub prompts: Vec<String>,
    /// Tokens of each at most.
    pub max_tokens: usize,
    /// 0 takes the likeliest token always.
    pub temperature: f32,
}

impl Default for Samples {
    fn default() -> Self {
        Self { prompts: Vec::new(), max_tokens: 64, temperature: 0.0 }
    }
}

/// Checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Saving {
    /// Steps between two; the last step is saved always.
    pub every: u64,
    /// How many of the newest stay.
    pub keep_last: usize,
    /// Whether the one of the lowest validation loss stays too.
    pub keep_best: bool,
}

impl Default for Saving {
    fn default() -> Self {
        Self { every: 500, keep_last: 2, keep_best: true }
    }
}

/// What to do when a step yields nonsense.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trouble {
    /// A loss or gradient that is NaN or infinite.
    pub on_nan: Policy,
    /// A loss far above the usual.
    pub on_spike: SpikePolicy,
    /// What "far" is: this many standard deviations of the last 100 losses above their mean …
    pub spike_deviations: f64,
    /// … and at least this much above it, in nats.
    pub spike_margin: f64,
    /// Steps skipped one after another at most.
    pub max_skips: u64,
}

impl Default for Trouble {
    fn default() -> Self {
        Self {
            on_nan: Policy::Stop,
            on_spike: SpikePolicy::Ignore,
            spike_deviations: 6.0,
            spike_margin: 0.5,
            max_skips: 10,
        }
    }
}

/// Go on without the step, or end the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The run ends with an error; weights stay as they were before the step.
    Stop,
    /// The gradient is thrown away and the next batch taken.
    Skip,
}

/// The same, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpikePolicy {
    /// The step is made.
    Ignore,
    /// As [`Policy::Stop`].
    Stop,
    /// As [`Policy::Skip`].
    Skip,
}

/// Low-rank adapters: `W + alpha / rank · B · A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of A.
    pub rank: usize,
    /// The product is scaled by `alpha / rank`; twice the rank if not given.
    pub alpha: Option<f64>,
    /// Modules by the last part of their names: `q_proj`, `o_proj`, `gate_proj`, …
    pub target_modules: Vec<String>,
}

impl Lora {
    /// What `B · A` is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha() / self.rank as f64
    }

    /// `alpha`, with its default.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }
}

/// A path, or a list of them.
fn one_or_many<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a path, or a list of paths")]
    enum Paths {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(match Paths::deserialize(deserializer)? {
        Paths::One(path) => vec![path],
        Paths::Many(paths) => paths,
    })
}

mod defaults {
    pub(super) fn init_std() -> f64 {
        0.006
    }

    pub(super) fn yes() -> bool {
        true
    }
}

impl RunConfig {
    /// Reads `file`, applies `overrides` (`key.of.table=value`), and checks. Paths in the file are taken to be beside it.
    ///
    /// # Errors
    /// A file that cannot be read or is no TOML, an unknown key, a value of the wrong kind, or one that cannot be:
    /// the error names file, field and mend.
    pub fn read(file: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(file).map_err(Error::io(file, "read"))?;
        let mut config = Self::parse(&text, file, overrides)?;
        config.resolve(file.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// The same of a text; `file` is named in errors. Paths stay as they are.
    ///
    /// # Errors
    /// As [`RunConfig::read`].
    pub fn parse(text: &str, file: &Path, overrides: &[String]) -> Result<Self> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| Error::Syntax {
            file: file.to_owned(),
            reason: overrides::one_line(&error.to_string()),
        })?;
        for given in overrides {
            overrides::apply(&mut table, given)?;
        }
        let config: Self = serde_path_to_error::deserialize(table).map_err(|error| {
            overrides::explain(file, &error.path().to_string(), &error.inner().to_string())
        })?;
        check::check(&config, file)?;
        Ok(config)
    }

    /// Makes relative paths start at `base`.
    fn resolve(&mut self, base: &Path) {
        let at = |path: &mut PathBuf| *path = base.join(&*path);
        self.data.path.iter_mut().for_each(at);
        self.out.iter_mut().for_each(at);
        self.model.paths_mut().for_each(at);
    }

    /// As JSON, for reports and for `state.json`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("strings, numbers and lists are always JSON")
    }
}
