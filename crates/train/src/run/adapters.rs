//! Adapters on the disk as PEFT has them, and merged into the weights they stand beside.

use std::fs;
use std::path::{Path, PathBuf};

use fathom_checkpoint::{Checkpoint, Dtype, ShardedWriter, TensorPlan, WriteOptions};
use fathom_kernels::Compute;
use fathom_kernels::matmul::{MatmulPrecision, Operand, Product, View, matmul};
use fathom_model::differentiable::{ADAPTER_WEIGHTS, PEFT_PREFIX};
use serde::{Deserialize, Serialize};

use crate::config::Lora;
use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";

/// `adapter_config.json`, as far as it decides numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// `LORA`.
    pub peft_type: String,
    /// `CAUSAL_LM`.
    #[serde(default)]
    pub task_type: Option<String>,
    /// The model that the adapters stand beside.
    pub base_model_name_or_path: Option<String>,
    /// Rows of `A`.
    pub r: usize,
    /// The product `B · A` is multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Always 0 here.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Whether biases were trained: `none` here.
    #[serde(default = "none")]
    pub bias: String,
    /// Modules by the last part of their names.
    pub target_modules: Vec<String>,
    /// `lora_alpha / √r` instead of `lora_alpha / r`.
    #[serde(default)]
    pub use_rslora: bool,
    /// Directions and lengths apart (DoRA), which is not merged here.
    #[serde(default)]
    pub use_dora: bool,
    /// Whether `A` and `B` are stored transposed.
    #[serde(default)]
    pub fan_in_fan_out: bool,
}

fn none() -> String {
    "none".to_owned()
}

impl AdapterConfig {
    pub(super) fn new(lora: &Lora, base: &Path) -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: Some(base.display().to_string()),
            r: lora.rank,
            lora_alpha: lora.alpha(),
            lora_dropout: 0.0,
            bias: none(),
            target_modules: lora.target_modules.clone(),
            use_rslora: false,
            use_dora: false,
            fan_in_fan_out: false,
        }
    }

    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(CONFIG);
        let text = serde_json::to_string_pretty(self).expect("strings and numbers are always JSON");
        fs::write(&path, text + "\n").map_err(Error::io(&path, "write"))
    }

    /// Reads and checks the configuration in `directory`.
    ///
    /// # Errors
    /// None there, or one of adapters that are no plain LoRA.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(CONFIG);
        let text = fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let config: Self = serde_json::from_str(&text)
            .map_err(|error| Error::Adapter { path: path.clone(), reason: error.to_string() })?;
        let refused = [
            (config.peft_type != "LORA", format!("peft_type is {:?}, expected \"LORA\"", config.peft_type)),
            (config.use_dora, "use_dora is true, and DoRA is not merged here".to_owned()),
            (
                config.bias != "none",
                format!("bias is {:?}, and trained biases are not merged here", config.bias),
            ),
            (config.fan_in_fan_out, "fan_in_fan_out is true, expected false".to_owned()),
            (config.r == 0, "r is 0".to_owned()),
        ];
        match refused.into_iter().find(|(refused, _)| *refused) {
            Some((_, reason)) => Err(Error::Adapter { path, reason }),
            None => Ok(config),
        }
    }

    fn scale(&self) -> f32 {
        let rank = self.r as f64;
        (self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }
}

/// Writes the model in `base` with the adapters in `adapter` added to its weights to `out`: `W + scale · B · A` in f32,
/// stored as the weight was (16-bit formats) or as F32. Every other tensor and file is copied. Returns how many weights
/// were changed.
///
/// # Errors
/// Adapters of another model, a quantized base, an `out` that holds a model already, no space, I/O. Nothing is left behind.
pub fn merge(
    base: &Path,
    adapter: &Path,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<usize> {
    let config = AdapterConfig::read(adapter)?;
    let weights = Checkpoint::open(base)?;
    let adapters = Checkpoint::open(&adapter.join(ADAPTER_WEIGHTS))?;
    let pairs = pairs(&adapters, &adapter.join(ADAPTER_WEIGHTS), &weights, config.r)?;
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let mut plan = Vec::with_capacity(names.len());
    for name in &names {
        let tensor = weights.tensor(name)?;
        plan.push(TensorPlan::new(name, tensor.dtype, tensor.shape.to_vec()));
    }
    let compute = Compute::new(0)?;
    let mut writer = ShardedWriter::create(out, plan, &WriteOptions::default())?;
    for (done, name) in names.iter().enumerate() {
        progress(done, names.len());
        let tensor = weights.tensor(name)?;
        writer.begin(name)?;
        if !pairs.contains(name) {
            writer.write(tensor.bytes)?;
            continue;
        }
        let mut values = tensor.to_f32()?;
        add(&compute, &adapters, name, config.scale(), &mut values)?;
        writer.write_f32(&values)?;
    }
    writer.finish()?;
    copy_files(base, out)?;
    Ok(pairs.len())
}

/// The weights that have adapters, each checked.
fn pairs(adapters: &Checkpoint, file: &Path, weights: &Checkpoint, rank: usize) -> Result<Vec<String>> {
    let bad = |reason: String| Error::Adapter { path: file.to_owned(), reason };
    let mut pairs = Vec::new();
    for name in adapters.names() {
        let module = name.strip_prefix(PEFT_PREFIX).and_then(|name| {
            name.strip_suffix(".lora_A.weight").or_else(|| name.strip_suffix(".lora_B.weight"))
        });
        let module = module.ok_or_else(|| bad(format!("{name} is no lora_A or lora_B of a linear map")))?;
        let weight = format!("{module}.weight");
        let tensor = weights
            .tensor(&weight)
            .map_err(|_| bad(format!("{name} stands beside {weight}, which the model does not have")))?;
        if ![Dtype::F32, Dtype::BF16, Dtype::F16].contains(&tensor.dtype) {
            let dtype = tensor.dtype;
            return Err(bad(format!(
                "{weight} is stored as {dtype:?}: merge into the model before it is quantized"
            )));
        }
        let [out, inner] = tensor.shape[..] else { return Err(bad(format!("{weight} is no matrix"))) };
        let expected = if name.ends_with("lora_A.weight") { [rank, inner] } else { [out, rank] };
        let got = adapters.tensor(name)?.shape.to_vec();
        if got != expected {
            return Err(bad(format!("{name} has the shape {got:?}, expected {expected:?}")));
        }
        if name.ends_with("lora_A.weight") {
            pairs.push(weight);
        }
    }
    for weight in &pairs {
        let module = weight.trim_end_matches(".weight");
        adapters
            .tensor(&format!("{PEFT_PREFIX}{module}.lora_B.weight"))
            .map_err(|_| bad(format!("{module} has a lora_A and no lora_B")))?;
    }
    if pairs.is_empty() { Err(bad("it holds no adapters".to_owned())) } else { Ok(pairs) }
}

/// `values += scale · B · A`.
fn add(compute: &Compute, adapters: &Checkpoint, weight: &str, scale: f32, values: &mut [f32]) -> Result<()> {
    let module = weight.trim_end_matches(".weight");
    let read = |part: &str| -> Result<(Vec<f32>, Vec<usize>)> {
        let tensor = adapters.tensor(&format!("{PEFT_PREFIX}{module}.{part}.weight"))?;
        Ok((tensor.to_f32()?, tensor.shape.to_vec()))
    };
    let ((a, a_shape), (b, b_shape)) = (read("lora_A")?, read("lora_B")?);
    let product = Product {
        a: View::dense(&b, b_shape[0], b_shape[1]),
        b: Operand::View(View::dense(&a, a_shape[0], a_shape[1])),
        c: values,
        c_stride: a_shape[1],
        alpha: scale,
        accumulate: true,
    };
    matmul(compute, MatmulPrecision::F32, &mut [product]);
    Ok(())
}

/// Configuration, tokenizer and whatever else stands beside the weights.
fn copy_files(base: &Path, out: &Path) -> Result<()> {
    for entry in fs::read_dir(base).map_err(Error::io(base, "read"))? {
        let path: PathBuf = entry.map_err(Error::io(base, "read"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wanted =
            path.is_file() && [".json", ".jinja", ".model", ".txt"].iter().any(|end| name.ends_with(end));
        if wanted && !name.ends_with(".index.json") && name != "state.json" && name != CONFIG {
            let to = out.join(&name);
            fs::copy(&path, &to).map_err(Error::io(&to, "write"))?;
        }
    }
    Ok(())
}
