//! RMSNorm: `x / sqrt(mean(x²) + eps) · weight`, row by row, in f32.

use crate::Compute;
use crate::gemm::Rows;
use crate::math::{per_isa, sum_of_squares};
use crate::shared::SharedSlice;

/// Rows handed to one unit.
const UNIT_ROWS: usize = 8;

/// Normalises every row of `x [rows, cols]` into `out [rows, cols]` (dense).
///
/// # Panics
/// If `weight` is not `[cols]` or `out` is too small.
pub fn rmsnorm(compute: &Compute, x: Rows<'_>, weight: &[f32], eps: f32, out: &mut [f32]) {
    let (rows, cols) = (x.rows(), x.cols);
    assert!(weight.len() == cols && out.len() >= rows * cols);
    let out = SharedSlice::new(out);
    compute.pool.run(rows.div_ceil(UNIT_ROWS), |unit, _| {
        for row in unit * UNIT_ROWS..rows.min((unit + 1) * UNIT_ROWS) {
            let values = &x.values[row * x.stride..][..cols];
            // SAFETY: every row belongs to one unit.
            let out = unsafe { out.range_mut(row * cols, cols) };
            normalize(compute.isa, values, weight, eps, out);
        }
    });
}

per_isa! {
    pub(crate) fn normalize(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
        for ((out, value), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = value * scale * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn rows_have_unit_mean_square_times_weight() {
        for isa in Isa::available() {
            for (rows, cols) in [(1, 1), (3, 7), (20, 33), (9, 64)] {
                let compute = Compute::with_isa(isa, 2);
                let x: Vec<f32> =
                    (0..rows * (cols + 2)).map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0).collect();
                let weight: Vec<f32> = (0..cols).map(|i| 0.5 + i as f32 / 10.0).collect();
                let mut out = vec![0.0; rows * cols];
                rmsnorm(&compute, Rows { values: &x, cols, stride: cols + 2 }, &weight, 1e-6, &mut out);
                for row in 0..rows {
                    let values = &x[row * (cols + 2)..][..cols];
                    let mean = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / cols as f64;
                    for (col, value) in values.iter().enumerate() {
                        let expected = f64::from(*value) / (mean + 1e-6).sqrt() * f64::from(weight[col]);
                        assert!(
                            (f64::from(out[row * cols + col]) - expected).abs() < 1e-5,
                            "{isa} {rows}×{cols}"
                        );
                    }
                }
            }
        }
    }
}
