//! What the tests of this folder share: numbers, comparisons, finite differences.

use crate::{Compute, Isa};

/// Numbers in -1..1 that look random and are the same in every run.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..8).for_each(|_| {
        next();
    });
    (0..len).map(|_| next()).collect()
}

/// The same numbers in f64.
pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

pub(crate) fn dot(a: &[f64], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

/// Asserts that all numbers agree within `tolerance` of the largest expected one.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let largest = expected.iter().fold(1e-3f64, |largest, e| largest.max(e.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*g) - e).abs();
        assert!(error <= tolerance * largest, "{what}[{i}] is {g}, expected {e} (largest {largest})");
    }
}

/// The gradient of `f` at `x` by central differences; in f64, so that it is good to about 1e-8.
pub(crate) fn finite_differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut at = x.to_vec();
    let mut difference = |i: usize| {
        at[i] = x[i] + STEP;
        let above = f(&at);
        at[i] = x[i] - STEP;
        let below = f(&at);
        at[i] = x[i];
        (above - below) / (2.0 * STEP)
    };
    (0..x.len()).map(&mut difference).collect()
}

/// Runs `operation` on every ISA of this machine with one and with three threads, asserts that both
/// give the same bits, and hands the results to `check`.
pub(crate) fn on_every_isa(operation: impl Fn(&Compute) -> Vec<Vec<f32>>, check: impl Fn(Isa, &[Vec<f32>])) {
    for isa in Isa::available() {
        let alone = operation(&Compute::with_isa(isa, 1));
        let together = operation(&Compute::with_isa(isa, 3));
        let bits = |results: &[Vec<f32>]| -> Vec<Vec<u32>> {
            results.iter().map(|values| values.iter().map(|value| value.to_bits()).collect()).collect()
        };
        assert!(bits(&alone) == bits(&together), "{isa}: the number of threads changes the result");
        check(isa, &alone);
    }
}
