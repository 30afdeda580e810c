//! What the formats of the latent cache cost: logits of the fixtures, decoded token by token with
//! each of them, against those with an f32 cache. The bounds are those of `docs/kernels/attention.md`.

use std::path::PathBuf;

use fathom_kernels::attention::CacheFormat;
use fathom_kernels::gemm::WeightFormat;
use fathom_kernels::{Compute, Isa};
use fathom_model::{
    AttentionForm, ForwardOptions, LoadOptions, LogitRows, Model, Segment, Sequence, Workspace,
};

fn model(name: &str, isa: Isa) -> Model {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let options = LoadOptions::new(WeightFormat::F32);
    Model::load(&dir, Compute::with_isa(isa, 2), options, &mut |_, _| {}).expect("the fixture loads")
}

/// Logits of all tokens, the first 70 at once, the others one by one.
fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut cache = model.new_cache(tokens.len()).expect("a small cache");
    let (mut workspace, mut sequence, mut all) = (Workspace::default(), Sequence::default(), Vec::new());
    let (head, tail) = tokens.split_at(70);
    for tokens in std::iter::once(head).chain(tail.chunks(1)) {
        let segment = Segment { sequence: &mut sequence, tokens, logits: LogitRows::All };
        let options =
            ForwardOptions { attention_form: Some(AttentionForm::Absorbed), ..ForwardOptions::default() };
        let logits = model.forward(&mut workspace, &mut cache, &mut [segment], options);
        all.extend_from_slice(logits.expect("runs"));
    }
    all
}

/// Mean Kullback-Leibler divergence per token, and the largest difference of two logits.
fn compare(exact: &[f32], actual: &[f32], vocab: usize) -> (f64, f32) {
    let softmax = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp: Vec<f64> = row.iter().map(|logit| f64::from(logit - max).exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.into_iter().map(|value| value / sum).collect()
    };
    let rows = exact.chunks_exact(vocab).zip(actual.chunks_exact(vocab));
    let divergence = |(exact, actual): (&[f32], &[f32])| -> f64 {
        softmax(exact)
            .iter()
            .zip(softmax(actual))
            .map(|(p, q)| if *p > 0.0 { p * (p / q).ln() } else { 0.0 })
            .sum()
    };
    let mean = rows.clone().map(divergence).sum::<f64>() / rows.len() as f64;
    (mean, exact.iter().zip(actual).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}

/// Most rounding changes a logit in the third decimal; the bounds leave room for an expert of these random
/// models that flips at a near tie, which alone made up to 0.012 here.
#[test]
fn logits_stay_within_the_bounds_of_the_format() {
    for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3"] {
        for isa in [Isa::Scalar, Isa::best()] {
            let mut model = model(name, isa);
            let vocab = model.config().vocab_size;
            let tokens: Vec<u32> = (0..100u32).map(|i| i * i * 7 % vocab as u32).collect();
            let exact = logits(&model, &tokens);
            for (format, bound) in
                [(CacheFormat::Bf16, 1e-3), (CacheFormat::Int8, 0.05), (CacheFormat::Fp8, 0.05)]
            {
                model.set_cache_format(Some(format));
                let (mean, worst) = compare(&exact, &logits(&model, &tokens), vocab);
                println!("{name} {isa} {format}: KL {mean:.2e}, logits within {worst:.1e}");
                assert!(mean < bound, "{name} {isa} {format}: KL {mean}, logits off by up to {worst}");
                assert!(worst > 0.0, "{name} {isa} {format}: nothing was rounded");
            }
            model.set_cache_format(None);
        }
    }
}
