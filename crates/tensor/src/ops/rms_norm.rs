//! RMSNorm (Zhang and Sennrich, arXiv 1910.07467).

use fathom_kernels::gemm::{Output, Rows};
use fathom_kernels::training::Gradient;
use fathom_kernels::training::rms_norm::{self, Saved};

use crate::{Tensor, Var};

impl Var {
    /// `x / sqrt(mean(x²) + eps) · weight` of every row: `self [.., width]`, `weight [width]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn rms_norm(&self, weight: &Var, eps: f32) -> Var {
        assert_eq!(self.shape().last(), weight.shape().last(), "rms_norm of {self:?} by {weight:?}");
        self.rms_norm_columns(0, weight, eps)
    }

    /// The same of some columns of every row, those from `first` on: `self [.., columns]`, `weight [width]`, result
    /// `[.., width]`. MLA's latent is the beginning of what one projection gives.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn rms_norm_columns(&self, first: usize, weight: &Var, eps: f32) -> Var {
        let (rows, stride) = self.value().rows();
        let [cols] = *weight.shape() else { panic!("rms_norm: a weight of one dimension, not {weight:?}") };
        assert!(first + cols <= stride, "rms_norm of {self:?} from column {first} by {weight:?}");
        let context = self.context().clone();
        let (x, w) = (self.value().clone(), weight.value().clone());
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("a width") = cols;
        let mut y = context.build(shape, |_| {});
        let scale = context.build([rows], |scale| {
            let y = Output { values: y.values_mut().expect("a new buffer"), stride: cols };
            rms_norm::forward(context.compute(), columns(&x, first, cols), w.values(), eps, y, scale);
        });
        let (x_slot, w_slot) = (self.slot(), weight.slot());
        self.tape().record(y, &[self, weight], move |dy, gradients| {
            let context = gradients.context().clone();
            let saved = Saved { x: columns(&x, first, cols), weight: w.values(), scale: scale.values() };
            let dy = Rows::dense(dy.values(), cols);
            let mut dw = gradients.wants(&w_slot).then(|| context.zeros([cols]));
            let mut backward = |dx: &mut [f32], accumulate: bool| {
                let accumulate = accumulate || {
                    let partial = cols < stride;
                    if partial {
                        dx.fill(0.0);
                    }
                    partial
                };
                let dx = Gradient { values: dx.get_mut(first..).unwrap_or_default(), stride, accumulate };
                let dw = dw.as_mut().map(|dw| dw.values_mut().expect("a new buffer"));
                rms_norm::backward(context.compute(), saved, dy, dx, dw);
            };
            if gradients.wants(&x_slot) {
                gradients.write(&x_slot, backward);
            } else {
                drop(context.build([rows, stride], |dx| backward(dx, false)));
            }
            if let Some(dw) = dw {
                gradients.add(&w_slot, dw);
            }
        })
    }
}

fn columns(x: &Tensor, first: usize, cols: usize) -> Rows<'_> {
    Rows { values: x.values().get(first..).unwrap_or_default(), cols, stride: x.rows().1 }
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_rms_norm() {
        check_gradients(&[&[3, 5], &[5]], |vars| vars[0].rms_norm(&vars[1], 1e-6));
        check_gradients(&[&[2, 1, 7], &[4]], |vars| vars[0].rms_norm_columns(2, &vars[1], 0.1));
        // Two operations on other columns of the same rows.
        check_gradients(&[&[3, 7], &[4], &[3]], |vars| {
            let left = vars[0].rms_norm_columns(0, &vars[1], 1e-3).sum_all();
            left.mul(&vars[0].rms_norm_columns(4, &vars[2], 1e-3).sum_all())
        });
    }
}
