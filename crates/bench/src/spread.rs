//! Median, minimum and maximum of repeats.

use serde::Serialize;

/// What repeats of one measurement gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even count the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All, in the order they were measured.
    pub samples: Vec<f64>,
}

impl Spread {
    /// Of some samples; `None` if there are none.
    pub fn of(samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median: (low + high) / 2.0, min, max, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(samples: &[f64], expected: Option<[f64; 3]>) {
        let spread = Spread::of(samples.to_vec());
        assert_eq!(spread.as_ref().map(|s| [s.median, s.min, s.max]), expected);
        assert_eq!(spread.map(|s| s.samples).unwrap_or_default(), samples, "in the order given");
    }

    #[test]
    fn median_min_max() {
        check(&[], None);
        check(&[3.0], Some([3.0, 3.0, 3.0]));
        check(&[4.0, 1.0], Some([2.5, 1.0, 4.0]));
        check(&[9.0, 1.0, 2.0], Some([2.0, 1.0, 9.0]));
        check(&[10.0, 9.0, 1.0, 2.0], Some([5.5, 1.0, 10.0]));
    }
}
