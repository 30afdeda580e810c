//! SwiGLU: `h = silu(gate) · up` with `silu(g) = g · σ(g)` (Shazeer, arXiv 2002.05202).
//!
//! Backward: `dup = dh · silu(gate)`, `dgate = dh · up · σ(gate) · (1 + gate · (1 - σ(gate)))`.

use super::rows_per_unit;
use crate::Compute;
use crate::gemm::{Output, Rows};
use crate::math::{exp, per_isa, silu};
use crate::shared::SharedSlice;

/// `h [rows, width]`, dense, from `gate` and `up` `[rows, width]`: two matrices, or both halves of one.
///
/// # Panics
/// If a length does not fit.
pub fn forward(compute: &Compute, gate: Rows<'_>, up: Rows<'_>, h: &mut [f32]) {
    let (rows, width) = (gate.rows(), gate.cols);
    assert!(
        up.rows() == rows && up.cols == width && h.len() == rows * width,
        "swiglu: {rows} rows of {width}"
    );
    let h = SharedSlice::new(h);
    let each = rows_per_unit(width);
    compute.pool.run(rows.div_ceil(each), |unit, _| {
        for row in unit * each..rows.min((unit + 1) * each) {
            // SAFETY: every row belongs to one unit.
            let h = unsafe { h.range_mut(row * width, width) };
            let (gate, up) =
                (&gate.values[row * gate.stride..][..width], &up.values[row * up.stride..][..width]);
            forward_row(compute.isa, gate, up, h);
        }
    });
}

/// [`forward`] of rows `[gate | up]` of `2 · width` numbers.
///
/// # Panics
/// If a length does not fit.
pub fn forward_joint(compute: &Compute, gate_up: &[f32], width: usize, h: &mut [f32]) {
    let [gate, up] = halves(gate_up, width);
    forward(compute, gate, up, h);
}

/// From `dh [rows, width]`, dense, to `dgate` and `dup` `[rows, width]`, written over.
///
/// # Panics
/// If a length does not fit.
pub fn backward(
    compute: &Compute,
    gate: Rows<'_>,
    up: Rows<'_>,
    dh: &[f32],
    dgate: Output<'_>,
    dup: Output<'_>,
) {
    let (dgate, dgate_stride) = (SharedSlice::new(dgate.values), dgate.stride);
    let (dup, dup_stride) = (SharedSlice::new(dup.values), dup.stride);
    run_backward(compute, gate, up, dh, |row| {
        // SAFETY: every row belongs to one unit, and both buffers are borrowed mutably.
        unsafe {
            [dgate.range_mut(row * dgate_stride, gate.cols), dup.range_mut(row * dup_stride, gate.cols)]
        }
    });
}

/// [`backward`] of rows `[gate | up]`, to rows `[dgate | dup]`.
///
/// # Panics
/// If a length does not fit.
pub fn backward_joint(compute: &Compute, gate_up: &[f32], width: usize, dh: &[f32], dgate_up: &mut [f32]) {
    let [gate, up] = halves(gate_up, width);
    let dgate_up = SharedSlice::new(dgate_up);
    run_backward(compute, gate, up, dh, |row| {
        // SAFETY: every row belongs to one unit, and its halves do not overlap.
        unsafe {
            [dgate_up.range_mut(2 * row * width, width), dgate_up.range_mut((2 * row + 1) * width, width)]
        }
    });
}

/// Backward of `w · h` with a weight per row, in one pass and in place: `gate`, `up` and `dh` `[rows, width]` become
/// `dgate`, `dup` and `w · h`, where `dh` is the gradient of `w · h`; `dots [rows]` becomes the gradient of `w`,
/// `Σ dh · h`.
///
/// # Panics
/// If a length does not fit.
pub fn backward_weighted(
    compute: &Compute,
    weight: impl Fn(usize) -> f32 + Sync,
    [gate, up, dh]: [&mut [f32]; 3],
    dots: &mut [f32],
) {
    let rows = dots.len();
    let width = gate.len().checked_div(rows).unwrap_or_default();
    assert!([&gate, &up, &dh].iter().all(|values| values.len() == rows * width), "swiglu: {rows} rows");
    let [gate, up, dh, dots] = [gate, up, dh, dots].map(SharedSlice::new);
    let each = rows_per_unit(width);
    compute.pool.run(rows.div_ceil(each), |unit, _| {
        for row in unit * each..rows.min((unit + 1) * each) {
            // SAFETY: every row belongs to one unit.
            let [gate, up, dh] = [gate, up, dh].map(|values| unsafe { values.range_mut(row * width, width) });
            // SAFETY: as above.
            let dot = unsafe { dots.range_mut(row, 1) };
            dot[0] = weighted_row(compute.isa, gate, up, dh, weight(row));
        }
    });
}

fn halves(gate_up: &[f32], width: usize) -> [Rows<'_>; 2] {
    let rows = |values| Rows { values, cols: width, stride: 2 * width };
    [rows(gate_up), rows(gate_up.get(width..).unwrap_or_default())]
}

fn run_backward<'a>(
    compute: &Compute,
    gate: Rows<'_>,
    up: Rows<'_>,
    dh: &[f32],
    gradients: impl Fn(usize) -> [&'a mut [f32]; 2] + Sync,
) {
    let (rows, width) = (gate.rows(), gate.cols);
    assert!(
        up.rows() == rows && up.cols == width && dh.len() == rows * width,
        "swiglu: {rows} rows of {width}"
    );
    let each = rows_per_unit(width);
    compute.pool.run(rows.div_ceil(each), |unit, _| {
        for row in unit * each..rows.min((unit + 1) * each) {
            let [dgate, dup] = gradients(row);
            let (gate, up) =
                (&gate.values[row * gate.stride..][..width], &up.values[row * up.stride..][..width]);
            backward_row(compute.isa, gate, up, &dh[row * width..][..width], dgate, dup);
        }
    });
}

per_isa! {
    fn forward_row(gate: &[f32], up: &[f32], h: &mut [f32]) {
        h.iter_mut().zip(gate.iter().zip(up)).for_each(|(h, (gate, up))| *h = silu(*gate) * up);
    }
}

per_isa! {
    fn backward_row(gate: &[f32], up: &[f32], dh: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let gradients = dgate.iter_mut().zip(dup);
        for ((dgate, dup), ((gate, up), dh)) in gradients.zip(gate.iter().zip(up).zip(dh)) {
            let sigmoid = 1.0 / (1.0 + exp(-gate));
            let silu = gate * sigmoid;
            *dup = dh * silu;
            *dgate = dh * up * (sigmoid + silu * (1.0 - sigmoid));
        }
    }
}

per_isa! {
    fn weighted_row(gate: &mut [f32], up: &mut [f32], dh: &mut [f32], weight: f32) -> f32 {
        const LANES: usize = 16;
        let mut lanes = [0.0f32; LANES];
        let ((gates, gate_rest), (ups, up_rest)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks_mut::<LANES>());
        let (dhs, dh_rest) = dh.as_chunks_mut::<LANES>();
        for ((gate, up), dh) in gates.iter_mut().zip(ups).zip(dhs) {
            for (i, lane) in lanes.iter_mut().enumerate() {
                let (dot, gradients) = weighted(gate[i], up[i], dh[i], weight);
                *lane += dot;
                [gate[i], up[i], dh[i]] = gradients;
            }
        }
        let mut sum = lanes.iter().sum::<f32>();
        for ((gate, up), dh) in gate_rest.iter_mut().zip(up_rest).zip(dh_rest) {
            let (dot, gradients) = weighted(*gate, *up, *dh, weight);
            sum += dot;
            [*gate, *up, *dh] = gradients;
        }
        sum
    }
}

/// `dh · h`, and `dgate`, `dup` and `w · h`.
#[inline(always)]
fn weighted(gate: f32, up: f32, dh: f32, weight: f32) -> (f32, [f32; 3]) {
    let sigmoid = 1.0 / (1.0 + exp(-gate));
    let silu = gate * sigmoid;
    let (h, scaled) = (silu * up, weight * dh);
    (dh * h, [scaled * up * (sigmoid + silu * (1.0 - sigmoid)), scaled * silu, weight * h])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, dot, finite_differences, noise, on_every_isa, wide};
    use super::*;

    fn reference(gate_up: &[f64], width: usize) -> Vec<f64> {
        let row = |row: &[f64]| {
            (0..width).map(|i| row[i] / (1.0 + (-row[i]).exp()) * row[width + i]).collect::<Vec<_>>()
        };
        gate_up.chunks(2 * width).flat_map(row).collect()
    }

    #[test]
    fn forward_and_backward_over_odd_sizes() {
        for (rows, width) in [(1, 1), (3, 7), (5, 16), (9, 33)] {
            let gate_up: Vec<f32> = noise(rows * 2 * width, 1).iter().map(|x| 8.0 * x).collect();
            let dh = noise(rows * width, 2);
            let expected = [
                reference(&wide(&gate_up), width),
                finite_differences(&wide(&gate_up), |x| dot(&reference(x, width), &dh)),
            ];
            on_every_isa(
                |compute| {
                    let (mut h, mut dgate_up) = (vec![0.0; rows * width], vec![0.0; 2 * rows * width]);
                    forward_joint(compute, &gate_up, width, &mut h);
                    backward_joint(compute, &gate_up, width, &dh, &mut dgate_up);
                    vec![h, dgate_up]
                },
                |isa, got| {
                    assert_close(&format!("{isa} {rows}×{width} h"), &got[0], &expected[0], 1e-6);
                    assert_close(&format!("{isa} {rows}×{width} dgate_up"), &got[1], &expected[1], 1e-6);
                },
            );
        }
    }

    #[test]
    fn two_matrices_are_as_good_as_one() {
        let compute = Compute::with_isa(crate::Isa::best(), 2);
        let (rows, width) = (6, 11);
        let (gate_up, dh) = (noise(rows * 2 * width, 3), noise(rows * width, 4));
        let half = |half: usize| -> Vec<f32> {
            gate_up.chunks(2 * width).flat_map(|row| row[half * width..][..width].to_vec()).collect()
        };
        let (gate, up) = (half(0), half(1));
        let (gate, up) = (Rows::dense(&gate, width), Rows::dense(&up, width));
        let (mut joint, mut separate) = (vec![0.0; rows * width], vec![0.0; rows * width]);
        forward_joint(&compute, &gate_up, width, &mut joint);
        forward(&compute, gate, up, &mut separate);
        assert_eq!(joint, separate);
        let mut joint = vec![0.0; 2 * rows * width];
        let [mut dgate, mut dup] = [vec![0.0; rows * width], vec![0.0; rows * width]];
        backward_joint(&compute, &gate_up, width, &dh, &mut joint);
        let output = |values| Output { values, stride: width };
        backward(&compute, gate, up, &dh, output(&mut dgate), output(&mut dup));
        for (row, joint) in joint.chunks(2 * width).enumerate() {
            assert_eq!(joint[..width], dgate[row * width..][..width]);
            assert_eq!(joint[width..], dup[row * width..][..width]);
        }
    }
    #[test]
    fn weighted_rows_are_the_parts_one_by_one() {
        for (rows, width) in [(1, 1), (3, 7), (5, 16), (9, 33)] {
            for isa in crate::Isa::available() {
                let compute = Compute::with_isa(isa, 2);
                let [gate, up, dh] = [5, 6, 7].map(|seed| noise(rows * width, seed));
                let weights = noise(rows, 8);
                let (mut h, mut dots) = (vec![0.0; rows * width], vec![0.0; rows]);
                forward(&compute, Rows::dense(&gate, width), Rows::dense(&up, width), &mut h);
                let weighted: Vec<f32> =
                    dh.iter().enumerate().map(|(i, dh)| weights[i / width] * dh).collect();
                let [mut dgate, mut dup] = [vec![0.0; rows * width], vec![0.0; rows * width]];
                let output = |values| Output { values, stride: width };
                let halves = [&gate, &up].map(|half| Rows::dense(half, width));
                backward(&compute, halves[0], halves[1], &weighted, output(&mut dgate), output(&mut dup));
                let [mut a, mut b, mut c] = [gate, up, dh.clone()];
                backward_weighted(&compute, |row| weights[row], [&mut a, &mut b, &mut c], &mut dots);
                assert_close(&format!("{isa} dgate"), &a, &wide(&dgate), 1e-6);
                assert_close(&format!("{isa} dup"), &b, &wide(&dup), 1e-6);
                for row in 0..rows {
                    let part = row * width..(row + 1) * width;
                    let expected: f64 = dot(&wide(&h[part.clone()]), &dh[part.clone()]);
                    assert!((f64::from(dots[row]) - expected).abs() <= 1e-5, "{isa} row {row}");
                    let weighted_h: Vec<f64> =
                        h[part.clone()].iter().map(|h| f64::from(weights[row] * h)).collect();
                    assert_close(&format!("{isa} w · h"), &c[part], &weighted_h, 1e-6);
                }
            }
        }
    }
}
