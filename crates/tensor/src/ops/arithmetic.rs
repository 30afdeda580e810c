//! Two values, element by element. Shapes that differ are broadcast as in NumPy: aligned at their last dimensions,
//! where a dimension of 1 or a missing one is repeated.

use fathom_kernels::parallel::PIECE;

use super::shape::broadcast_shape;
use crate::{Context, Tensor, Var};

impl Var {
    /// `x + y`.
    ///
    /// # Panics
    /// If the shapes cannot be broadcast; as all operations of this file.
    pub fn add(&self, other: &Var) -> Var {
        let [x, y] = aligned(self, other, "add");
        let sum = map2(x.context(), x.value(), y.value(), |x, y| x + y);
        let (x_slot, y_slot) = (x.slot(), y.slot());
        x.tape().record(sum, &[&x, &y], move |dz, gradients| {
            gradients.add(&x_slot, dz.clone());
            gradients.add(&y_slot, dz);
        })
    }

    /// `x - y`.
    pub fn sub(&self, other: &Var) -> Var {
        self.add(&other.neg())
    }

    /// `x · y`.
    pub fn mul(&self, other: &Var) -> Var {
        binary(self, other, "mul", |x, y| x * y, |_, y| y, |x, _| x)
    }

    /// `x / y`.
    pub fn div(&self, other: &Var) -> Var {
        binary(self, other, "div", |x, y| x / y, |_, y| 1.0 / y, |x, y| -x / (y * y))
    }

    /// The larger of `x` and `y`; where they are equal the gradient is `x`'s.
    pub fn maximum(&self, other: &Var) -> Var {
        let chosen = |condition: bool| if condition { 1.0 } else { 0.0 };
        binary(self, other, "maximum", f32::max, move |x, y| chosen(x >= y), move |x, y| chosen(x < y))
    }

    /// `x` where `mask` (a constant of zeroes and ones) is not 0, and `value` elsewhere.
    pub fn masked_fill(&self, mask: &Tensor, value: f32) -> Var {
        let mask = self.tape().constant(mask.clone());
        let keep = move |_: f32, mask: f32| if mask == 0.0 { 0.0 } else { 1.0 };
        binary(
            self,
            &mask,
            "masked_fill",
            move |x, mask| if mask == 0.0 { value } else { x },
            keep,
            |_, _| 0.0,
        )
    }
}

/// `z = f(x, y)` with the partial derivatives `dx` and `dy` as functions of `(x, y)`.
fn binary(
    x: &Var,
    y: &Var,
    name: &str,
    f: impl Fn(f32, f32) -> f32 + Sync,
    dx: impl Fn(f32, f32) -> f32 + Sync + 'static,
    dy: impl Fn(f32, f32) -> f32 + Sync + 'static,
) -> Var {
    let [x, y] = aligned(x, y, name);
    let z = map2(x.context(), x.value(), y.value(), f);
    let (x_value, y_value) = (x.value().clone(), y.value().clone());
    let (x_slot, y_slot) = (x.slot(), y.slot());
    x.tape().record(z, &[&x, &y], move |dz, gradients| {
        let context = gradients.context().clone();
        if gradients.wants(&x_slot) {
            let gradient = map3(&context, [&dz, &x_value, &y_value], |dz, x, y| dz * dx(x, y));
            gradients.add(&x_slot, gradient);
        }
        if gradients.wants(&y_slot) {
            let gradient = map3(&context, [&dz, &x_value, &y_value], |dz, x, y| dz * dy(x, y));
            gradients.add(&y_slot, gradient);
        }
    })
}

/// Both in the shape that they share after broadcasting.
fn aligned(x: &Var, y: &Var, name: &str) -> [Var; 2] {
    let shape = broadcast_shape(x.shape(), y.shape())
        .unwrap_or_else(|| panic!("{name} of {x:?} and {y:?}: the shapes cannot be broadcast"));
    [x.broadcast_to(&shape[..]), y.broadcast_to(&shape[..])]
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

/// A new tensor of `f` of every three elements.
fn map3(context: &Context, inputs: [&Tensor; 3], f: impl Fn(f32, f32, f32) -> f32 + Sync) -> Tensor {
    let [a, b, c] = inputs.map(Tensor::values);
    context.build(inputs[0].shape(), |z| {
        context.compute().for_pieces(z, PIECE, |piece, z| {
            let start = piece * PIECE;
            let triples = a[start..].iter().zip(&b[start..]).zip(&c[start..]);
            z.iter_mut().zip(triples).for_each(|(z, ((&a, &b), &c))| *z = f(a, b, c));
        });
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, check_gradients_at, context, random};
    use crate::{Tape, Var};

    #[test]
    fn gradients_of_arithmetic() {
        let operations: [fn(&Var, &Var) -> Var; 4] = [Var::add, Var::sub, Var::mul, Var::maximum];
        for operation in operations {
            check_gradients(&[&[3, 4], &[3, 4]], |vars| operation(&vars[0], &vars[1]));
            check_gradients(&[&[3, 4], &[4]], |vars| operation(&vars[0], &vars[1]));
            check_gradients(&[&[2, 1, 3], &[4, 1]], |vars| operation(&vars[0], &vars[1]));
            check_gradients(&[&[2, 2], &[]], |vars| operation(&vars[0], &vars[1]));
        }
        let far_from_zero = random(6, 3).iter().map(|x| x + 2.0).collect();
        check_gradients_at(&[&[2, 3], &[2, 3]], &[random(6, 1), far_from_zero], |vars| vars[0].div(&vars[1]));
    }

    #[test]
    fn a_value_may_meet_itself() {
        check_gradients(&[&[5]], |vars| vars[0].mul(&vars[0]).add(&vars[0]));
    }

    #[test]
    fn a_mask_replaces_values_and_stops_gradients() {
        let mask = context().tensor([3], &[1.0, 0.0, 1.0]);
        check_gradients(&[&[2, 3]], |vars| vars[0].masked_fill(&mask, -5.0));
        let tape = Tape::without_gradients(&context());
        let filled = tape.constant(context().tensor([3], &[1.0, 2.0, 3.0])).masked_fill(&mask, -5.0);
        assert_eq!(filled.value().values(), [1.0, -5.0, 3.0]);
    }

    #[test]
    #[should_panic(expected = "add of Var[2, 3] and Var[2]: the shapes cannot be broadcast")]
    fn shapes_that_do_not_fit_are_named() {
        let tape = Tape::without_gradients(&context());
        let _ = tape.constant(context().zeros([2, 3])).add(&tape.constant(context().zeros([2])));
    }
}
