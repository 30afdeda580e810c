//! Parameters by name: where their values come from, and how they look in a checkpoint.

use std::collections::HashMap;

use fathom_checkpoint::{Checkpoint, names};
use fathom_tensor::{Context, Parameter, Tape, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::adapters::{self, Adapter, AdapterOptions};
use crate::manifest;
use crate::{Config, Result};

/// Where values come from.
pub(super) enum Origin<'a> {
    Random { init_std: f32, seed: u64 },
    Checkpoint(&'a Checkpoint),
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The buffer that holds it.
    tensor: Tensor,
    /// Where in the buffer it begins.
    start: usize,
}

impl Named {
    /// Its numbers, row-major.
    pub fn values(&self) -> &[f32] {
        &self.tensor.values()[self.start..][..self.shape.iter().product()]
    }
}

/// The parameters of a model, in the order they were asked for.
#[derive(Debug)]
pub(super) struct Store {
    context: Context,
    shapes: HashMap<String, Vec<usize>>,
    parameters: Vec<Parameter>,
    /// Tensors that no gradient moves: V3's biases.
    buffers: Vec<Parameter>,
    /// The tensors that a stacked parameter stands for.
    members: HashMap<String, Vec<String>>,
    /// What adapters are asked for, those that there are, and the modules of all linear maps.
    adapter_options: Option<AdapterOptions>,
    adapters: Vec<Parameter>,
    modules: Vec<String>,
}

impl Store {
    pub(super) fn new(context: Context, config: &Config, adapter_options: Option<AdapterOptions>) -> Self {
        let shapes = manifest::tensors(config).into_iter().map(|spec| (spec.name, spec.shape)).collect();
        Self {
            context,
            shapes,
            parameters: Vec::new(),
            buffers: Vec::new(),
            members: HashMap::new(),
            adapter_options,
            adapters: Vec::new(),
            modules: Vec::new(),
        }
    }

    /// To be called when everything has been asked for: with adapters, all else stands still.
    pub(super) fn finish(&self) -> Result<()> {
        let Some(options) = &self.adapter_options else { return Ok(()) };
        self.parameters.iter().for_each(|parameter| parameter.set_trainable(false));
        adapters::check_targets(options, &self.modules)
    }

    pub(super) fn adapters(&self) -> &[Parameter] {
        &self.adapters
    }

    pub(super) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The tensor `name`, to be trained.
    pub(super) fn parameter(&mut self, origin: &Origin<'_>, name: &str) -> Result<Parameter> {
        let shape = self.shapes[name].clone();
        let parameter = Parameter::new(name, self.value(origin, &shape, &[name.to_owned()])?);
        self.parameters.push(parameter.clone());
        Ok(parameter)
    }

    /// The tensor `name`, which has no gradient.
    pub(super) fn buffer(&mut self, origin: &Origin<'_>, name: &str) -> Result<Parameter> {
        let shape = self.shapes[name].clone();
        let parameter = Parameter::new(name, self.value(origin, &shape, &[name.to_owned()])?);
        parameter.set_trainable(false);
        self.buffers.push(parameter.clone());
        Ok(parameter)
    }

    /// Matrices of one shape as one parameter `[members, rows, cols]`.
    pub(super) fn stacked(
        &mut self,
        origin: &Origin<'_>,
        name: &str,
        members: Vec<String>,
    ) -> Result<Parameter> {
        let mut shape = vec![members.len()];
        shape.extend(&self.shapes[&members[0]]);
        let parameter = Parameter::new(name, self.value(origin, &shape, &members)?);
        self.parameters.push(parameter.clone());
        self.members.insert(name.to_owned(), members);
        Ok(parameter)
    }

    /// A linear map, with its bias where there is one.
    pub(super) fn linear(&mut self, origin: &Origin<'_>, name: &str, bias: bool) -> Result<Linear> {
        let weight = self.parameter(origin, name)?;
        let bias = bias.then(|| self.parameter(origin, &names::bias_name(name))).transpose()?;
        let module = adapters::module_of(name).to_owned();
        let adapter = match &self.adapter_options {
            Some(options) if options.target_modules.contains(&module) => {
                let adapter = Adapter::new(&self.context, &weight, options);
                self.adapters.extend(adapter.parameters());
                Some(adapter)
            }
            _ => None,
        };
        self.modules.push(module);
        Ok(Linear { weight, bias, adapter })
    }

    /// The values of some tensors one after the other.
    fn value(&self, origin: &Origin<'_>, shape: &[usize], members: &[String]) -> Result<Tensor> {
        let mut outcome = Ok(());
        let tensor = self.context.build(shape, |values| {
            let each = values.len() / members.len().max(1);
            for (member, values) in members.iter().zip(values.chunks_exact_mut(each.max(1))) {
                if outcome.is_ok() {
                    outcome = self.fill(origin, member, values);
                }
            }
        });
        outcome.map(|()| tensor)
    }

    fn fill(&self, origin: &Origin<'_>, name: &str, values: &mut [f32]) -> Result<()> {
        match (origin, &self.shapes[name][..]) {
            (Origin::Checkpoint(checkpoint), &[rows, cols]) => {
                let matrix = checkpoint.matrix(name, [rows, cols])?;
                matrix.rows_f32(0..rows, values)?;
                matrix.release();
            }
            (Origin::Checkpoint(checkpoint), _) => {
                values.copy_from_slice(&checkpoint.vector(name, values.len())?);
            }
            (Origin::Random { init_std, seed }, [_, _]) => normal(name, *seed, *init_std, values),
            (Origin::Random { .. }, _) => values.fill(if name.ends_with(".weight") { 1.0 } else { 0.0 }),
        }
        Ok(())
    }

    /// What `part` picks of every parameter and buffer, under checkpoint names.
    pub(super) fn named(&self, part: impl Fn(&Parameter) -> Option<Tensor>) -> Vec<Named> {
        let mut all = Vec::new();
        for parameter in self.parameters.iter().chain(&self.buffers) {
            let Some(tensor) = part(parameter) else { continue };
            match self.members.get(parameter.name()) {
                None => {
                    let shape = tensor.shape().to_vec();
                    all.push(Named { name: parameter.name().to_owned(), shape, tensor, start: 0 });
                }
                Some(members) => {
                    let shape = tensor.shape()[1..].to_vec();
                    let each: usize = shape.iter().product();
                    all.extend(members.iter().enumerate().map(|(index, name)| Named {
                        name: name.clone(),
                        shape: shape.clone(),
                        tensor: tensor.clone(),
                        start: index * each,
                    }));
                }
            }
        }
        all
    }
}

/// Normal numbers of a stream of the tensor's own (Box and Muller), so that a value depends on seed, name and place.
pub(super) fn normal(name: &str, seed: u64, std: f32, values: &mut [f32]) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }));
    for pair in values.chunks_mut(2) {
        // From (0, 1]: its logarithm is finite.
        let [radius, angle] = [(); 2].map(|()| (f64::from(random.next_u32()) + 1.0) / 4_294_967_296.0);
        let radius = f64::from(std) * (-2.0 * radius.ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * angle).sin_cos();
        pair.iter_mut().zip([radius * cos, radius * sin]).for_each(|(value, normal)| *value = normal as f32);
    }
}

/// A linear map.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
    adapter: Option<Adapter>,
}

impl Linear {
    pub(super) fn forward(&self, tape: &Tape, x: &Var) -> Var {
        let mut y = x.linear(&tape.parameter(&self.weight));
        if let Some(bias) = &self.bias {
            y = y.add(&tape.parameter(bias));
        }
        match &self.adapter {
            Some(adapter) => y.add(&adapter.forward(tape, x)),
            None => y,
        }
    }
}
