use fathom_kernels::{Compute, Isa};
use fathom_tensor::{Context, Parameter, Precision, Tape};
use proptest::prelude::*;

use super::*;
use crate::config::{AdamW, Muon, WithoutDecay};

fn context() -> Context {
    Context::new(Compute::with_isa(Isa::best(), 2), Precision::F32)
}

/// Numbers that repeat nowhere near.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    (0..count)
        .map(|i| {
            let mut x =
                (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD1B5_4A32_D192_ED03);
            x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((x >> 40) as f32 / (1u64 << 24) as f32) - 0.5
        })
        .collect()
}

/// Gives `parameter` the gradient `gradient`.
fn set_gradient(context: &Context, parameter: &Parameter, gradient: &[f32]) {
    parameter.clear_gradient();
    let tape = Tape::new(context);
    let weights = tape.constant(context.tensor(parameter.shape(), gradient));
    let loss = tape.parameter(parameter).mul(&weights).sum_all();
    tape.backward(&loss);
}

/// AdamW of one number in f64, from the paper.
fn plain_adamw(config: &AdamW, decay: f64, rate: f64, gradients: &[f64], mut value: f64) -> f64 {
    let ([b1, b2], mut m, mut v) = (config.betas, 0.0, 0.0);
    for (t, g) in (1..).zip(gradients) {
        m = b1 * m + (1.0 - b1) * g;
        v = b2 * v + (1.0 - b2) * g * g;
        let (m_hat, v_hat) = (m / (1.0 - b1.powi(t)), v / (1.0 - b2.powi(t)));
        value -= rate * (decay * value + m_hat / (v_hat.sqrt() + config.eps));
    }
    value
}

#[test]
fn adamw_is_the_papers() {
    let context = context();
    // More than one piece, and a ragged one.
    let shape = [9, 1000];
    let start = numbers(9000, 1);
    for moments in [Moments::F32, Moments::Bf16] {
        let config = AdamW { moments, clip: 0.0, ..AdamW::default() };
        let parameter = Parameter::new("w.weight", context.tensor(shape, &start));
        let parameters = [parameter.clone()];
        let mut optimizer = Optimizer::new(&config::Optimizer::Adamw(config.clone()), &parameters);
        let gradients: Vec<Vec<f32>> = (2..7).map(|seed| numbers(9000, seed)).collect();
        for gradient in &gradients {
            set_gradient(&context, &parameter, gradient);
            optimizer.step(&context, &parameters, Step { learning_rate: 1e-2, gradient_scale: 0.5 });
        }
        let tolerance = if moments == Moments::F32 { 1e-6 } else { 2e-3 };
        for i in [0, 1, 4095, 4096, 8999] {
            let of_element: Vec<f64> = gradients.iter().map(|g| f64::from(g[i]) * 0.5).collect();
            let want = plain_adamw(&config, 0.1, 1e-2, &of_element, f64::from(start[i]));
            let got = f64::from(parameter.value().values()[i]);
            assert!((got - want).abs() < tolerance, "{moments:?} {i}: {got}, expected {want}");
        }
    }
}

#[test]
fn spared_parameters_do_not_shrink() {
    let context = context();
    let named = |name: &str, shape: &[usize]| Parameter::new(name, context.full(shape, 1.0));
    let parameters =
        [named("model.norm.weight", &[4]), named("lm_head.weight", &[2, 4]), named("x.weight", &[2, 4])];
    let config = AdamW { without_decay: vec![WithoutDecay::Norms], ..AdamW::default() };
    let mut optimizer = Optimizer::new(&config::Optimizer::Adamw(config), &parameters);
    parameters.iter().for_each(|p| set_gradient(&context, p, &vec![0.0; p.value().elements()]));
    optimizer.step(&context, &parameters, Step { learning_rate: 0.1, gradient_scale: 1.0 });
    let values = parameters.map(|parameter| parameter.value().values()[0]);
    assert_eq!(values, [1.0, 0.99, 0.99]);
}

/// `XᵀX` (or `XXᵀ`) of an orthogonalized matrix is the identity, and the singular directions are kept: for a matrix
/// with orthogonal rows already, the result is those rows at unit length.
#[test]
fn newton_schulz_makes_orthogonal() {
    let context = context();
    for (count, rows, cols) in [(1, 4, 9), (3, 8, 5), (2, 6, 6)] {
        let mut matrices = numbers(count * rows * cols, 3);
        muon::orthogonalize(&context, &mut matrices, [count, rows, cols]);
        let small = rows.min(cols);
        for matrix in matrices.chunks_exact(rows * cols) {
            for i in 0..small {
                for j in 0..small {
                    let at = |a: usize, k: usize| {
                        if rows <= cols { matrix[a * cols + k] } else { matrix[k * cols + a] }
                    };
                    let dot: f32 = (0..rows.max(cols)).map(|k| at(i, k) * at(j, k)).sum();
                    let want = if i == j { 1.0 } else { 0.0 };
                    assert!((dot - want).abs() < 2e-2, "{rows}x{cols} [{i},{j}]: {dot}");
                }
            }
        }
    }
    let mut diagonal = vec![0.0; 12];
    (diagonal[0], diagonal[5], diagonal[10]) = (5.0, -0.3, 1.0);
    muon::orthogonalize(&context, &mut diagonal, [1, 3, 4]);
    let got = [diagonal[0], diagonal[5], diagonal[10]];
    assert!(got.iter().zip([1.0, -1.0, 1.0]).all(|(got, want)| (got - want).abs() < 1e-2), "{got:?}");
}

#[test]
fn muon_moves_by_its_root_mean_square() {
    let context = context();
    let parameters = [
        Parameter::new("x.weight", context.zeros([24, 40])),
        Parameter::new("experts.weight", context.zeros([3, 40, 24])),
        Parameter::new("model.embed_tokens.weight", context.zeros([10, 4])),
    ];
    let mut optimizer = Optimizer::new(&config::Optimizer::Muon(Muon::default()), &parameters);
    for (seed, parameter) in (5..).zip(&parameters) {
        set_gradient(&context, parameter, &numbers(parameter.value().elements(), seed));
    }
    optimizer.step(&context, &parameters, Step { learning_rate: 1.0, gradient_scale: 1.0 });
    for parameter in &parameters[..2] {
        let value = parameter.value();
        let squares: f32 = value.values().iter().map(|value| value * value).sum();
        let rms = (squares / value.elements() as f32).sqrt();
        assert!((rms - 0.18).abs() < 4e-3, "{}: {rms}", parameter.name());
    }
    let embedding = parameters[2].value();
    let moved = embedding.values().iter().all(|value| (value.abs() - 1.0).abs() < 1e-3);
    assert!(moved, "the first step of AdamW is the sign: {:?}", embedding.values());
    drop(embedding);
    let buffers = context.allocations();
    optimizer.step(&context, &parameters, Step { learning_rate: 1.0, gradient_scale: 1.0 });
    assert_eq!(context.allocations(), buffers, "a second step takes the buffers of the first");
}

#[test]
fn a_restored_optimizer_goes_on_as_if_nothing_had_been() {
    let context = context();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("optimizer.safetensors");
    for kind in [
        config::Optimizer::Adamw(AdamW::default()),
        config::Optimizer::Adamw(AdamW { moments: Moments::Bf16, ..AdamW::default() }),
        config::Optimizer::Muon(Muon::default()),
    ] {
        let make = |values: &[f32]| [Parameter::new("x.weight", context.tensor([70, 80], values))];
        let step = |optimizer: &mut Optimizer, parameters: &[Parameter], seed| {
            set_gradient(&context, &parameters[0], &numbers(5600, seed));
            optimizer.step(&context, parameters, Step { learning_rate: 0.01, gradient_scale: 1.0 });
        };
        let first = make(&numbers(5600, 1));
        let mut optimizer = Optimizer::new(&kind, &first);
        let mut average = Average::new(0.9, &first);
        (2..4).for_each(|seed| step(&mut optimizer, &first, seed));
        average.update(context.compute(), &first);
        optimizer.save(&file, Some(&average)).unwrap();

        let second = make(first[0].value().values());
        let mut restored = Optimizer::new(&kind, &second);
        let mut restored_average = Average::new(0.9, &second);
        restored.restore(&file, optimizer.steps(), Some(&mut restored_average)).unwrap();
        assert_eq!(restored_average.values, average.values);
        for seed in 4..6 {
            step(&mut optimizer, &first, seed);
            step(&mut restored, &second, seed);
        }
        assert_eq!(first[0].value().values(), second[0].value().values());

        let other = [Parameter::new("x.weight", context.zeros([80, 70]))];
        let error = Optimizer::new(&kind, &other).restore(&file, 2, None).unwrap_err().to_string();
        assert!(error.contains("another optimizer or another model"), "{error}");
    }
}

#[test]
fn the_norm_names_what_is_not_finite() {
    let context = context();
    let parameters = ["a.weight", "b.weight"].map(|name| Parameter::new(name, context.zeros([2, 2])));
    set_gradient(&context, &parameters[0], &[3.0, 0.0, 0.0, 0.0]);
    set_gradient(&context, &parameters[1], &[0.0, 4.0, 0.0, 0.0]);
    let norm = gradient_norm(context.compute(), &parameters, 0.5);
    assert_eq!(norm, GradientNorm { norm: 2.5, not_finite: None });
    assert!((norm.clipping(Some(1.0)) - 0.4).abs() < 1e-6);
    assert_eq!([norm.clipping(Some(3.0)), norm.clipping(None)], [1.0, 1.0]);
    set_gradient(&context, &parameters[1], &[0.0, f32::NAN, 0.0, 0.0]);
    assert_eq!(gradient_norm(context.compute(), &parameters, 1.0).not_finite.as_deref(), Some("b.weight"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn an_average_swapped_twice_is_itself(decay in 0.0f64..0.999, seed in 0u64..100) {
        let context = context();
        let parameters = [Parameter::new("x", context.tensor([70, 80], &numbers(5600, seed)))];
        let mut average = Average::new(decay, &parameters);
        parameters[0].update(|values, _| values.iter_mut().for_each(|value| *value += 1.0));
        average.update(context.compute(), &parameters);
        let expected = numbers(5600, seed)[4097] + (1.0 - decay as f32);
        prop_assert!((average.values[0].2[4097] - expected).abs() < 1e-5);
        let before = (parameters[0].value().values().to_vec(), average.values.clone());
        average.swap(&parameters);
        prop_assert_eq!(parameters[0].value().values().to_vec(), before.1[0].2.clone());
        average.swap(&parameters);
        prop_assert_eq!((parameters[0].value().values().to_vec(), average.values.clone()), before);
    }
}
