//! Superblocks of 256 weights: the scales of the parts are themselves small integers times an f16.
//!
//! Each part's scale is first chosen as if it could be stored; then the f16, so that the largest of them is
//! reached; then, with that f16 given, each part's integers among the sixteen nearest, by the error that
//! really results.

use super::search::{
    Affine, Affines, LANES, Lanes, Levels, affine_errors, best_affine, good_scale, inverse, least,
    round_small, scale_errors,
};

/// Weights of a superblock.
pub(super) const LEN: usize = 256;

/// Parts of a superblock that have a scale and a minimum, of 32 weights each.
pub(super) const PARTS: usize = 8;

/// Chooses the scales of `COUNT` parts with codes `V`: integers in `lowest..-lowest` times what `store`
/// makes of the best factor.
#[inline(always)]
pub(super) fn signed_scales<V: Levels, const COUNT: usize>(
    x: &[f32; LEN],
    w: &[f32; LEN],
    lowest: f32,
    store: impl FnOnce(f32) -> f32,
) -> (f32, [f32; COUNT]) {
    let part = LEN / COUNT;
    let mut scales = [0.0f32; COUNT];
    let mut largest = 0.0f32;
    for (index, scale) in scales.iter_mut().enumerate() {
        let span = index * part..(index + 1) * part;
        *scale = good_scale::<V>(&x[span.clone()], &w[span]);
        if scale.abs() > largest.abs() {
            largest = *scale;
        }
    }
    // The largest takes the integer of largest magnitude, whatever its sign.
    let d = store(largest / lowest);
    for (index, scale) in scales.iter_mut().enumerate() {
        let span = index * part..(index + 1) * part;
        let middle = round_small((*scale * inverse(d)).clamp(lowest, -lowest));
        let (mut integers, mut tried): (Lanes, Lanes) = Default::default();
        for (lane, integer) in integers.iter_mut().enumerate() {
            *integer = (middle + lane as f32 - 8.0).clamp(lowest, -lowest - 1.0);
            tried[lane] = d * *integer;
        }
        let errors = scale_errors::<V>(&x[span.clone()], &w[span], &tried);
        *scale = integers[least(&errors).0];
    }
    (d, scales)
}

/// Chooses scales and minima of the eight parts with codes in `0..=HIGH`: integers in `0..64` times what
/// `store` makes of the best factors. The value of code `q` is `scale·q + min`, so `min` of the factors is
/// at most 0.
#[inline(always)]
pub(super) fn affine_scales<const HIGH: i32>(
    x: &[f32; LEN],
    w: &[f32; LEN],
    store: impl FnOnce(Affine) -> Affine,
) -> (Affine, [Affine; PARTS]) {
    let part = LEN / PARTS;
    let mut chosen = [Affine::default(); PARTS];
    let mut largest = Affine::default();
    for (index, chosen) in chosen.iter_mut().enumerate() {
        let span = index * part..(index + 1) * part;
        *chosen = best_affine::<HIGH, true>(&x[span.clone()], &w[span]);
        largest.scale = largest.scale.max(chosen.scale);
        largest.min = largest.min.min(chosen.min);
    }
    let d = store(Affine { scale: largest.scale / 63.0, min: largest.min / 63.0 });
    for (index, chosen) in chosen.iter_mut().enumerate() {
        let span = index * part..(index + 1) * part;
        let below = |ideal: f32| round_small(ideal.clamp(0.0, 63.0) - 0.5);
        let scale = below(chosen.scale * inverse(d.scale));
        let min = below(chosen.min * inverse(d.min));
        let (mut integers, mut tried) = (Affines::default(), Affines::default());
        for lane in 0..LANES {
            // Four scales by four minima, two on either side of the ideal.
            integers.scale[lane] = (scale + (lane % 4) as f32 - 1.0).clamp(0.0, 63.0);
            integers.min[lane] = (min + (lane / 4) as f32 - 1.0).clamp(0.0, 63.0);
            tried.scale[lane] = d.scale * integers.scale[lane];
            tried.min[lane] = d.min * integers.min[lane];
        }
        let (lane, _) = least(&affine_errors::<HIGH>(&x[span.clone()], &w[span], &tried));
        *chosen = Affine { scale: integers.scale[lane], min: integers.min[lane] };
    }
    (d, chosen)
}
