//! The softmax of 16 rows at a time, in blocks of keys: every lane is a row of its own.
//!
//! Scores come in units of ln 2 (queries are multiplied by [`LOG2_E`] beforehand, together with
//! the scale), so that a weight is a power of two.

use super::LANES;
use crate::math::per_isa;

pub(super) use std::f32::consts::LOG2_E;

/// The largest score so far and the sum of `2^(score - max)`, per row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Running {
    pub(super) max: [f32; LANES],
    pub(super) sum: [f32; LANES],
}

impl Running {
    pub(super) const EMPTY: Running = Running { max: [f32::NEG_INFINITY; LANES], sum: [0.0; LANES] };

    /// Maximum and sum of one row.
    pub(super) fn of(&self, lane: usize) -> [f32; 2] {
        [self.max[lane], self.sum[lane]]
    }

    pub(super) fn set(&mut self, lane: usize, [max, sum]: [f32; 2]) {
        (self.max[lane], self.sum[lane]) = (max, sum);
    }
}

per_isa! {
    /// Takes in the scores `[keys, 16]` of the next keys and turns them into weights relative to
    /// the new maximum. Row `i` sees the first `visible[i]` of them. `keep` becomes what earlier
    /// sums have to be multiplied by.
    pub(super) fn absorb(
        scores: &mut [[f32; LANES]],
        visible: &[usize; LANES],
        running: &mut Running,
        keep: &mut [f32; LANES],
    ) {
        if visible.iter().any(|&visible| visible < scores.len()) {
            for (key, scores) in scores.iter_mut().enumerate() {
                for (score, &visible) in scores.iter_mut().zip(visible) {
                    *score = if key < visible { *score } else { f32::NEG_INFINITY };
                }
            }
        }
        let mut max = running.max;
        for scores in scores.iter() {
            for (max, score) in max.iter_mut().zip(scores) {
                *max = if *score > *max { *score } else { *max };
            }
        }
        // A row that has seen nothing yet has no maximum to be relative to.
        let mut base = [0.0; LANES];
        for (base, &max) in base.iter_mut().zip(&max) {
            *base = if max == f32::NEG_INFINITY { 0.0 } else { max };
        }
        let mut sum = [0.0; LANES];
        for scores in scores.iter_mut() {
            for lane in 0..LANES {
                scores[lane] = exp2(scores[lane] - base[lane]);
                sum[lane] += scores[lane];
            }
        }
        for lane in 0..LANES {
            keep[lane] = exp2(running.max[lane] - base[lane]);
            running.sum[lane] = running.sum[lane] * keep[lane] + sum[lane];
        }
        running.max = max;
    }
}

/// `2^x` for `x ≤ 0`, to about one unit in the last place; 0 below -126.
///
/// As [`crate::math::exp`], with less to take apart: `x = n + r`, a polynomial in `r` (the series
/// of `2^r`, last terms bent to the interval ±1/2), and `n` put into the exponent.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -126.0 { x } else { -126.0 };
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    let mut p = 1.535_336_2e-4;
    p = p * r + 1.339_887_4e-3;
    p = p * r + 9.618_437e-3;
    p = p * r + 5.550_332_5e-2;
    p = p * r + 2.402_264_8e-1;
    p = p * r + 6.931_472e-1;
    p = p * r + 1.0;
    let value = p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x > -126.0 { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Blocks of 3 and 2 keys give what one softmax over 5 gives, whatever each row sees of them.
    #[test]
    fn blocks_give_the_softmax_of_all_keys() {
        let score = |key: usize, lane: usize| ((key * 7 + lane * 5) % 11) as f32 - 4.0;
        for isa in Isa::available() {
            let (mut running, mut weights, mut seen) = (Running::EMPTY, Vec::new(), [0; LANES]);
            for keys in [0..3usize, 3..5] {
                let mut scores: Vec<[f32; LANES]> =
                    keys.clone().map(|key| std::array::from_fn(|lane| score(key, lane))).collect();
                let visible = std::array::from_fn(|lane| lane.saturating_sub(keys.start).min(keys.len()));
                let mut keep = [f32::NAN; LANES];
                absorb(isa, &mut scores, &visible, &mut running, &mut keep);
                weights.iter_mut().for_each(|row: &mut [f32; LANES]| {
                    row.iter_mut().zip(keep).for_each(|(weight, keep)| *weight *= keep);
                });
                weights.extend(scores);
                seen = std::array::from_fn(|lane| seen[lane] + visible[lane]);
            }
            assert_eq!(running.sum[0], 0.0, "the first row saw nothing");
            for lane in 1..LANES {
                let exact: Vec<f64> = (0..seen[lane]).map(|key| f64::from(score(key, lane)).exp2()).collect();
                let sum: f64 = exact.iter().sum();
                for (key, row) in weights.iter().enumerate() {
                    let expected = exact.get(key).map_or(0.0, |exact| exact / sum);
                    let actual = f64::from(row[lane] / running.sum[lane]);
                    assert!((actual - expected).abs() < 1e-6, "{isa} {key} {lane}: {actual} {expected}");
                }
            }
        }
    }

    #[test]
    fn powers_of_two_are_within_two_units() {
        let mut x = -125.9f32;
        while x <= 0.0 {
            let (ours, exact) = (f64::from(exp2(x)), f64::from(x).exp2());
            assert!((ours / exact - 1.0).abs() < 2.5e-7, "2^{x} = {ours}, not {exact}");
            x += 0.0137;
        }
        assert_eq!([f32::NEG_INFINITY, -127.0, -1.0, 0.0].map(exp2), [0.0, 0.0, 0.5, 1.0]);
        assert!(exp2(f32::NAN).is_nan() || exp2(f32::NAN) == 0.0);
    }
}
