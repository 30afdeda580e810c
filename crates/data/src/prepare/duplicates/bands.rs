//! How a signature is cut into bands.

use crate::prepare::config::Deduplicate;

/// Bands, and the numbers in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bands {
    pub(crate) count: usize,
    pub(crate) rows: usize,
}

/// Two documents with the share `s` of common shingles agree in a band of `r` numbers with probability `s^r`, and in one of
/// `b` bands with `1 - (1 - s^r)^b` (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", §3.4.2).
fn found(similarity: f64, bands: usize, rows: usize) -> f64 {
    1.0 - (1.0 - similarity.powi(rows as i32)).powi(bands as i32)
}

impl Bands {
    /// Those of the configuration; by the threshold, if not given, so that wrongly found and wrongly missed pairs weigh
    /// equally (as in datasketch).
    pub(crate) fn of(deduplicate: &Deduplicate) -> Self {
        let Deduplicate { permutations, bands, threshold, .. } = *deduplicate;
        if let Some(count) = bands {
            return Self { count, rows: permutations / count };
        }
        let mut best = (f64::INFINITY, Self { count: 1, rows: permutations });
        for count in 1..=permutations {
            for rows in 1..=permutations / count {
                let error = error(threshold, count, rows);
                if error < best.0 {
                    best = (error, Self { count, rows });
                }
            }
        }
        best.1
    }
}

/// Area of wrongly found pairs below the threshold and of missed ones above.
fn error(threshold: f64, bands: usize, rows: usize) -> f64 {
    const STEPS: usize = 64;
    let middle = |from: f64, to: f64, step: usize| from + (to - from) * (step as f64 + 0.5) / STEPS as f64;
    let wrong: f64 = (0..STEPS).map(|step| found(middle(0.0, threshold, step), bands, rows)).sum();
    let missed: f64 = (0..STEPS).map(|step| 1.0 - found(middle(threshold, 1.0, step), bands, rows)).sum();
    (wrong * threshold + missed * (1.0 - threshold)) / STEPS as f64
}
