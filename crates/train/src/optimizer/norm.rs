//! The norm of all gradients together, and where it is not finite.

use fathom_kernels::Compute;
use fathom_kernels::parallel::PIECE;
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
        let squared = squares(compute, gradient.values());
        if !squared.is_finite() && not_finite.is_none() {
            not_finite = Some(parameter.name().to_owned());
        }
        total += squared;
    }
    GradientNorm { norm: total.sqrt() * scale, not_finite }
}

/// The sum of squares, which does not depend on the number of threads.
pub(super) fn squares(compute: &Compute, values: &[f32]) -> f64 {
    let mut sums = vec![0.0f64; values.len().div_ceil(PIECE)];
    compute.for_pieces(&mut sums, 1, |piece, sum| {
        let values = &values[piece * PIECE..values.len().min((piece + 1) * PIECE)];
        // Eight sums, so that the loop needs not wait for one.
        let mut lanes = [0.0f64; 8];
        let (chunks, rest) = values.as_chunks::<8>();
        for chunk in chunks {
            lanes
                .iter_mut()
                .zip(chunk)
                .for_each(|(lane, &value)| *lane += f64::from(value) * f64::from(value));
        }
        let rest: f64 = rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        sum[0] = lanes.iter().sum::<f64>() + rest;
    });
    sums.iter().sum()
}
