//! Distributions over the last dimension, and the loss of a classifier.

use super::arithmetic::map2;
use crate::{Context, Ids, Tensor, Var};

impl Var {
    /// `e^x / Σ e^x` over the last dimension.
    pub fn softmax(&self) -> Var {
        let y = by_rows(self.context(), self.value(), |x, y| {
            let total = exponentials(x, y);
            y.iter_mut().for_each(|y| *y /= total);
        });
        let slot = self.slot();
        self.tape().record(y.clone(), &[self], move |dy, gradients| {
            let context = gradients.context();
            let dx = map2(context, &dy, &y, |dy, y| dy * y);
            let (width, products, ys) = (y.rows().1, dx.values(), y.values());
            let dx = by_rows_indexed(context, &dx, |row, _, dx| {
                let (products, ys) = (&products[row * width..][..width], &ys[row * width..][..width]);
                let dot: f32 = products.iter().sum();
                dx.iter_mut()
                    .zip(products.iter().zip(ys))
                    .for_each(|(dx, (product, y))| *dx = product - dot * y);
            });
            gradients.add(&slot, dx);
        })
    }

    /// `ln softmax(x)` over the last dimension, without overflow.
    pub fn log_softmax(&self) -> Var {
        let y = by_rows(self.context(), self.value(), |x, y| {
            let total = exponentials(x, y);
            let (largest, total) = (largest(x), total.ln());
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x - largest - total);
        });
        let slot = self.slot();
        self.tape().record(y.clone(), &[self], move |dy, gradients| {
            let (width, ys) = (y.rows().1, y.values());
            let dx = by_rows_indexed(gradients.context(), &dy, |row, dy, dx| {
                let total: f32 = dy.iter().sum();
                let y = &ys[row * width..][..width];
                dx.iter_mut().zip(dy.iter().zip(y)).for_each(|(dx, (dy, y))| *dx = dy - total * y.exp());
            });
            gradients.add(&slot, dx);
        })
    }

    /// The mean over rows of `-ln softmax(x)[target]`: logits `[.., classes]`, targets `[..]`. For the head of a
    /// language model there is a fused operation that never holds all logits.
    ///
    /// # Panics
    /// If the shapes do not fit, or a target is no class.
    pub fn cross_entropy(&self, targets: &Ids) -> Var {
        let (rows, classes) = self.value().rows();
        assert_eq!(
            targets.values().len(),
            rows,
            "cross_entropy: {self:?} with targets {:?}",
            targets.shape()
        );
        let flat = Ids::new([rows, 1], targets.values().to_vec());
        self.reshape([rows, classes]).log_softmax().gather(&flat).mean_all().neg()
    }
}

/// `y = e^(x - max x)`, and the sum of them.
fn exponentials(x: &[f32], y: &mut [f32]) -> f32 {
    let largest = largest(x);
    y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - largest).exp());
    y.iter().sum()
}

fn largest(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn by_rows(context: &Context, x: &Tensor, f: impl Fn(&[f32], &mut [f32]) + Sync) -> Tensor {
    by_rows_indexed(context, x, |_, x, y| f(x, y))
}

/// A tensor like `x`, each row written by `f(row, x, y)`.
fn by_rows_indexed(context: &Context, x: &Tensor, f: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Tensor {
    let (width, values) = (x.rows().1, x.values());
    context.build(x.shape(), |y| {
        context.compute().for_pieces(y, width.max(1), |row, y| f(row, &values[row * width..][..width], y));
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, context};
    use crate::{Ids, Tape};

    #[test]
    fn gradients_of_distributions() {
        check_gradients(&[&[3, 5]], |vars| vars[0].softmax());
        check_gradients(&[&[2, 2, 5]], |vars| vars[0].log_softmax());
        let targets = Ids::new([2, 2], vec![4, 0, 1, 1]);
        check_gradients(&[&[2, 2, 5]], |vars| vars[0].cross_entropy(&targets));
    }

    #[test]
    fn large_numbers_do_not_overflow() {
        let context = context();
        let tape = Tape::without_gradients(&context);
        let x = tape.constant(context.tensor([1, 2], &[1000.0, 1000.0]));
        assert_eq!(x.softmax().value().values(), [0.5, 0.5]);
        assert!((x.log_softmax().value().values()[0] + std::f32::consts::LN_2).abs() < 1e-6);
    }
}
