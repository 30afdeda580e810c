//! A curve over steps, thinned so that both its ends and its spikes stay visible.

/// Buckets that a curve is thinned to.
const BUCKETS: usize = 640;

/// Values over steps, in order.
#[derive(Debug, Default)]
pub(super) struct Curve {
    points: Vec<(u64, f64)>,
    /// Steps whose value was NaN or infinite.
    pub(super) not_finite: Vec<u64>,
}

/// What is left of some neighbouring points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bucket {
    /// Mean step.
    pub(super) step: u64,
    /// Mean value.
    pub(super) mean: f64,
    /// Smallest value.
    pub(super) low: f64,
    /// Largest value.
    pub(super) high: f64,
}

impl Curve {
    pub(super) fn push(&mut self, step: u64, value: f64) {
        if value.is_finite() {
            self.points.push((step, value));
        } else {
            self.not_finite.push(step);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty() && self.not_finite.is_empty()
    }

    pub(super) fn last(&self) -> Option<(u64, f64)> {
        self.points.last().copied()
    }

    /// The step with the smallest value.
    pub(super) fn lowest(&self) -> Option<(u64, f64)> {
        self.points.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    pub(super) fn highest(&self) -> Option<(u64, f64)> {
        self.points.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The value that half of the points are below.
    pub(super) fn median(&self) -> Option<f64> {
        let mut values: Vec<f64> = self.points.iter().map(|point| point.1).collect();
        if values.is_empty() {
            return None;
        }
        let middle = values.len() / 2;
        Some(*values.select_nth_unstable_by(middle, f64::total_cmp).1)
    }

    /// Mean of the last `count` values.
    pub(super) fn recent(&self, count: usize) -> Option<f64> {
        let last = &self.points[self.points.len().saturating_sub(count)..];
        (!last.is_empty()).then(|| last.iter().map(|point| point.1).sum::<f64>() / last.len() as f64)
    }

    /// The curve in at most about [`BUCKETS`] pieces. Half of the bounds are spread evenly and half
    /// evenly in the logarithm, so that the beginning is still there when the axis is logarithmic.
    pub(super) fn thinned(&self) -> Vec<Bucket> {
        let count = self.points.len();
        if count <= BUCKETS {
            return self.points.chunks(1).map(bucket).collect();
        }
        let half = BUCKETS / 2;
        let even = (1..=half).map(|part| count * part / half);
        let logarithmic =
            (1..=half).map(|part| (count as f64).powf(part as f64 / half as f64).ceil() as usize);
        let mut bounds: Vec<usize> =
            [1].into_iter().chain(even).chain(logarithmic).map(|bound| bound.min(count)).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let mut start = 0;
        bounds
            .into_iter()
            .map(|bound| {
                let piece = bucket(&self.points[start..bound]);
                start = bound;
                piece
            })
            .collect()
    }
}

fn bucket(points: &[(u64, f64)]) -> Bucket {
    let count = points.len() as f64;
    let step = points.iter().map(|point| point.0 as f64).sum::<f64>() / count;
    let low = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    // Divided first and clamped: the sum of large values overflows.
    let mean = points.iter().map(|point| point.1 / count).sum::<f64>().clamp(low, high);
    Bucket { step: step.round() as u64, mean, low, high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_keeps_its_beginning_its_end_and_its_spike() {
        let mut curve = Curve::default();
        for step in 1..=300_000 {
            curve.push(step, if step == 123_456 { 99.0 } else { 1.0 });
        }
        curve.push(300_001, f64::NAN);
        let thinned = curve.thinned();
        assert!(thinned.len() <= BUCKETS + 1, "{}", thinned.len());
        assert_eq!(thinned[0], Bucket { step: 1, mean: 1.0, low: 1.0, high: 1.0 });
        assert!(thinned.iter().filter(|bucket| bucket.step < 1000).count() > 100, "detail for a log axis");
        assert!(thinned.last().unwrap().step > 299_000);
        let spikes: Vec<_> = thinned.iter().filter(|bucket| bucket.high == 99.0).collect();
        assert!(spikes.len() == 1 && spikes[0].low == 1.0);
        assert!(thinned.is_sorted_by_key(|bucket| bucket.step));
        assert_eq!(curve.not_finite, [300_001]);
    }

    #[test]
    fn a_short_curve_stays_as_it_is() {
        let mut curve = Curve::default();
        assert!(curve.is_empty() && curve.thinned().is_empty() && curve.median().is_none());
        for (step, value) in [(1, 3.0), (2, 1.0), (3, 2.0)] {
            curve.push(step, value);
        }
        assert_eq!(curve.thinned().len(), 3);
        assert_eq!(curve.median(), Some(2.0));
        assert_eq!((curve.lowest(), curve.highest()), (Some((2, 1.0)), Some((1, 3.0))));
        assert_eq!((curve.recent(2), curve.recent(9)), (Some(1.5), Some(2.0)));
    }

    #[test]
    fn extreme_values_do_not_overflow_the_mean() {
        let mut curve = Curve::default();
        (0..5000).for_each(|step| curve.push(step, f64::MAX));
        assert!(curve.thinned().iter().all(|bucket| bucket.mean.is_finite()));
    }
}
