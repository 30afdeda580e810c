//! The meaning of the two loops.

use super::Matrix;

pub(super) fn scores(a: Matrix<'_>, b: Matrix<'_>, dim: usize, out: &mut [f32], accumulate: bool) {
    for i in 0..a.rows {
        for j in 0..b.rows {
            let (x, y) = (&a.values[i * a.stride..][..dim], &b.values[j * b.stride..][..dim]);
            let dot: f32 = x.iter().zip(y).map(|(x, y)| x * y).sum();
            let out = &mut out[i * b.rows + j];
            *out = if accumulate { *out + dot } else { dot };
        }
    }
}

pub(super) fn mix(p: Matrix<'_>, v: Matrix<'_>, dim: usize, out: &mut [f32]) {
    for i in 0..p.rows {
        for t in 0..v.rows {
            let weight = p.values[i * p.stride + t];
            let values = &v.values[t * v.stride..][..dim];
            for (out, value) in out[i * dim..][..dim].iter_mut().zip(values) {
                *out += weight * value;
            }
        }
    }
}
