//! Arguments of every command that loads a model, and loading with a progress bar.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use fathom_checkpoint::Plan;
use fathom_checkpoint::gguf::is_gguf;
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{Config, LoadOptions, Model, Storage};

use crate::terminal::LateBar;

/// Which model, and how to hold it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Directory of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json), or a .gguf file
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) storage: StorageArgs,

    /// Threads to compute with; 0 means one per processor. Results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
}

/// How to hold the weights.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct StorageArgs {
    /// How weights are held in memory. auto: as they are stored (FP8 and GGUF blocks stay as they are,
    /// f32 becomes bf16). f32 computes exactly what the references compute; bf16 halves the memory
    /// and rounds activations to bf16 before each product
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub(crate) dtype: Dtype,

    /// Quantize while loading: int8, int4, int4-mixed (routed experts in 4 bits, the rest in 8), one
    /// block format for every matrix (int8-g32, int4-g128, fp8, q4_k, q6_k, iq4_nl, ...), or a JSON file
    /// with a list of {"tensors": "<name, * for any characters>", "format": "..."}
    #[arg(long, value_name = "PLAN", conflicts_with = "dtype")]
    pub(crate) quant: Option<String>,
}

/// Compute types.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    Auto,
    F32,
    Bf16,
}

impl StorageArgs {
    /// What the model is told.
    pub(crate) fn storage(&self) -> Result<Storage> {
        match &self.quant {
            Some(plan) => Ok(Storage::quantized(read_plan(plan)?)),
            None => Ok(match self.dtype {
                Dtype::Auto => Storage::as_stored(),
                Dtype::F32 => WeightFormat::F32.into(),
                Dtype::Bf16 => WeightFormat::Bf16.into(),
            }),
        }
    }
}

/// A plan by name, or from a file of rules.
pub(crate) fn read_plan(plan: &str) -> Result<Plan> {
    if let Some(plan) = Storage::preset(plan) {
        return Ok(plan);
    }
    let file = Path::new(plan);
    if !file.is_file() {
        let known: Vec<&str> = Storage::presets().collect();
        bail!("{plan:?} is neither a file of rules nor one of {}", known.join(", "));
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("{plan}: cannot be read"))?;
    let rules = serde_json::from_str(&text).with_context(|| format!("{plan}: is no JSON"))?;
    Plan::from_json(&rules).with_context(|| format!("{plan}: is no plan"))
}

/// A model is a directory or a GGUF file: other files of weights do not say what to compute.
pub(crate) fn require_model(model: &Path) -> Result<()> {
    if model.is_file() && !is_gguf(model) {
        bail!(
            "--model {} is a file; give the directory that it is in, with config.json beside the weights, or a \
             .gguf file",
            model.display()
        );
    }
    Ok(())
}

/// The model's configuration.
pub(crate) fn read_config(model: &Path) -> Result<Config> {
    require_model(model)?;
    Ok(Config::read(model)?)
}

impl ModelArgs {
    /// Loads the model, showing progress on stderr if it takes a while.
    pub(crate) fn load(&self, mtp: bool) -> Result<Model> {
        let compute = Compute::new(self.threads)?;
        let mut bar = LateBar::of_bytes("loading");
        let options = LoadOptions { storage: self.storage.storage()?, mtp };
        let model = Model::load(&self.model, compute, options, &mut |done, total| bar.set(done, total));
        Ok(model?)
    }
}
