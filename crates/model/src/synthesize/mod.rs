//! Random checkpoints of any configuration, in released naming and dtype: what benchmarks and
//! tests run on where nobody has the weights.
//!
//! The tensors are those of [`manifest::tensors`]; `values.rs` says what is in them. They are made
//! on all threads, some thousand rows at a time, and stream to the disk: memory does not grow with
//! the model. The same seed gives the same bytes, whatever the number of threads.

pub(crate) mod beside;
mod stream;
#[cfg(test)]
mod tests;
mod values;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fathom_checkpoint::{Dtype, ShardedWriter, TensorPlan, WriteOptions, names};
use serde_json::{Value, json};

use crate::manifest::{self, Part, Storage, TensorSpec};
use crate::{Config, Error, Result};
use beside::{Beside, NewDirectory};
use values::{Kind, Values};

/// What to write besides the configuration.
#[derive(Clone, Debug)]
pub struct SynthesizeOptions {
    /// Decides every value.
    pub seed: u64,
    /// Bytes of tensors after which a new shard begins.
    pub max_shard_bytes: u64,
    /// Whether a model already in the directory may be replaced.
    pub overwrite: bool,
    /// Threads to make values on; the result does not depend on it.
    pub threads: usize,
    /// Files to put beside the weights, such as a tokenizer: name and contents.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Default for SynthesizeOptions {
    /// Seed 0, shards of 5 GB, nothing overwritten, one thread.
    fn default() -> Self {
        let WriteOptions { max_shard_bytes, overwrite } = WriteOptions::default();
        Self { seed: 0, max_shard_bytes, overwrite, threads: 1, files: Vec::new() }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Weights, index, `config.json` and the other files, in that order.
    pub files: Vec<PathBuf>,
    /// Tensors, block scales included.
    pub tensors: usize,
    /// Elements of weights; block scales do not count.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// Told of bytes written so far and in all; `Break` stops the writing, and nothing stays.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// The text of a `config.json` with `num_hidden_layers` set to `layers`; all other fields stay,
/// `first_k_dense_replace` and the MTP layers too. `file` is named in errors.
///
/// # Errors
/// If the text is no valid configuration or has fewer than `layers` layers, or `layers` is 0.
pub fn with_layers(config_json: &str, file: &Path, layers: usize) -> Result<String> {
    let config = Config::parse(config_json, file)?;
    let all = config.num_hidden_layers;
    if layers == 0 || layers > all {
        return Err(Error::BadField {
            file: file.to_owned(),
            field: "num_hidden_layers",
            expected: format!("from 1 to {all}, the layers of this configuration"),
            got: layers.to_string(),
        });
    }
    let mut value = json_value(config_json, file)?;
    value["num_hidden_layers"] = layers.into();
    Ok(format!("{value:#}\n"))
}

/// Writes a random checkpoint of `config_json` (kept to the letter) to `dir`; `file` is the
/// configuration's name in errors. `None` if `progress` asked to stop.
///
/// # Errors
/// If the configuration is invalid, the directory holds a model already, or it cannot be written
/// (no space included); nothing stays then.
pub fn synthesize(
    config_json: &str,
    file: &Path,
    options: &SynthesizeOptions,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<Option<Report>> {
    let config = Config::parse(config_json, file)?;
    let values = plan(&config, main_dtype(config_json, file)?, options.seed);
    let tensors: Vec<TensorPlan> = values.iter().flat_map(Values::plans).collect();
    let bytes_of = |plan: &TensorPlan| plan.byte_len().unwrap_or(u64::MAX);
    let total = tensors.iter().map(bytes_of).fold(0, u64::saturating_add);
    let mut report = Report {
        files: Vec::new(),
        tensors: tensors.len(),
        parameters: values.iter().map(Values::elements).sum(),
        bytes: total,
    };

    let mut beside = vec![
        ("config.json".to_owned(), config_json.as_bytes().to_vec()),
        ("generation_config.json".to_owned(), generation_config(&config).into_bytes()),
    ];
    beside.extend(options.files.iter().cloned());
    if !options.overwrite {
        beside::refuse_existing(dir, &beside)?;
    }
    // Dropped last: removes the directory if it was made here and is left empty.
    let mut directory = NewDirectory::unless_there(dir);
    let limits = WriteOptions { max_shard_bytes: options.max_shard_bytes, overwrite: options.overwrite };
    let mut writer = ShardedWriter::create(dir, tensors, &limits)?;
    let beside = Beside::write(dir, &beside)?;
    let mut done = 0;
    let mut advance = |bytes: usize| {
        done += bytes as u64;
        progress(done, total)
    };
    if stream::write(&values, options.threads, &mut writer, &mut advance)?.is_break() {
        return Ok(None);
    }
    report.files = writer.finish()?;
    report.files.extend(beside.publish()?);
    directory.keep();
    Ok(Some(report))
}

/// All tensors to write, in the order of the data flow.
fn plan(config: &Config, main: Dtype, seed: u64) -> Vec<Values> {
    let tied = config.tie_word_embeddings;
    let kinds = values::Kinds::new(config);
    let value = |spec: TensorSpec| {
        let dtype = match (spec.storage, config.weight_block_size) {
            (Storage::Float32, _) => Dtype::F32,
            (Storage::Projection, Some(_)) => Dtype::F8E4M3,
            (Storage::Plain, Some(_)) => Dtype::BF16,
            (_, None) => main,
        };
        let block = config.weight_block_size.filter(|_| dtype == Dtype::F8E4M3);
        let kind = kinds.of(&spec);
        // A copy draws the numbers of its original.
        let drawn_as = match kind {
            Kind::Embedding => names::EMBED_TOKENS,
            Kind::Head if tied => names::EMBED_TOKENS,
            Kind::Head => names::LM_HEAD,
            _ => &spec.name,
        };
        let drawn_as = values::stream_of(drawn_as);
        let kind = if tied && kind == Kind::Embedding { Kind::Head } else { kind };
        Values { kind, dtype, block, power_of_two: config.power_of_two_scales, seed, stream: drawn_as, spec }
    };
    // A tied head is not stored.
    let stored = |spec: &TensorSpec| !(tied && spec.part == Part::Head);
    manifest::tensors(config).into_iter().filter(stored).map(value).collect()
}

/// `torch_dtype`, or transformers 5's `dtype`; bf16 where the file does not say, as all releases.
fn main_dtype(config_json: &str, file: &Path) -> Result<Dtype> {
    let value = json_value(config_json, file)?;
    for field in ["torch_dtype", "dtype"] {
        match &value[field] {
            Value::Null => {}
            Value::String(name) if name == "bfloat16" => return Ok(Dtype::BF16),
            Value::String(name) if name == "float16" => return Ok(Dtype::F16),
            Value::String(name) if name == "float32" => return Ok(Dtype::F32),
            other => {
                let expected = "bfloat16, float16 or float32".to_owned();
                let (file, got) = (file.to_owned(), other.to_string());
                return Err(Error::BadField { file, field, expected, got });
            }
        }
    }
    Ok(Dtype::BF16)
}

fn generation_config(config: &Config) -> String {
    let eos = match config.eos_token_id.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    };
    let mut value =
        json!({ "_from_model_config": true, "do_sample": true, "temperature": 0.6, "top_p": 0.95 });
    for (field, id) in [("bos_token_id", json!(config.bos_token_id)), ("eos_token_id", eos)] {
        if !id.is_null() {
            value[field] = id;
        }
    }
    format!("{value:#}\n")
}

fn json_value(config_json: &str, file: &Path) -> Result<Value> {
    serde_json::from_str(config_json)
        .map_err(|error| Error::ConfigSyntax { file: file.to_owned(), reason: error.to_string() })
}
