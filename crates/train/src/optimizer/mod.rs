//! How weights move: AdamW and Muon on parameters of `tensor`, in one pass over memory each.
//!
//! An [`Optimizer`] holds what it remembers of every parameter, in the order in which the parameters were given, and
//! takes one [`Optimizer::step`] with the gradients that they hold. Gradients are scaled (mean over micro-batches,
//! clipping) on the fly and never written.

mod average;
mod memory;
mod muon;
mod norm;
mod role;
mod saved;
#[cfg(test)]
mod tests;

pub use average::Average;
pub use norm::{GradientNorm, gradient_norm};
pub use role::Role;

use fathom_kernels::optimizer::{AdamW, adamw_update};
use fathom_tensor::{Context, Parameter};

use crate::config::{self, Moments};
use memory::Memory;

/// What a step is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub learning_rate: f64,
    /// What gradients are multiplied by first.
    pub gradient_scale: f32,
}

/// Moments of all parameters, and how they are used.
#[derive(Debug)]
pub struct Optimizer {
    config: config::Optimizer,
    states: Vec<State>,
    /// Steps made.
    steps: u64,
}

/// What is remembered of one parameter.
#[derive(Debug)]
struct State {
    name: String,
    shape: Vec<usize>,
    rule: Rule,
    memory: Memory,
}

/// By which formula a parameter moves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    AdamW { weight_decay: f64 },
    Muon { weight_decay: f64 },
}

impl Optimizer {
    /// An optimizer of `parameters` that has made no step. Those that stand still are left out.
    pub fn new(config: &config::Optimizer, parameters: &[Parameter]) -> Self {
        let trainable = parameters.iter().filter(|parameter| parameter.is_trainable());
        let states = trainable.map(|parameter| State::new(config, parameter)).collect();
        Self { config: config.clone(), states, steps: 0 }
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Bytes of all moments.
    pub fn bytes(&self) -> usize {
        self.states.iter().map(|state| state.memory.bytes()).sum()
    }

    /// Moves every parameter that has a gradient.
    ///
    /// # Panics
    /// If `parameters` are not those of [`Optimizer::new`], or a tape holds one of them.
    pub fn step(&mut self, context: &Context, parameters: &[Parameter], step: Step) {
        self.steps += 1;
        let trainable = parameters.iter().filter(|parameter| parameter.is_trainable());
        for (state, parameter) in self.states.iter_mut().zip(trainable) {
            assert_eq!(state.name, parameter.name(), "parameters come in the order of `new`");
            if parameter.gradient().is_none() {
                continue;
            }
            match (state.rule, &self.config) {
                (Rule::Muon { weight_decay }, config::Optimizer::Muon(muon)) => {
                    muon::update(context, muon, state, parameter, weight_decay, step);
                }
                (Rule::AdamW { weight_decay } | Rule::Muon { weight_decay }, config) => {
                    let adamw = config.adamw();
                    let factors = AdamW {
                        lr: step.learning_rate,
                        betas: adamw.betas,
                        eps: adamw.eps,
                        weight_decay,
                        bias_corrections: AdamW::bias_corrections(adamw.betas, self.steps),
                        gradient_scale: step.gradient_scale,
                    };
                    parameter.update(|values, gradient| {
                        adamw_update(context.compute(), &factors, values, gradient, state.memory.pair());
                    });
                }
            }
        }
    }
}

impl State {
    fn new(config: &config::Optimizer, parameter: &Parameter) -> Self {
        let (name, shape) = (parameter.name().to_owned(), parameter.shape());
        let role = Role::of(&name, &shape);
        let elements = shape.iter().product();
        let adamw = config.adamw();
        match config {
            config::Optimizer::Muon(muon) if role == Role::Matrix => {
                let memory = Memory::zeroed(muon.moments, 1, elements);
                Self { name, shape, rule: Rule::Muon { weight_decay: muon.weight_decay }, memory }
            }
            _ => {
                let weight_decay =
                    if role.is_spared(&adamw.without_decay) { 0.0 } else { adamw.weight_decay };
                let memory = Memory::zeroed(adamw.moments, 2, elements);
                Self { name, shape, rule: Rule::AdamW { weight_decay }, memory }
            }
        }
    }
}

/// Bytes that an optimizer of these parameters (name and shape) will hold.
pub fn planned_bytes<'a>(
    config: &config::Optimizer,
    parameters: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> u64 {
    let bytes = |moments| if moments == Moments::Bf16 { 2 } else { 4 };
    parameters
        .map(|(name, shape)| {
            let elements = shape.iter().product::<usize>() as u64;
            match config {
                config::Optimizer::Muon(muon) if Role::of(name, shape) == Role::Matrix => {
                    elements * bytes(muon.moments)
                }
                _ => elements * 2 * bytes(config.adamw().moments),
            }
        })
        .sum()
}
