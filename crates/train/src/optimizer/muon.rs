//! Muon (Jordan et al. 2024; with DeepSeek-V4's recipe, V4 report §2.4 and §4.2.2): momentum, made orthogonal.
//!
//! ```text
//! M ← μ M + G
//! O = NewtonSchulz(μ M + G)              G + μ M where the step looks ahead (Nesterov), M otherwise
//! W ← (1 - η λ) W - η · 0.18 √max(rows, cols) · O
//! ```
//! The scale gives updates a root mean square of 0.18, which is what AdamW's have, so that its learning rates fit
//! (Liu et al., arXiv 2502.16982). A stack of matrices is as many matrices, each made orthogonal alone.

use fathom_kernels::Compute;
use fathom_kernels::matmul::{Operand, Product, View, matmul};
use fathom_kernels::optimizer::sum_of_squares;
use fathom_kernels::parallel::PIECE;
use fathom_tensor::{Context, Parameter};

use super::{State, Step};
use crate::config::Muon;

/// Coefficients of the quintic iteration `X ← a X + (b A + c A²) X`, `A = X Xᵀ`: eight steps that converge fast, then
/// two that bring all singular values to 1.
const FAST: [f32; 3] = [3.4445, -4.7750, 2.0315];
const FAST_STEPS: usize = 8;
const LAST: [f32; 3] = [2.0, -1.5, 0.5];
const LAST_STEPS: usize = 2;

/// Moves one parameter.
pub(super) fn update(
    context: &Context,
    config: &Muon,
    state: &mut State,
    parameter: &Parameter,
    weight_decay: f64,
    step: Step,
) {
    let compute = context.compute();
    let (momentum, scale) = (config.momentum as f32, step.gradient_scale);
    let [count, rows, cols] = stack(&state.shape);
    let gradient = parameter.gradient().expect("the caller has seen it");
    let gradient = gradient.values();
    context.scratch(count * rows * cols, |direction| {
        state.memory.for_pieces(compute, direction, |first, direction, moments| {
            let gradient = &gradient[first..first + direction.len()];
            for ((direction, m), &gradient) in direction.iter_mut().zip(moments).zip(gradient) {
                let gradient = gradient * scale;
                *m = *m * momentum + gradient;
                *direction = if config.nesterov { gradient + momentum * *m } else { *m };
            }
        });
        orthogonalize(context, direction, [count, rows, cols]);
        let keep = (1.0 - step.learning_rate * weight_decay) as f32;
        let rate = (step.learning_rate * config.update_rms * (rows.max(cols) as f64).sqrt()) as f32;
        parameter.update(|values, _| {
            compute.for_pieces(values, PIECE, |piece, values| {
                let direction = &direction[piece * PIECE..];
                values
                    .iter_mut()
                    .zip(direction)
                    .for_each(|(value, step)| *value = *value * keep - rate * step);
            });
        });
    });
}

/// Matrices, rows, columns.
fn stack(shape: &[usize]) -> [usize; 3] {
    match *shape {
        [.., rows, cols] => [shape[..shape.len() - 2].iter().product(), rows, cols],
        _ => unreachable!("only parameters of two dimensions and more are matrices"),
    }
}

/// Replaces each of `count` matrices `[rows, cols]` by (nearly) the orthogonal one nearest to it: `U Vᵀ` of its singular
/// value decomposition.
pub(super) fn orthogonalize(context: &Context, matrices: &mut [f32], [count, rows, cols]: [usize; 3]) {
    let (compute, precision) = (context.compute(), context.precision());
    let (size, small) = (rows * cols, rows.min(cols));
    for matrix in matrices.chunks_exact_mut(size) {
        let norm = sum_of_squares(compute, matrix).sqrt();
        let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
        compute.for_pieces(matrix, PIECE, |_, piece| piece.iter_mut().for_each(|value| *value *= scale));
    }
    let (wide, squares) = (rows <= cols, count * small * small);
    let whole = matrix_of(rows, cols);
    let square = matrix_of(small, small);
    // An even number of steps ends where it began.
    const { assert!((FAST_STEPS + LAST_STEPS).is_multiple_of(2)) };
    context.scratch(2 * squares + matrices.len(), |scratch| {
        let (gram, scratch) = scratch.split_at_mut(squares);
        let (polynomial, next) = scratch.split_at_mut(squares);
        let (mut matrices, mut next) = (matrices, next);
        for [a, b, c] in [FAST; FAST_STEPS].into_iter().chain([LAST; LAST_STEPS]) {
            // A = X Xᵀ of the smaller side.
            let mut products: Vec<Product<'_>> = matrices
                .chunks_exact(size)
                .zip(gram.chunks_exact_mut(small * small))
                .map(|(x, gram)| {
                    let (left, right) = if wide {
                        (whole(x), whole(x).transposed())
                    } else {
                        (whole(x).transposed(), whole(x))
                    };
                    product(left, right, gram, small, 1.0, false)
                })
                .collect();
            matmul(compute, precision, &mut products);
            // b A + c A².
            scaled(compute, polynomial, gram, b);
            let mut products: Vec<Product<'_>> = gram
                .chunks_exact(small * small)
                .zip(polynomial.chunks_exact_mut(small * small))
                .map(|(gram, to)| product(square(gram), square(gram), to, small, c, true))
                .collect();
            matmul(compute, precision, &mut products);
            // a X + (b A + c A²) X, from the side on which A stands.
            scaled(compute, next, matrices, a);
            let mut products: Vec<Product<'_>> = matrices
                .chunks_exact(size)
                .zip(polynomial.chunks_exact(small * small))
                .zip(next.chunks_exact_mut(size))
                .map(|((x, polynomial), to)| {
                    let (left, right) =
                        if wide { (square(polynomial), whole(x)) } else { (whole(x), square(polynomial)) };
                    product(left, right, to, cols, 1.0, true)
                })
                .collect();
            matmul(compute, precision, &mut products);
            std::mem::swap(&mut matrices, &mut next);
        }
    });
}

/// What sees a slice as a matrix.
fn matrix_of(rows: usize, cols: usize) -> impl for<'a> Fn(&'a [f32]) -> View<'a> {
    move |values| View::dense(values, rows, cols)
}

/// `to = factor · from`.
fn scaled(compute: &Compute, to: &mut [f32], from: &[f32], factor: f32) {
    compute.for_pieces(to, PIECE, |piece, to| {
        to.iter_mut().zip(&from[piece * PIECE..]).for_each(|(to, from)| *to = factor * from);
    });
}

fn product<'a>(
    a: View<'a>,
    b: View<'a>,
    c: &'a mut [f32],
    c_stride: usize,
    alpha: f32,
    accumulate: bool,
) -> Product<'a> {
    Product { a, b: Operand::View(b), c, c_stride, alpha, accumulate }
}
