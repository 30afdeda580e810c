//! Products of matrices that are both computed.

use fathom_kernels::matmul::{Operand, Product, View, matmul};

use crate::{Context, Tensor, Var};

impl Var {
    /// `x · y` for every matrix of two stacks: `x [.., m, k]`, `y [.., k, n]` with the same leading dimensions, or `y [k, n]`
    /// for all of `x`. For `x · Wᵀ` with a parameter see [`Var::linear`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul(&self, other: &Var) -> Var {
        let fits = |x: &[usize], y: &[usize]| {
            let ([.., k], [y_outer @ .., y_k, _]) = (x, y) else { return false };
            k == y_k && x.len() >= 2 && (y_outer.is_empty() || *y_outer == x[..x.len() - 2])
        };
        assert!(fits(self.shape(), other.shape()), "matmul of {self:?} and {other:?}");
        let (x, y) = (self.value().clone(), other.value().clone());
        let shared = y.shape().len() == 2;
        // One right matrix for all: the stack on the left is one tall matrix.
        let x = if shared { x.reshape([x.rows().0, x.rows().1]) } else { x };
        let n = y.rows().1;
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("a width") = n;
        let z = self.context().build(shape, |z| {
            stack(self.context(), (&x, false), (&y, false), z, false);
        });
        let (x_slot, y_slot) = (self.slot(), other.slot());
        self.tape().record(z, &[self, other], move |dz, gradients| {
            let dz = if shared { dz.reshape([dz.rows().0, n]) } else { dz };
            let context = gradients.context().clone();
            gradients.write(&x_slot, |dx, accumulate| {
                stack(&context, (&dz, false), (&y, true), dx, accumulate);
            });
            gradients.write(&y_slot, |dy, accumulate| {
                stack(&context, (&x, true), (&dz, false), dy, accumulate);
            });
        })
    }
}

fn view(tensor: &Tensor, index: usize, transposed: bool) -> View<'_> {
    let view = tensor.matrix(index);
    if transposed { view.transposed() } else { view }
}

/// `c (+)= a · b` for every matrix of the stacks, either transposed first.
fn stack(
    context: &Context,
    (a, a_transposed): (&Tensor, bool),
    (b, b_transposed): (&Tensor, bool),
    c: &mut [f32],
    accumulate: bool,
) {
    let size = |tensor: &Tensor, transposed| match *tensor.shape() {
        [.., rows, cols] if transposed => (cols, rows),
        [.., rows, cols] => (rows, cols),
        _ => panic!("a stack of matrices, not {tensor:?}"),
    };
    let ((m, inner), (_, n)) = (size(a, a_transposed), size(b, b_transposed));
    let count = a.elements().checked_div(m * inner).unwrap_or(0);
    if count == 0 && !accumulate {
        c.fill(0.0);
    }
    let mut products: Vec<Product<'_>> = c
        .chunks_mut((m * n).max(1))
        .take(count)
        .enumerate()
        .map(|(index, c)| Product {
            a: view(a, index, a_transposed),
            b: Operand::View(view(b, index, b_transposed)),
            c,
            c_stride: n,
            alpha: 1.0,
            accumulate,
        })
        .collect();
    matmul(context.compute(), context.precision(), &mut products);
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_products() {
        check_gradients(&[&[3, 5], &[5, 2]], |vars| vars[0].matmul(&vars[1]));
        check_gradients(&[&[2, 3, 4], &[2, 4, 5]], |vars| vars[0].matmul(&vars[1]));
        check_gradients(&[&[2, 3, 4], &[4, 5]], |vars| vars[0].matmul(&vars[1]));
        check_gradients(&[&[2, 2, 3, 1], &[2, 2, 1, 4]], |vars| vars[0].matmul(&vars[1]));
    }
}
