//! RMSNorm: `y = x · s · weight` with `s = 1 / sqrt(mean(x²) + eps)`, row by row.
//!
//! Backward, with `g = dy · weight`: `dx = s · (g - x · s² · mean(g · x))`, `dweight = Σ_rows dy · x · s`.

use super::{Gradient, rows_per_unit};
use crate::Compute;
use crate::gemm::{Output, Rows};
use crate::math::{per_isa, sum_of_products, sum_of_squares};
use crate::shared::SharedSlice;

/// Columns of `dweight` that one unit sums.
const STRIPE: usize = 32;

/// Rows that are summed before their sum joins the total: keeps rounding small over many rows.
const BLOCK: usize = 64;

/// Normalises rows of `x [rows, cols]` into `out`, and leaves `s` of every row in `scale [rows]`.
///
/// # Panics
/// If a length does not fit.
pub fn forward(compute: &Compute, x: Rows<'_>, weight: &[f32], eps: f32, out: Output<'_>, scale: &mut [f32]) {
    let (rows, cols, stride) = (scale.len(), x.cols, out.stride);
    assert!(x.rows() == rows && weight.len() == cols, "rms_norm: {} rows of {cols}", x.rows());
    let (out, scale) = (SharedSlice::new(out.values), SharedSlice::new(scale));
    let each = rows_per_unit(cols);
    compute.pool.run(rows.div_ceil(each), |unit, _| {
        for row in unit * each..rows.min((unit + 1) * each) {
            // SAFETY: every row belongs to one unit.
            let (out, scale) = unsafe { (out.range_mut(row * stride, cols), scale.range_mut(row, 1)) };
            scale[0] = normalize(compute.isa, &x.values[row * x.stride..][..cols], weight, eps, out);
        }
    });
}

/// What [`forward`] was given and what it left.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// `[rows, cols]`.
    pub x: Rows<'a>,
    /// `[cols]`.
    pub weight: &'a [f32],
    /// `[rows]`.
    pub scale: &'a [f32],
}

/// From `dy [rows, cols]` to `dx [rows, cols]`; adds to `dweight [cols]`, where it is wanted.
///
/// # Panics
/// If a length does not fit.
pub fn backward(
    compute: &Compute,
    saved: Saved<'_>,
    dy: Rows<'_>,
    dx: Gradient<'_>,
    dweight: Option<&mut [f32]>,
) {
    let Saved { x, weight, scale } = saved;
    let (rows, cols) = (scale.len(), x.cols);
    assert!(x.rows() == rows && dy.rows() == rows && dy.cols == cols && weight.len() == cols);
    assert!(dweight.as_ref().is_none_or(|dweight| dweight.len() == cols));
    let (stride, accumulate, dx) = (dx.stride, dx.accumulate, SharedSlice::new(dx.values));
    let each = rows_per_unit(cols);
    let row_units = rows.div_ceil(each);
    let stripes = if dweight.is_some() { cols.div_ceil(STRIPE) } else { 0 };
    let dweight = SharedSlice::new(dweight.unwrap_or_default());
    compute.pool.run(row_units + stripes, |unit, _| {
        if let Some(stripe) = unit.checked_sub(row_units) {
            let first = stripe * STRIPE;
            // SAFETY: every stripe belongs to one unit.
            let dweight = unsafe { dweight.range_mut(first, STRIPE.min(cols - first)) };
            return sum_weight(compute.isa, saved, dy, first, dweight);
        }
        let first = unit * each;
        for (row, &scale) in scale[first..rows.min(first + each)].iter().enumerate() {
            let row = first + row;
            // SAFETY: every row belongs to one unit.
            let dx = unsafe { dx.range_mut(row * stride, cols) };
            let (x, dy) = (&x.values[row * x.stride..][..cols], &dy.values[row * dy.stride..][..cols]);
            backward_row(compute.isa, x, weight, scale, dy, dx, accumulate);
        }
    });
}

per_isa! {
    fn normalize(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> f32 {
        let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
        for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = value * scale * weight;
        }
        scale
    }
}

per_isa! {
    fn backward_row(
        x: &[f32],
        weight: &[f32],
        scale: f32,
        dy: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) {
        let along = sum_of_products(x, dy, weight) / x.len() as f32 * scale * scale;
        let rows = dx.iter_mut().zip(x).zip(dy.iter().zip(weight));
        if accumulate {
            rows.for_each(|((dx, x), (dy, weight))| *dx += scale * (dy * weight - x * along));
        } else {
            rows.for_each(|((dx, x), (dy, weight))| *dx = scale * (dy * weight - x * along));
        }
    }
}

per_isa! {
    fn sum_weight(saved: Saved<'_>, dy: Rows<'_>, first: usize, dweight: &mut [f32]) {
        let Saved { x, scale, .. } = saved;
        for block in (0..scale.len()).step_by(BLOCK) {
            let mut sums = [0.0f32; STRIPE];
            let sums = &mut sums[..dweight.len()];
            for row in block..scale.len().min(block + BLOCK) {
                let x = &x.values[row * x.stride + first..][..sums.len()];
                let dy = &dy.values[row * dy.stride + first..][..sums.len()];
                let scale = scale[row];
                sums.iter_mut().zip(x.iter().zip(dy)).for_each(|(sum, (x, dy))| *sum += dy * x * scale);
            }
            dweight.iter_mut().zip(sums).for_each(|(dweight, sum)| *dweight += *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, dot, finite_differences, noise, on_every_isa, wide};
    use super::*;

    const EPS: f32 = 1e-6;

    fn reference(x: &[f64], weight: &[f64]) -> Vec<f64> {
        let row = |x: &[f64]| {
            let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + f64::from(EPS)).sqrt();
            x.iter().zip(weight).map(|(x, weight)| x * scale * weight).collect::<Vec<_>>()
        };
        x.chunks(weight.len()).flat_map(row).collect()
    }

    #[test]
    fn forward_and_backward_over_odd_sizes() {
        for (rows, cols) in [(1, 1), (3, 7), (2, 16), (67, 33), (130, 40)] {
            let (x, dy, weight) = (noise(rows * cols, 1), noise(rows * cols, 2), noise(cols, 3));
            let loss = |x: &[f64], weight: &[f64]| dot(&reference(x, weight), &dy);
            let expected = [
                reference(&wide(&x), &wide(&weight)),
                finite_differences(&wide(&x[..cols]), |row| {
                    dot(&reference(row, &wide(&weight)), &dy[..cols])
                }),
                finite_differences(&wide(&weight), |weight| loss(&wide(&x), weight)),
            ];
            on_every_isa(
                |compute| {
                    let (mut y, mut scale) = (vec![0.0; rows * cols], vec![0.0; rows]);
                    let rows = Rows::dense(&x, cols);
                    let out = Output { values: &mut y, stride: cols };
                    forward(compute, rows, &weight, EPS, out, &mut scale);
                    let saved = Saved { x: rows, weight: &weight, scale: &scale };
                    let (mut dx, mut dweight) = (vec![f32::NAN; x.len()], vec![0.0; cols]);
                    let gradient = Gradient::dense(&mut dx, cols);
                    backward(compute, saved, Rows::dense(&dy, cols), gradient, Some(&mut dweight));
                    vec![y, dx[..cols].to_vec(), dweight]
                },
                |isa, got| {
                    for ((name, got), expected) in ["y", "dx", "dweight"].iter().zip(got).zip(&expected) {
                        assert_close(&format!("{isa} {rows}×{cols} {name}"), got, expected, 2e-6);
                    }
                },
            );
        }
    }

    #[test]
    fn gradients_are_added_inside_wider_rows() {
        let compute = Compute::with_isa(crate::Isa::best(), 2);
        let (x, dy, weight) = (noise(5 * 12, 4), noise(5 * 9, 5), noise(9, 6));
        let rows = Rows { values: &x, cols: 9, stride: 12 };
        let (mut y, mut scale) = (vec![7.0; 5 * 10], vec![0.0; 5]);
        forward(&compute, rows, &weight, EPS, Output { values: &mut y, stride: 10 }, &mut scale);
        assert!(y.chunks(10).all(|row| row[9] == 7.0), "columns behind the row stay");
        let saved = Saved { x: rows, weight: &weight, scale: &scale };
        let (mut once, mut twice) = (vec![0.0; 5 * 12], vec![0.5; 5 * 12]);
        let dy = Rows::dense(&dy, 9);
        backward(&compute, saved, dy, Gradient { values: &mut once, stride: 12, accumulate: false }, None);
        backward(&compute, saved, dy, Gradient { values: &mut twice, stride: 12, accumulate: true }, None);
        for (i, (once, twice)) in once.iter().zip(&twice).enumerate() {
            assert!((once + 0.5 - twice).abs() < 1e-6, "{i}");
            assert!(i % 12 < 9 || *once == 0.0);
        }
    }
}
