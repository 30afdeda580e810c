//! An exponential moving average of the weights.

use fathom_kernels::Compute;
use fathom_kernels::optimizer::ema_update;
use fathom_tensor::Parameter;

/// `average ← decay · average + (1 - decay) · weights` after every step.
#[derive(Debug)]
pub struct Average {
    decay: f64,
    pub(super) values: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Average {
    /// Begins as the weights are.
    pub fn new(decay: f64, parameters: &[Parameter]) -> Self {
        let copy = |parameter: &Parameter| {
            (parameter.name().to_owned(), parameter.shape(), parameter.value().values().to_vec())
        };
        Self { decay, values: parameters.iter().map(copy).collect() }
    }

    /// Takes in the weights as they are now.
    pub fn update(&mut self, compute: &Compute, parameters: &[Parameter]) {
        for ((_, _, average), parameter) in self.values.iter_mut().zip(parameters) {
            ema_update(compute, self.decay, average, parameter.value().values());
        }
    }

    /// Exchanges average and weights; done twice, all is as it was.
    pub fn swap(&mut self, parameters: &[Parameter]) {
        for ((_, _, average), parameter) in self.values.iter_mut().zip(parameters) {
            parameter.update(|values, _| values.swap_with_slice(average));
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.values.iter().map(|(_, _, values)| values.len() * 4).sum()
    }
}
