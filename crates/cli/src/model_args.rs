//! Arguments of every command that loads a model, and loading with a progress bar.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use fathom_checkpoint::Plan;
use fathom_checkpoint::gguf::is_gguf;
use fathom_kernels::Compute;
use fathom_kernels::attention::CacheFormat;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{CacheOutcome, CacheUse, Config, LoadOptions, Model, Storage};

use crate::shipped;
use crate::terminal::{LateBar, without_controls};

/// Which model, and how to hold it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Directory of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json), or a .gguf file; "shipped" is
    /// the small model that comes with this program (arithmetic, and classical Chinese poems)
    #[arg(long, value_name = "DIR", default_value = shipped::WORD, value_parser = shipped::model)]
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) storage: StorageArgs,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,

    /// The same bits whatever runs beside: an answer is the one it would be alone, however many others are answered,
    /// however its prompt was cut, and whatever of it was cached. Long prompts take longer (the longer, the more),
    /// and the tile unit (AMX) is not used
    #[arg(long)]
    pub(crate) batch_invariant: bool,

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

    /// How the latents of past tokens are cached [default: f32 with --dtype f32, else bf16]. int8 and
    /// fp8 take about 0.6 of the memory of bf16 and round more;
    /// int8 is also faster behind a long context on processors with VNNI
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) cache_type: Option<CacheType>,
}

/// Formats of the latent cache.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheType {
    F32,
    Bf16,
    Int8,
    Fp8,
}

/// Where weights are kept as they were packed.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct CacheArgs {
    /// The packed cache: weights in the layout the kernels read, written after the first start and mapped at later
    /// ones, which are ready at once. It takes as much disk as the weights take memory, one file for each way to hold
    /// them, and is made again when the checkpoint changes; it may be deleted at any time. auto: in .fathom/ beside
    /// the model, or below $FATHOM_CACHE_DIR or ~/.cache/fathom where that cannot be written, for models of 256 MiB
    /// and more. off: neither read nor written. DIR: in that directory, for any model
    #[arg(long, value_name = "auto|off|DIR", default_value = "auto", value_parser = read_cache_use)]
    pub(crate) packed_cache: CacheUse,
}

fn read_cache_use(text: &str) -> Result<CacheUse, String> {
    match text {
        "" => Err("give auto, off or a directory".to_owned()),
        "auto" => Ok(CacheUse::Auto),
        "off" => Ok(CacheUse::Off),
        directory => Ok(CacheUse::Directory(directory.into())),
    }
}

/// Compute types.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    Auto,
    F32,
    Bf16,
}

impl StorageArgs {
    /// How latents are cached, if it was chosen.
    pub(crate) fn latents(&self) -> Option<CacheFormat> {
        self.cache_type.map(|format| match format {
            CacheType::F32 => CacheFormat::F32,
            CacheType::Bf16 => CacheFormat::Bf16,
            CacheType::Int8 => CacheFormat::Int8,
            CacheType::Fp8 => CacheFormat::Fp8,
        })
    }

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
        let cache = self.cache.packed_cache.clone();
        let batch_invariant = self.batch_invariant;
        let options =
            LoadOptions { mtp, cache, batch_invariant, ..LoadOptions::new(self.storage.storage()?) };
        let mut model = Model::load(&self.model, compute, options, &mut |done, total| bar.set(done, total))?;
        model.set_cache_format(self.storage.latents());
        drop(bar);
        if let Some(line) = cache_line(model.packed_cache()) {
            eprintln!("{}", without_controls(&line));
        }
        Ok(model)
    }
}

/// What is worth knowing about the packed cache: that a large file was written, and why. (A failure was logged.)
fn cache_line(outcome: &CacheOutcome) -> Option<String> {
    let CacheOutcome::Written { path, bytes, instead } = outcome else { return None };
    let (path, size) = (path.display(), *bytes as f64 / 1e9);
    Some(match instead {
        None => format!("wrote the packed cache {path} ({size:.2} GB): the next start maps it"),
        Some(why) => format!("made the packed cache {path} again ({size:.2} GB): {why}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_about_a_cache_that_was_written_and_none_otherwise() {
        let written = |instead: Option<&str>| {
            let (path, instead) = ("m/.fathom/f32.packed".into(), instead.map(str::to_owned));
            cache_line(&CacheOutcome::Written { path, bytes: 1_230_000_000, instead })
        };
        for (outcome, parts) in [
            (written(None), ["wrote", "m/.fathom/f32.packed", "1.23 GB"]),
            (written(Some("it is damaged")), ["again", "1.23 GB", "it is damaged"]),
        ] {
            let line = outcome.expect("a line");
            assert!(parts.iter().all(|part| line.contains(part)) && !line.contains('\n'), "{line}");
        }
        for outcome in [CacheOutcome::Unused, CacheOutcome::Mapped, CacheOutcome::Failed("full".to_owned())] {
            assert_eq!(cache_line(&outcome), None);
        }
    }

    #[test]
    fn words_and_directories() {
        for (text, expected) in [
            ("auto", Ok(CacheUse::Auto)),
            ("off", Ok(CacheUse::Off)),
            ("./off", Ok(CacheUse::Directory("./off".into()))),
            ("", Err("give auto, off or a directory".to_owned())),
        ] {
            assert_eq!(read_cache_use(text), expected, "{text:?}");
        }
    }
}
