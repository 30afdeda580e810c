//! Exponentials and sums over a whole vocabulary, written so that the compiler can vectorize them.
//!
//! Each exponential is an `f32` (relative error below 2e-7), sums are `f64`. Sums add eight interleaved
//! lanes in a fixed order, so they depend on nothing but the numbers.

const LANES: usize = 8;

/// Below this, `exp` counts as 0: the next power of two down is no longer a normal `f32`.
const EXP_MIN: f32 = -87.0;

/// e^x for x ≤ 0, −inf included.
///
/// x = k·ln 2 + r with |r| ≤ ln 2 / 2; the Taylor polynomial of e^r to r^7 (next term: 5e-9), times 2^k by
/// writing k into the exponent bits.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    /// Adding this rounds to an integer and leaves it in the low bits: 1.5 · 2^23.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has nine bits, so k times it is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < EXP_MIN { EXP_MIN } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (clamped - k * LN2_HIGH) - k * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < EXP_MIN { 0.0 } else { p * power }
}

/// Σ values.
pub(crate) fn sum(values: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    add_to_lanes(&mut sums, values);
    sums.iter().sum()
}

/// Adds value i to lane i mod 8.
#[inline(always)]
fn add_to_lanes(sums: &mut [f64; LANES], values: &[f32]) {
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (sum, &value) in sums.iter_mut().zip(block) {
            *sum += f64::from(value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += f64::from(value);
    }
}

/// The weights e^((logit − best) / temperature) of logits that are finite or −inf.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    best: f32,
    inverse: f32,
}

impl Scale {
    /// `best` is the finite maximum of the logits: it weighs 1. `temperature` is above 0.
    pub(crate) fn new(best: f32, temperature: f32) -> Self {
        // A subnormal temperature has no finite inverse, and 0 · inf would make the best token's weight NaN.
        Scale { best, inverse: temperature.recip().min(f32::MAX) }
    }

    pub(crate) fn best(&self) -> f32 {
        self.best
    }

    #[inline(always)]
    pub(crate) fn weight(&self, logit: f32) -> f32 {
        exp_nonpositive((logit - self.best) * self.inverse)
    }

    pub(crate) fn weights(&self, logits: &[f32], out: &mut [f32]) {
        for (weight, &logit) in out.iter_mut().zip(logits) {
            *weight = self.weight(logit);
        }
    }

    /// Σ weights.
    pub(crate) fn total(&self, logits: &[f32]) -> f64 {
        // A buffer between the exponentials and the sums keeps each loop simple enough to be vectorized.
        let mut buffer = [0.0; 32 * LANES];
        let mut sums = [0.0; LANES];
        for chunk in logits.chunks(buffer.len()) {
            let weights = &mut buffer[..chunk.len()];
            self.weights(chunk, weights);
            add_to_lanes(&mut sums, weights);
        }
        sums.iter().sum()
    }
}

/// The greatest value, −inf for none. The values are not NaN.
pub(crate) fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (max, &value) in maxima.iter_mut().zip(block) {
            *max = larger(*max, value);
        }
    }
    maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// Whether no value is NaN or +inf.
pub(crate) fn all_below_infinity(values: &[f32]) -> bool {
    let mut above = [0u32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (above, &value) in above.iter_mut().zip(block) {
            // NaN compares false.
            *above |= u32::from(!matches!(value.partial_cmp(&f32::INFINITY), Some(std::cmp::Ordering::Less)));
        }
    }
    above.iter().all(|&above| above == 0) && rest.iter().all(|&value| value < f32::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_one() {
        let mut worst = 0.0f64;
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp_nonpositive(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2e-7, "relative error {worst:e}");
        assert_eq!(exp_nonpositive(0.0), 1.0);
        for x in [-87.5, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp_nonpositive(x), 0.0, "exp({x})");
        }
    }

    #[test]
    fn sums_and_maxima_cover_every_length() {
        for len in 0..40 {
            let values: Vec<f32> = (0..len).map(|i| ((i * 7) % 11) as f32 - 3.0).collect();
            assert_eq!(sum(&values), values.iter().map(|&v| f64::from(v)).sum::<f64>(), "length {len}");
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert!(all_below_infinity(&values));
            for at in 0..len {
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut values = values.clone();
                    values[at] = bad;
                    assert!(!all_below_infinity(&values), "{bad} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn totals_of_extremes() {
        let inf = f32::INFINITY;
        // (logits, temperature, expected)
        let rows: [(&[f32], f32, f64); 5] = [
            (&[1e30, -1e30, -inf], 1.0, 1.0),
            (&[f32::MIN, f32::MAX], 2.0, 1.0),
            (&[-1e30, -1e30, -1e30], 1.0, 3.0),
            (&[1.0, 0.0, 1.0], f32::from_bits(1), 2.0),
            (&[0.0; 1000], 1.0, 1000.0),
        ];
        for (logits, temperature, expected) in rows {
            assert_eq!(Scale::new(max(logits), temperature).total(logits), expected, "{logits:?}");
        }
    }
}
