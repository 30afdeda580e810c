//! Low-rank adapters (Hu et al., arXiv 2106.09685): `y = x · Wᵀ + scale · (x · Aᵀ) · Bᵀ`, `W` standing still.
//!
//! They stand beside linear maps with a matrix of their own: attention, dense layers, shared experts. Routed experts,
//! which are trained as one stack, have none. Names and files are PEFT's, so that its users can load them.

use std::path::Path;

use fathom_checkpoint::{Checkpoint, Dtype, SafetensorsWriter, TensorPlan};
use fathom_tensor::{Context, Parameter, Tape, Var};

use super::DifferentiableModel;
use super::parameters::normal;
use crate::{Error, Result};

/// The file of an adapter's weights, as PEFT names it.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT puts before the names of tensors.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// Which linear maps get adapters, and of what size.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterOptions {
    /// Rows of `A [rank, in]`, columns of `B [out, rank]`.
    pub rank: usize,
    /// What `B · A` is multiplied by: `lora_alpha / r`.
    pub scale: f32,
    /// Modules by the last part of their names: `q_proj`, `kv_b_proj`, `gate_proj`, …
    pub target_modules: Vec<String>,
    /// Decides the values of `A`; `B` begins as zeroes.
    pub seed: u64,
}

/// The two matrices beside one linear map.
#[derive(Clone, Debug)]
pub(super) struct Adapter {
    a: Parameter,
    b: Parameter,
    scale: f32,
}

/// The module that a weight belongs to: `q_proj` of `model.layers.0.self_attn.q_proj.weight`.
pub(super) fn module_of(weight: &str) -> &str {
    let module = weight.strip_suffix(".weight").unwrap_or(weight);
    module.rsplit('.').next().unwrap_or(module)
}

impl Adapter {
    /// Beside `weight [out, in]`. `A` has the variance of PEFT's initialisation, `1 / (3 · in)`.
    pub(super) fn new(context: &Context, weight: &Parameter, options: &AdapterOptions) -> Self {
        let module = weight.name().strip_suffix(".weight").unwrap_or(weight.name());
        let [out, inner] = weight.shape()[..] else { unreachable!("linear maps have matrices") };
        let (a_name, b_name) = (format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight"));
        let std = (1.0 / (3.0 * inner as f32)).sqrt();
        let a = context.build([options.rank, inner], |values| normal(&a_name, options.seed, std, values));
        let b = context.zeros([out, options.rank]);
        Self { a: Parameter::new(a_name, a), b: Parameter::new(b_name, b), scale: options.scale }
    }

    pub(super) fn parameters(&self) -> [Parameter; 2] {
        [self.a.clone(), self.b.clone()]
    }

    /// What is added to the linear map's result.
    pub(super) fn forward(&self, tape: &Tape, x: &Var) -> Var {
        x.linear(&tape.parameter(&self.a)).linear(&tape.parameter(&self.b)).scale(self.scale)
    }
}

impl DifferentiableModel {
    /// The parameters of the adapters, `lora_A` and `lora_B` in turn; none in a model without.
    pub fn adapters(&self) -> &[Parameter] {
        self.store.adapters()
    }

    /// Everything that gradients flow into: the adapters where there are any, all parameters otherwise.
    pub fn trainable(&self) -> &[Parameter] {
        if self.adapters().is_empty() { self.parameters() } else { self.adapters() }
    }

    /// Writes the adapters as F32 to `adapter_model.safetensors` in `directory`. `adapter_config.json` is the caller's.
    ///
    /// # Errors
    /// No space, or I/O.
    pub fn save_adapters(&self, directory: &Path) -> Result<()> {
        let name = |parameter: &Parameter| format!("{PEFT_PREFIX}{}", parameter.name());
        let planned = |parameter: &Parameter| TensorPlan::new(name(parameter), Dtype::F32, parameter.shape());
        let plan = self.adapters().iter().map(planned).collect();
        let mut writer = SafetensorsWriter::create(&directory.join(ADAPTER_WEIGHTS), plan)?;
        for parameter in self.adapters() {
            writer.begin(&name(parameter))?;
            writer.write_f32(parameter.value().values())?;
        }
        Ok(writer.finish()?)
    }

    /// Reads what [`DifferentiableModel::save_adapters`] wrote of adapters of the same size beside the same modules.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of other adapters.
    pub fn load_adapters(&self, directory: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(&directory.join(ADAPTER_WEIGHTS))?;
        for parameter in self.adapters() {
            let [rows, cols] = parameter.shape()[..] else { unreachable!("adapters are matrices") };
            let matrix = checkpoint.matrix(&format!("{PEFT_PREFIX}{}", parameter.name()), [rows, cols])?;
            parameter.update(|values, _| matrix.rows_f32(0..rows, values))?;
        }
        Ok(())
    }
}

/// Says which of `options.target_modules` no linear map has, given the `modules` there are.
pub(super) fn check_targets(options: &AdapterOptions, modules: &[String]) -> Result<()> {
    match options.target_modules.iter().find(|target| !modules.contains(target)) {
        Some(target) => {
            let mut known = modules.to_vec();
            known.sort();
            known.dedup();
            Err(Error::NoSuchModule { module: target.clone(), known })
        }
        None => Ok(()),
    }
}
