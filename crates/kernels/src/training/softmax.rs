//! Softmax and its logarithm over rows.
//!
//! Backward needs the result alone: for `y = softmax(x)`, `dx = y · (dy - Σ dy · y)`; for `y = log_softmax(x)`,
//! `dx = dy - e^y · Σ dy`.

use super::rows_per_unit;
use crate::Compute;
use crate::math::{dot, exp, largest, per_isa, sum_of_exp};
use crate::shared::SharedSlice;

/// `y [rows, cols] = softmax(x [rows, cols])`.
///
/// # Panics
/// If a length does not fit.
pub fn forward(compute: &Compute, x: &[f32], cols: usize, y: &mut [f32]) {
    each_row(compute, cols, y, x, |row, y| softmax_row(compute.isa, &x[row * cols..][..cols], y));
}

/// `dx [rows, cols]` from `y`, the result of [`forward`], and `dy`.
///
/// # Panics
/// If a length does not fit.
pub fn backward(compute: &Compute, y: &[f32], cols: usize, dy: &[f32], dx: &mut [f32]) {
    assert_eq!(y.len(), dy.len());
    each_row(compute, cols, dx, y, |row, dx| {
        softmax_backward_row(compute.isa, &y[row * cols..][..cols], &dy[row * cols..][..cols], dx);
    });
}

/// `y [rows, cols] = log(softmax(x [rows, cols]))`.
///
/// # Panics
/// If a length does not fit.
pub fn log_forward(compute: &Compute, x: &[f32], cols: usize, y: &mut [f32]) {
    each_row(compute, cols, y, x, |row, y| log_softmax_row(compute.isa, &x[row * cols..][..cols], y));
}

/// `dx [rows, cols]` from `y`, the result of [`log_forward`], and `dy`.
///
/// # Panics
/// If a length does not fit.
pub fn log_backward(compute: &Compute, y: &[f32], cols: usize, dy: &[f32], dx: &mut [f32]) {
    assert_eq!(y.len(), dy.len());
    each_row(compute, cols, dx, y, |row, dx| {
        log_softmax_backward_row(compute.isa, &y[row * cols..][..cols], &dy[row * cols..][..cols], dx);
    });
}

fn each_row(
    compute: &Compute,
    cols: usize,
    out: &mut [f32],
    x: &[f32],
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    assert!(cols > 0 && out.len() == x.len() && x.len().is_multiple_of(cols), "softmax: rows of {cols}");
    let rows = out.len() / cols;
    let (out, each) = (SharedSlice::new(out), rows_per_unit(cols));
    compute.pool.run(rows.div_ceil(each), |unit, _| {
        for row in unit * each..rows.min((unit + 1) * each) {
            // SAFETY: every row belongs to one unit.
            work(row, unsafe { out.range_mut(row * cols, cols) });
        }
    });
}

/// `log Σ e^x` of one row.
#[inline(always)]
pub(super) fn log_sum_exp(x: &[f32]) -> f32 {
    let shift = largest(x);
    shift + sum_of_exp(x, shift).ln()
}

per_isa! {
    fn softmax_row(x: &[f32], y: &mut [f32]) {
        let shift = largest(x);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = exp(x - shift));
        let factor = 1.0 / sum_of_exp(x, shift);
        y.iter_mut().for_each(|y| *y *= factor);
    }
}

per_isa! {
    fn softmax_backward_row(y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let along = dot(y, dy);
        dx.iter_mut().zip(y.iter().zip(dy)).for_each(|(dx, (y, dy))| *dx = y * (dy - along));
    }
}

per_isa! {
    fn log_softmax_row(x: &[f32], y: &mut [f32]) {
        let log_sum = log_sum_exp(x);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x - log_sum);
    }
}

per_isa! {
    fn log_softmax_backward_row(y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let total: f32 = dy.iter().sum();
        dx.iter_mut().zip(y.iter().zip(dy)).for_each(|(dx, (y, dy))| *dx = dy - exp(*y) * total);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, dot, finite_differences, noise, on_every_isa, wide};
    use super::*;

    fn reference(x: &[f64], cols: usize, log: bool) -> Vec<f64> {
        let row = |row: &[f64]| {
            let log_sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            row.iter().map(|x| if log { x - log_sum } else { (x - log_sum).exp() }).collect::<Vec<_>>()
        };
        x.chunks(cols).flat_map(row).collect()
    }

    #[test]
    fn forward_and_backward_over_odd_sizes() {
        for (rows, cols) in [(1, 1), (4, 3), (3, 16), (5, 45)] {
            let x: Vec<f32> = noise(rows * cols, 1).iter().map(|x| 6.0 * x).collect();
            let dy = noise(rows * cols, 2);
            let expected = [false, true].map(|log| {
                let y = reference(&wide(&x), cols, log);
                (y, finite_differences(&wide(&x), |x| dot(&reference(x, cols, log), &dy)))
            });
            on_every_isa(
                |compute| {
                    let [mut y, mut dx, mut log_y, mut log_dx] = [(); 4].map(|()| vec![0.0; rows * cols]);
                    forward(compute, &x, cols, &mut y);
                    backward(compute, &y, cols, &dy, &mut dx);
                    log_forward(compute, &x, cols, &mut log_y);
                    log_backward(compute, &log_y, cols, &dy, &mut log_dx);
                    vec![y, dx, log_y, log_dx]
                },
                |isa, got| {
                    for (got, (y, dx)) in got.chunks(2).zip(&expected) {
                        assert_close(&format!("{isa} {rows}×{cols} y"), &got[0], y, 1e-6);
                        assert_close(&format!("{isa} {rows}×{cols} dx"), &got[1], dx, 2e-6);
                    }
                },
            );
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let compute = Compute::with_isa(crate::Isa::best(), 1);
        let (x, mut y) = ([1e30, 1e30, -1e30], [0.0; 3]);
        forward(&compute, &x, 3, &mut y);
        assert_eq!(y, [0.5, 0.5, 0.0]);
    }
}
