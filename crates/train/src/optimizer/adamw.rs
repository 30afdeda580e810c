//! AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2), in PyTorch's order of operations, so that results agree
//! to the last bits: decay, first moment as a step towards the gradient, second moment, and the division last.

use fathom_kernels::Compute;

use super::Step;
use super::memory::Memory;
use crate::config::AdamW;

/// Everything that is the same for all elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coefficients {
    /// `1 - lr · weight_decay`
    keep: f32,
    gradient_scale: f32,
    /// `1 - β1`
    towards: f32,
    beta2: f32,
    /// `1 - β2`
    beta2_rest: f32,
    /// `√(1 - β2^t)`
    correction2: f32,
    eps: f32,
    /// `lr / (1 - β1^t)`
    step_size: f32,
}

impl Coefficients {
    /// For step `steps`, counted from 1.
    pub(super) fn new(config: &AdamW, weight_decay: f64, steps: u64, step: Step) -> Self {
        let [beta1, beta2] = config.betas;
        let power = |beta: f64| 1.0 - beta.powf(steps as f64);
        Self {
            keep: (1.0 - step.learning_rate * weight_decay) as f32,
            gradient_scale: step.gradient_scale,
            towards: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            beta2_rest: (1.0 - beta2) as f32,
            correction2: power(beta2).sqrt() as f32,
            eps: config.eps as f32,
            step_size: (step.learning_rate / power(beta1)) as f32,
        }
    }
}

/// Moves `values` and their two moments by `gradient`.
pub(super) fn update(
    compute: &Compute,
    coefficients: Coefficients,
    values: &mut [f32],
    gradient: &[f32],
    memory: &mut Memory,
) {
    memory.for_pieces(compute, values, |first, values, moments| {
        let gradient = &gradient[first..first + values.len()];
        let (m, v) = moments.split_at_mut(values.len());
        piece(coefficients, values, gradient, m, v);
    });
}

fn piece(c: Coefficients, values: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32]) {
    for (((value, &gradient), m), v) in values.iter_mut().zip(gradient).zip(m).zip(v) {
        let gradient = gradient * c.gradient_scale;
        *m += (gradient - *m) * c.towards;
        *v = *v * c.beta2 + c.beta2_rest * gradient * gradient;
        let denominator = v.sqrt() / c.correction2 + c.eps;
        // An eps below what f32 holds (Muon's recipe: 1e-20 is fine, 1e-50 is not) leaves 0 / 0 where there never was
        // a gradient: such a number stands still.
        let step = if *m == 0.0 { 0.0 } else { c.step_size * (*m / denominator) };
        *value = *value * c.keep - step;
    }
}
