//! Arguments of every command that loads a model, and loading with a progress bar.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{Config, LoadOptions, Model};

use crate::terminal::LateBar;

/// Which model, and how to hold it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Directory of a Hugging Face checkpoint: config.json, *.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,

    /// How weights are held in memory: f32 computes exactly what the references compute, bf16
    /// halves the memory and rounds activations to bf16 before each product
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub(crate) dtype: Dtype,

    /// Threads to compute with; 0 means one per processor. Results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
}

/// Compute types.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    Bf16,
}

impl Dtype {
    pub(crate) fn format(self) -> WeightFormat {
        match self {
            Dtype::F32 => WeightFormat::F32,
            Dtype::Bf16 => WeightFormat::Bf16,
        }
    }
}

/// A model is a directory: a file of weights alone does not say what to compute.
pub(crate) fn require_directory(model: &Path) -> Result<()> {
    if model.is_file() {
        bail!(
            "--model {} is a file; give the directory that it is in, with config.json beside the weights",
            model.display()
        );
    }
    Ok(())
}

/// The model's `config.json`.
pub(crate) fn read_config(model: &Path) -> Result<Config> {
    require_directory(model)?;
    Ok(Config::read(model)?)
}

impl ModelArgs {
    /// Loads the model, showing progress on stderr if it takes a while.
    pub(crate) fn load(&self, mtp: bool) -> Result<Model> {
        let compute = Compute::new(self.threads)?;
        let mut bar = LateBar::of_bytes("loading");
        let options = LoadOptions { format: self.dtype.format(), mtp };
        let model = Model::load(&self.model, compute, options, &mut |done, total| bar.set(done, total));
        Ok(model?)
    }
}
