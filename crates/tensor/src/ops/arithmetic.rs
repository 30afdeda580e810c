//! Element by element.

use fathom_kernels::parallel::PIECE;

use crate::{Context, Tensor, Var};

impl Var {
    /// `x + y`, of one shape.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn add(&self, other: &Var) -> Var {
        let y = zip(self, other, "add", |x, y| x + y);
        let (x_slot, y_slot) = (self.slot(), other.slot());
        self.tape().record(y, &[self, other], move |dy, gradients| {
            gradients.add(&x_slot, dy.clone());
            gradients.add(&y_slot, dy);
        })
    }

    /// `x · y`, element by element, of one shape.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn mul(&self, other: &Var) -> Var {
        let z = zip(self, other, "mul", |x, y| x * y);
        let (x, y) = (self.value().clone(), other.value().clone());
        let (x_slot, y_slot) = (self.slot(), other.slot());
        self.tape().record(z, &[self, other], move |dz, gradients| {
            let context = gradients.context().clone();
            if gradients.wants(&x_slot) {
                gradients.add(&x_slot, map2(&context, &dz, &y, |dz, y| dz * y));
            }
            if gradients.wants(&y_slot) {
                gradients.add(&y_slot, map2(&context, &dz, &x, |dz, x| dz * x));
            }
        })
    }

    /// `x · factor`.
    pub fn scale(&self, factor: f32) -> Var {
        let y = map(self.context(), self.value(), |x| x * factor);
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx = map(gradients.context(), &dy, |dy| dy * factor);
            gradients.add(&slot, dx);
        })
    }

    /// `x · sigmoid(x)` (Elfwing et al., arXiv 1702.03118).
    pub fn silu(&self) -> Var {
        let x = self.value().clone();
        let y = map(self.context(), &x, |x| x * sigmoid(x));
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx = map2(gradients.context(), &dy, &x, |dy, x| {
                let sigmoid = sigmoid(x);
                dy * sigmoid * (1.0 + x * (1.0 - sigmoid))
            });
            gradients.add(&slot, dx);
        })
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// A new tensor of `f` of every element.
pub(crate) fn map(context: &Context, x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Tensor {
    let values = x.values();
    context.build(x.shape(), |y| {
        context.compute().for_pieces(y, PIECE, |piece, y| {
            y.iter_mut().zip(&values[piece * PIECE..]).for_each(|(y, &x)| *y = f(x));
        });
    })
}

/// A new tensor of `f` of every pair of elements.
pub(crate) fn map2(context: &Context, x: &Tensor, y: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Tensor {
    let (xs, ys) = (x.values(), y.values());
    context.build(x.shape(), |z| {
        context.compute().for_pieces(z, PIECE, |piece, z| {
            let pairs = xs[piece * PIECE..].iter().zip(&ys[piece * PIECE..]);
            z.iter_mut().zip(pairs).for_each(|(z, (&x, &y))| *z = f(x, y));
        });
    })
}

fn zip(x: &Var, y: &Var, name: &str, f: impl Fn(f32, f32) -> f32 + Sync) -> Tensor {
    assert_eq!(x.shape(), y.shape(), "{name} of {x:?} and {y:?}");
    map2(x.context(), x.value(), y.value(), f)
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_sums_products_and_silu() {
        check_gradients(&[&[3, 4], &[3, 4]], |vars| vars[0].add(&vars[1]));
        check_gradients(&[&[3, 4], &[3, 4]], |vars| vars[0].mul(&vars[1]));
        check_gradients(&[&[5]], |vars| vars[0].mul(&vars[0]).add(&vars[0]));
        check_gradients(&[&[7]], |vars| vars[0].scale(-2.5));
        check_gradients(&[&[7]], |vars| vars[0].silu());
    }
}
