//! The norm of all gradients together, and where it is not finite.

use fathom_kernels::Compute;
use fathom_kernels::optimizer::sum_of_squares;
use fathom_tensor::Parameter;

/// How large all gradients are.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientNorm {
    /// The square root of the sum of all squares.
    pub norm: f64,
    /// The first parameter whose gradient holds a NaN or an infinity, in the order given.
    pub not_finite: Option<String>,
}

impl GradientNorm {
    /// What gradients are multiplied by so that their norm is `clip` at most (as `clip_grad_norm_` of PyTorch).
    pub fn clipping(&self, clip: Option<f64>) -> f64 {
        clip.map_or(1.0, |clip| (clip / (self.norm + 1e-6)).min(1.0))
    }
}

/// The norm of the gradients of `parameters` times `scale`.
pub fn gradient_norm(compute: &Compute, parameters: &[Parameter], scale: f64) -> GradientNorm {
    let (mut total, mut not_finite) = (0.0, None);
    for parameter in parameters {
        let Some(gradient) = parameter.gradient() else { continue };
        let squared = sum_of_squares(compute, gradient.values());
        if !squared.is_finite() && not_finite.is_none() {
            not_finite = Some(parameter.name().to_owned());
        }
        total += squared;
    }
    GradientNorm { norm: total.sqrt() * scale, not_finite }
}
