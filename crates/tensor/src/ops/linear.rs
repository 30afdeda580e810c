//! Linear maps: the products that nearly all time of a step goes into.

use fathom_kernels::matmul::{MatmulPrecision, Operand, Product, View, matmul};

use crate::tensor::Orientation;
use crate::{Context, Tensor, Var};

impl Var {
    /// `y = x · Wᵀ`: `x [.., in]`, `weight [out, in]` gives `[.., out]`. The packed forms of a parameter are made once
    /// per update and serve both this and the backward product `dx = dy · W`; `dW = dyᵀ · x` is added where the
    /// parameter gathers its gradient.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn linear(&self, weight: &Var) -> Var {
        let [out, inner] = *weight.shape() else {
            panic!("linear: a weight of two dimensions, not {weight:?}")
        };
        assert_eq!(self.value().rows().1, inner, "linear: {self:?} times the transpose of {weight:?}");
        let context = self.context().clone();
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("a width") = out;
        let (x, w) = (self.value().clone(), weight.value().clone());
        let y = context.build(shape, |y| {
            multiply(&context, x.view(), (&w, Orientation::Transposed), (y, out), false);
        });
        let (x_slot, w_slot) = (self.slot(), weight.slot());
        self.tape().record(y, &[self, weight], move |dy, gradients| {
            let context = gradients.context().clone();
            gradients.write(&x_slot, |dx, accumulate| {
                multiply(&context, dy.view(), (&w, Orientation::AsStored), (dx, inner), accumulate);
            });
            gradients.write(&w_slot, |dw, accumulate| {
                let (a, b) = (dy.view().transposed(), Operand::View(x.view()));
                let product = Product { a, b, c: dw, c_stride: inner, alpha: 1.0, accumulate };
                matmul(context.compute(), context.precision(), &mut [product]);
            });
        })
    }

    /// [`Var::linear`] in f32 whatever the context's precision, nothing packed: for gates, whose choices hang on
    /// small differences (DeepSeek's and transformers' routers compute so).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn linear_f32(&self, weight: &Var) -> Var {
        let [out, inner] = *weight.shape() else {
            panic!("linear: a weight of two dimensions, not {weight:?}")
        };
        assert_eq!(self.value().rows().1, inner, "linear: {self:?} times the transpose of {weight:?}");
        let context = self.context().clone();
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("a width") = out;
        let (x, w) = (self.value().clone(), weight.value().clone());
        let y = context.build(shape, |y| multiply_f32(&context, x.view(), w.view().transposed(), y, false));
        let (x_slot, w_slot) = (self.slot(), weight.slot());
        self.tape().record(y, &[self, weight], move |dy, gradients| {
            let context = gradients.context().clone();
            gradients.write(&x_slot, |dx, add| multiply_f32(&context, dy.view(), w.view(), dx, add));
            gradients
                .write(&w_slot, |dw, add| multiply_f32(&context, dy.view().transposed(), x.view(), dw, add));
        })
    }
}

/// `y (+)= a · W` or `a · Wᵀ`, with the packed form of `W` where it keeps one.
pub(crate) fn multiply(
    context: &Context,
    a: View<'_>,
    (weight, orientation): (&Tensor, Orientation),
    (c, c_stride): (&mut [f32], usize),
    accumulate: bool,
) {
    let packed = weight.packed(context, 0, orientation);
    let b = match (&packed, orientation) {
        (Some(packed), _) => Operand::Packed(packed),
        (None, Orientation::AsStored) => Operand::View(weight.view()),
        (None, Orientation::Transposed) => Operand::View(weight.view().transposed()),
    };
    let product = Product { a, b, c, c_stride, alpha: 1.0, accumulate };
    matmul(context.compute(), context.precision(), &mut [product]);
}

fn multiply_f32(context: &Context, a: View<'_>, b: View<'_>, c: &mut [f32], accumulate: bool) {
    let product = Product { a, b: Operand::View(b), c, c_stride: b.cols, alpha: 1.0, accumulate };
    matmul(context.compute(), MatmulPrecision::F32, &mut [product]);
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_a_linear_map() {
        for (rows, inner, out) in [(1, 1, 1), (3, 5, 2), (7, 4, 9)] {
            check_gradients(&[&[rows, inner], &[out, inner]], |vars| vars[0].linear(&vars[1]));
        }
        check_gradients(&[&[2, 3, 4], &[5, 4]], |vars| vars[0].linear(&vars[1]));
        check_gradients(&[&[3, 5], &[2, 5]], |vars| vars[0].linear_f32(&vars[1]));
    }
}
