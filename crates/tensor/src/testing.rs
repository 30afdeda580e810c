//! Finite differences, to which every backward rule is held: for tests of operations and of new layers.

use fathom_kernels::{Compute, Isa};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{Context, Precision, Tape, Tensor, Var};

/// A context of two threads and f32 products.
pub fn context() -> Context {
    Context::new(Compute::with_isa(Isa::best(), 2), Precision::F32)
}

/// Numbers between -1 and 1.
pub fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect()
}

/// Compares the gradients of `function` at random points with central differences. The results are weighed with random
/// numbers, so that every element's gradient counts.
///
/// # Panics
/// If a gradient differs by more than 2e-3 of its size, or of 1.
#[track_caller]
pub fn check_gradients(shapes: &[&[usize]], function: impl Fn(&[Var]) -> Var) {
    let points: Vec<Vec<f32>> =
        shapes.iter().enumerate().map(|(i, shape)| random(shape.iter().product(), 7 + i as u64)).collect();
    check_gradients_at(shapes, &points, function);
}

/// The same at given points, for functions with kinks or poles.
///
/// # Panics
/// As [`check_gradients`].
#[track_caller]
pub fn check_gradients_at(shapes: &[&[usize]], points: &[Vec<f32>], function: impl Fn(&[Var]) -> Var) {
    let context = context();
    let tensors = |points: &[Vec<f32>]| -> Vec<Tensor> {
        shapes.iter().zip(points).map(|(shape, values)| context.tensor(*shape, values)).collect()
    };
    let tape = Tape::new(&context);
    let inputs: Vec<Var> = tensors(points).into_iter().map(|value| tape.input(value)).collect();
    let result = function(&inputs);
    let weights = random(result.value().elements(), 99);
    let gradients = tape.backward_from(&[(&result, context.tensor(result.shape(), &weights))]);

    let loss = |points: &[Vec<f32>]| -> f64 {
        let tape = Tape::without_gradients(&context);
        let inputs: Vec<Var> = tensors(points).into_iter().map(|value| tape.constant(value)).collect();
        let result = function(&inputs);
        result.value().values().iter().zip(&weights).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum()
    };
    // Sums of f32 round at about 1e-7: this step balances that against the curvature.
    let step = 1e-2f32;
    for (input, var) in inputs.iter().enumerate() {
        let gradient = gradients.of(var).unwrap_or_else(|| panic!("input {input} has no gradient"));
        for element in 0..points[input].len() {
            let moved = |by: f32| {
                let mut points = points.to_vec();
                points[input][element] += by;
                loss(&points)
            };
            let (step, half) = (f64::from(step), f64::from(step) / 2.0);
            let wide = (moved(step as f32) - moved(-step as f32)) / (2.0 * step);
            let narrow = (moved(half as f32) - moved(-half as f32)) / (2.0 * half);
            // Richardson: the error of order step² cancels.
            let expected = (4.0 * narrow - wide) / 3.0;
            let got = f64::from(gradient.values()[element]);
            assert!(
                (got - expected).abs() <= 2e-3 * (1.0 + expected.abs()),
                "gradient of element {element} of input {input}: {got}, by differences {expected}"
            );
        }
    }
}
