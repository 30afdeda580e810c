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
use fathom_kernels::matmul::{MatmulPrecision, Operand, Product, View, matmul};
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
    let mut direction = vec![0.0; count * rows * cols];
    let gradient = parameter.gradient().expect("the caller has seen it");
    let gradient = gradient.values();
    state.memory.for_pieces(compute, &mut direction, |first, direction, moments| {
        let gradient = &gradient[first..first + direction.len()];
        for ((direction, m), &gradient) in direction.iter_mut().zip(moments).zip(gradient) {
            let gradient = gradient * scale;
            *m = *m * momentum + gradient;
            *direction = if config.nesterov { gradient + momentum * *m } else { *m };
        }
    });
    orthogonalize(compute, context.precision(), &mut direction, [count, rows, cols]);
    let keep = (1.0 - step.learning_rate * weight_decay) as f32;
    let rate = (step.learning_rate * config.update_rms * (rows.max(cols) as f64).sqrt()) as f32;
    parameter.update(|values, _| {
        compute.for_pieces(values, PIECE, |piece, values| {
            let direction = &direction[piece * PIECE..];
            values.iter_mut().zip(direction).for_each(|(value, step)| *value = *value * keep - rate * step);
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
pub(super) fn orthogonalize(
    compute: &Compute,
    precision: MatmulPrecision,
    matrices: &mut [f32],
    [count, rows, cols]: [usize; 3],
) {
    let (size, small) = (rows * cols, rows.min(cols));
    for matrix in matrices.chunks_exact_mut(size) {
        let norm = sum_of_squares(compute, matrix).sqrt();
        let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
        compute.for_pieces(matrix, PIECE, |_, piece| piece.iter_mut().for_each(|value| *value *= scale));
    }
    let mut next = vec![0.0; matrices.len()];
    let (mut gram, mut polynomial) = (vec![0.0; count * small * small], vec![0.0; count * small * small]);
    let iteration = [FAST; FAST_STEPS].into_iter().chain([LAST; LAST_STEPS]);
    for [a, b, c] in iteration {
        let wide = rows <= cols;
        let view = |matrices| View::dense(matrices, rows, cols);
        let square = |matrices| View::dense(matrices, small, small);
        // A = X Xᵀ of the smaller side.
        let mut products: Vec<Product<'_>> = matrices
            .chunks_exact(size)
            .zip(gram.chunks_exact_mut(small * small))
            .map(|(x, gram)| {
                let (left, right) =
                    if wide { (view(x), view(x).transposed()) } else { (view(x).transposed(), view(x)) };
                product(left, right, gram, small, 1.0, false)
            })
            .collect();
        matmul(compute, precision, &mut products);
        // b A + c A².
        polynomial.iter_mut().zip(&gram).for_each(|(to, from)| *to = b * from);
        let mut products: Vec<Product<'_>> = gram
            .chunks_exact(small * small)
            .zip(polynomial.chunks_exact_mut(small * small))
            .map(|(gram, to)| product(square(gram), square(gram), to, small, c, true))
            .collect();
        matmul(compute, precision, &mut products);
        // a X + (b A + c A²) X, from the side on which A stands.
        next.iter_mut().zip(&*matrices).for_each(|(to, from)| *to = a * from);
        let mut products: Vec<Product<'_>> = matrices
            .chunks_exact(size)
            .zip(polynomial.chunks_exact(small * small))
            .zip(next.chunks_exact_mut(size))
            .map(|((x, polynomial), to)| {
                let (left, right) =
                    if wide { (square(polynomial), view(x)) } else { (view(x), square(polynomial)) };
                product(left, right, to, cols, 1.0, true)
            })
            .collect();
        matmul(compute, precision, &mut products);
        matrices.copy_from_slice(&next);
    }
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
