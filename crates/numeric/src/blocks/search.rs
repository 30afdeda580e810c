//! Scales for a block: the ones with the least weighted squared error, found by trying sixteen at once.
//!
//! Rounding `x / d` to levels leaves an error that jumps with `d`: the best scale can't be computed, it
//! must be looked for. The search has two passes over the block:
//!
//! 1. *propose*: each of sixteen starting scales rounds the block to levels `l`; the scale that fits those
//!    levels best is `Σ w·x·l / Σ w·l²` (with a minimum: two normal equations);
//! 2. *measure*: each of these sixteen rounds the block anew, and the one with the least `Σ w·(x - d·l)²`
//!    is taken.
//!
//! Against a search over 600 starts and both signs, on normal, Laplace and Student-t weights with codes of
//! 4 bits, this leaves 0.1 % more error; with a minimum, against 275 starts, up to 0.5 % (5 bits: 1 %).
//!
//! The inner loops run over the sixteen candidates, not over the block: no sum is reordered to become
//! vector code, so every ISA finds the same bytes.

/// Candidates tried at once: one AVX-512 register, four of SSE.
pub(super) const LANES: usize = 16;

/// One value for each candidate.
pub(super) type Lanes = [f32; LANES];

/// Adding and taking away `1.5·2²³` rounds to an integer, ties to even, if the magnitude is below `2²²`.
const ROUNDER: f32 = 12_582_912.0;

/// The nearest integer, ties to even, of a magnitude below `2²²`.
#[inline(always)]
pub(super) fn round_small(value: f32) -> f32 {
    (value + ROUNDER) - ROUNDER
}

/// Blocks whose weights are all smaller are zero in every format here: half the least f16 scale is `2⁻²⁵`.
pub(super) const SMALLEST: f32 = 1.0 / (1u32 << 26) as f32;

/// The values that a code can stand for, before its block's scale.
pub(super) trait Levels {
    /// Where the search starts: the level (not always a whole one) that the block's extreme falls on.
    const STARTS: Lanes;

    /// The level nearest to `value`.
    fn nearest(value: f32) -> f32;

    /// The code of the level nearest to `value`.
    fn code(value: f32) -> u8;
}

/// The integers from `LOW` to `HIGH`; code 0 is `LOW`.
pub(super) struct Integers<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Levels for Integers<LOW, HIGH> {
    /// The tenth start puts the extreme on `LOW` itself, as absmax scaling does.
    const STARTS: Lanes = {
        let mut starts = [0.0; LANES];
        let mut lane = 0;
        while lane < LANES {
            starts[lane] = LOW as f32 - 0.16 * (lane as f32 - 9.0);
            lane += 1;
        }
        starts
    };

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        round_small(value.clamp(LOW as f32, HIGH as f32))
    }

    #[inline(always)]
    fn code(value: f32) -> u8 {
        // The low byte of the rounded sum is the integer in two's complement.
        let rounded = value.clamp(LOW as f32, HIGH as f32) + ROUNDER;
        (rounded.to_bits() as u8).wrapping_sub(LOW as u8)
    }
}

/// The smallest and the largest of `x`, whose length is a multiple of [`LANES`].
#[inline(always)]
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for chunk in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let value = chunk[lane];
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
        }
    }
    // The lanes in halves: four steps of vector code where a fold would take fifteen.
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            let (a, b) = (low[lane + half], high[lane + half]);
            low[lane] = if a < low[lane] { a } else { low[lane] };
            high[lane] = if b > high[lane] { b } else { high[lane] };
        }
    }
    (low[0], high[0])
}

/// The element of largest magnitude, with its sign.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    let (low, high) = range(x);
    if -low > high { low } else { high }
}

/// `1 / value`, and 0 where that is no number: a scale of zero then asks for the level nearest to 0.
#[inline(always)]
pub(super) fn inverse(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / value }
}

/// [`inverse`] of each. (`array::map` would do it in a call, out of reach of the caller's ISA.)
#[inline(always)]
fn inverses(scales: &Lanes) -> Lanes {
    let mut inverses = [0.0; LANES];
    for lane in 0..LANES {
        inverses[lane] = inverse(scales[lane]);
    }
    inverses
}

/// The lane with the least error, and that error; the first of equals.
#[inline(always)]
pub(super) fn least(errors: &Lanes) -> (usize, f32) {
    let mut best = (0, f32::INFINITY);
    for (lane, &error) in errors.iter().enumerate() {
        if error < best.1 {
            best = (lane, error);
        }
    }
    best
}

/// `Σ w·(x - d·l)²` for sixteen scales, `l` the levels nearest to `x / d`.
#[inline(always)]
pub(super) fn scale_errors<V: Levels>(x: &[f32], w: &[f32], scales: &Lanes) -> Lanes {
    let inverses = inverses(scales);
    let mut errors = [0.0; LANES];
    for (&x, &w) in x.iter().zip(w) {
        for lane in 0..LANES {
            let miss = x - scales[lane] * V::nearest(x * inverses[lane]);
            errors[lane] += w * (miss * miss);
        }
    }
    errors
}

/// Sixteen scales of either sign, each fitted to the levels that one of the starts rounds `x` to, and what
/// `Σ w·(x - d·l)²` with those levels has beyond `Σ w·x²`. Zeroes for a block of zeroes.
#[inline(always)]
fn propose<V: Levels>(x: &[f32], w: &[f32]) -> (Lanes, Lanes) {
    let extreme = extreme(x);
    if extreme.abs() < SMALLEST {
        return Default::default();
    }
    let mut inverses = V::STARTS;
    for inverse in &mut inverses {
        *inverse /= extreme;
    }
    let (mut sum_xl, mut sum_ll) = ([0.0; LANES], [0.0; LANES]);
    for (&x, &w) in x.iter().zip(w) {
        for lane in 0..LANES {
            let level = V::nearest(x * inverses[lane]);
            let weighted = w * level;
            sum_xl[lane] += weighted * x;
            sum_ll[lane] += weighted * level;
        }
    }
    let (mut scales, mut errors) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        scales[lane] = if sum_ll[lane] > 0.0 { sum_xl[lane] / sum_ll[lane] } else { 0.0 };
        errors[lane] = -scales[lane] * sum_xl[lane];
    }
    (scales, errors)
}

/// The scale, of either sign, that represents `x` with the least error weighted by `w`; 0 for a block of
/// zeroes.
#[inline(always)]
pub(super) fn best_scale<V: Levels>(x: &[f32], w: &[f32]) -> f32 {
    let (scales, _) = propose::<V>(x, w);
    scales[least(&scale_errors::<V>(x, w, &scales)).0]
}

/// Nearly [`best_scale`] in half the time, for who measures afterwards: the best of the proposed ones.
#[inline(always)]
pub(super) fn good_scale<V: Levels>(x: &[f32], w: &[f32]) -> f32 {
    let (scales, errors) = propose::<V>(x, w);
    scales[least(&errors).0]
}

/// A scale and a minimum: weights are `scale·q + min`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) min: f32,
}

/// Sixteen of them.
#[derive(Clone, Copy, Default)]
pub(super) struct Affines {
    pub(super) scale: Lanes,
    pub(super) min: Lanes,
}

/// `Σ w·(scale·q + min - x)²` for sixteen pairs, `q` in `0..=HIGH` nearest to `(x - min) / scale`.
#[inline(always)]
pub(super) fn affine_errors<const HIGH: i32>(x: &[f32], w: &[f32], tried: &Affines) -> Lanes {
    let inverses = inverses(&tried.scale);
    let mut errors = [0.0; LANES];
    for (&x, &w) in x.iter().zip(w) {
        for lane in 0..LANES {
            let code = Integers::<0, HIGH>::nearest((x - tried.min[lane]) * inverses[lane]);
            let miss = tried.scale[lane] * code + tried.min[lane] - x;
            errors[lane] += w * (miss * miss);
        }
    }
    errors
}

/// The scale and minimum that represent `x` with the least error weighted by `w`. With `NEGATIVE` the
/// minimum is at most 0, as formats that store its magnitude need.
///
/// The starts are a grid: how many steps the block's range is divided into, and whether the grid begins at
/// the smallest weight or half a step above it.
#[inline(always)]
pub(super) fn best_affine<const HIGH: i32, const NEGATIVE: bool>(x: &[f32], w: &[f32]) -> Affine {
    let (mut low, high) = range(x);
    if NEGATIVE && low > 0.0 {
        low = 0.0;
    }
    let mut best = Affine { scale: 0.0, min: low };
    if high - low < SMALLEST {
        return best;
    }
    let mut best_error = f32::INFINITY;
    for shift in [0.0, 0.5] {
        let mut tried = Affines::default();
        for lane in 0..LANES {
            let steps = HIGH as f32 - 2.25 + 0.25 * lane as f32;
            tried.scale[lane] = (high - low) / steps;
            tried.min[lane] = low + shift * tried.scale[lane];
        }
        tried = fit::<HIGH, NEGATIVE>(x, w, &tried);
        let (lane, error) = least(&affine_errors::<HIGH>(x, w, &tried));
        if error < best_error {
            best_error = error;
            best = Affine { scale: tried.scale[lane], min: tried.min[lane] };
        }
    }
    best
}

/// The pairs that fit best the codes that `tried` rounds `x` to.
#[inline(always)]
fn fit<const HIGH: i32, const NEGATIVE: bool>(x: &[f32], w: &[f32], tried: &Affines) -> Affines {
    let inverses = inverses(&tried.scale);
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    let (mut sum_l, mut sum_ll, mut sum_xl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for (&x, &w) in x.iter().zip(w) {
        sum_w += w;
        sum_x += w * x;
        for lane in 0..LANES {
            let code = Integers::<0, HIGH>::nearest((x - tried.min[lane]) * inverses[lane]);
            let weighted = w * code;
            sum_l[lane] += weighted;
            sum_ll[lane] += weighted * code;
            sum_xl[lane] += weighted * x;
        }
    }
    let mut fitted = *tried;
    for lane in 0..LANES {
        let determinant = sum_w * sum_ll[lane] - sum_l[lane] * sum_l[lane];
        // Where (nearly) all weight lies on one code, the equations say nothing: the start stands.
        if determinant > 1e-5 * sum_w * sum_ll[lane] {
            fitted.scale[lane] = (sum_w * sum_xl[lane] - sum_x * sum_l[lane]) / determinant;
            fitted.min[lane] = (sum_ll[lane] * sum_x - sum_l[lane] * sum_xl[lane]) / determinant;
        }
        if NEGATIVE && fitted.min[lane] > 0.0 {
            fitted.min[lane] = 0.0;
            if sum_ll[lane] > 0.0 {
                fitted.scale[lane] = sum_xl[lane] / sum_ll[lane];
            }
        }
    }
    fitted
}
