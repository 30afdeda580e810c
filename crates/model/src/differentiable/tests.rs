//! The differentiable form against transformers (losses, gradients, steps of AdamW) and against the serving form.

use std::collections::HashMap;
use std::path::PathBuf;

use fathom_checkpoint::Checkpoint;
use fathom_kernels::{Compute, Isa};
use fathom_tensor::{Context, Packing, Precision, Tape};

use super::{Balance, Batch, DifferentiableModel, PassOptions};

fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn context(threads: usize) -> Context {
    Context::new(Compute::with_isa(Isa::best(), threads), Precision::F32)
}

/// The batch of `train.safetensors`.
fn golden_batch(golden: &Checkpoint) -> Batch {
    let ids = golden.tensor("input_ids").unwrap();
    let [batch, length] = ids.shape[..] else { panic!("a batch of sequences") };
    let tokens = ids.to_i64().unwrap().into_iter().map(|id| id as u32).collect();
    Batch { batch, seq: length - 1, tokens, documents: None, learn: None }
}

/// Loss and gradients by name.
fn gradients(
    model: &DifferentiableModel,
    batch: &Batch,
    options: &PassOptions,
) -> (f32, HashMap<String, Vec<f32>>) {
    model.parameters().iter().for_each(|parameter| parameter.clear_gradient());
    let tape = Tape::new(model.context());
    let losses = model.losses(&tape, batch, options).unwrap();
    tape.backward(&losses.total);
    let named = model.named_gradients();
    (losses.total.value().item(), named.iter().map(|g| (g.name.clone(), g.values().to_vec())).collect())
}

/// The largest error beyond `1e-6` as a share of the largest gradient of the tensor.
#[track_caller]
fn check_golden(name: &str, loss: f32) {
    let golden = Checkpoint::open(&dir(name).join("train.safetensors")).unwrap();
    let model = DifferentiableModel::load(&dir(name), &context(2), false).unwrap();
    let (got, gradients) = gradients(&model, &golden_batch(&golden), &PassOptions::PLAIN);
    assert!((got - loss).abs() <= 1e-5, "{name}: loss {got}, transformers {loss}");
    let wanted: Vec<&str> = golden.names().filter_map(|name| name.strip_prefix("grad.")).collect();
    assert_eq!(wanted.len(), gradients.len(), "{name}: a gradient for every parameter");
    for tensor in wanted {
        let expected = golden.tensor(&format!("grad.{tensor}")).unwrap().to_f32().unwrap();
        let scale = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for (got, expected) in gradients[tensor].iter().zip(&expected) {
            let error = (got - expected).abs();
            assert!(error <= (1e-4 * scale).max(1e-6), "{name} {tensor}: {got}, transformers {expected}");
        }
    }
}

#[test]
fn gradients_are_transformers() {
    check_golden("tiny-v2-lite", 8.313_415);
    check_golden("tiny-v3", 8.489_213);
    check_golden("tiny-gqa", 5.180_822);
}

#[test]
fn logits_are_the_serving_forms_references() {
    for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8", "tiny-v3-mtp"] {
        let golden = Checkpoint::open(&dir(name).join("golden.safetensors")).unwrap();
        let model = DifferentiableModel::load(&dir(name), &context(2), true).unwrap();
        for sequence in 0..5 {
            let ids = golden.tensor(&format!("seq{sequence}.input_ids")).unwrap().to_i64().unwrap();
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            let expected = golden.tensor(&format!("seq{sequence}.logits")).unwrap().to_f32().unwrap();
            let got = model.logits(&ids, 1).unwrap();
            let worst = got.values().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(got.elements() == expected.len() && worst <= 2e-4, "{name} seq{sequence}: {worst}");
        }
    }
}

/// A batch of the fixture's vocabulary.
fn batch(batch: usize, seq: usize) -> Batch {
    let tokens = (0..batch * (seq + 1)).map(|i| (i * 37 % 400 + 5) as u32).collect();
    Batch { batch, seq, tokens, documents: None, learn: None }
}

const EVERYTHING: PassOptions = PassOptions {
    mtp_weight: 0.3,
    balance: Balance { expert: 0.01, device: 0.02, communication: 0.03, sequence: 0.04 },
    recompute: false,
};

#[test]
fn recomputation_threads_and_packing_change_nothing() {
    let run_in = |context: Context, recompute| {
        let model = DifferentiableModel::load(&dir("tiny-v3-mtp"), &context, true).unwrap();
        gradients(&model, &batch(2, 9), &PassOptions { recompute, ..EVERYTHING })
    };
    let run = |threads, recompute| run_in(context(threads), recompute);
    let plain = run(2, false);
    assert!(plain == run(2, true), "recomputed");
    assert!(plain == run(1, false), "one thread");
    let each_use = Context::with_packing(Compute::new(2).unwrap(), Precision::F32, Packing::EachUse);
    assert!(plain == run_in(each_use, false), "packed for each use");
}

#[test]
fn documents_side_by_side_are_documents_apart() {
    let model = DifferentiableModel::load(&dir("tiny-v3"), &context(2), false).unwrap();
    let whole = batch(1, 12);
    let packed =
        Batch { documents: Some((0..12).map(|i| if i < 5 { 0 } else { 5 }).collect()), ..whole.clone() };
    let losses = |batch: &Batch| {
        let tape = Tape::without_gradients(model.context());
        model.losses(&tape, batch, &PassOptions::PLAIN).unwrap().per_token.values().to_vec()
    };
    let second = Batch { seq: 7, tokens: whole.tokens[5..].to_vec(), ..whole.clone() };
    let (packed, second, whole) = (losses(&packed), losses(&second), losses(&whole));
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(close(&packed[5..], &second) && close(&packed[..5], &whole[..5]));
    assert!(!close(&packed[5..], &whole[5..]));
}

#[test]
fn only_targets_that_count_have_a_loss() {
    let model = DifferentiableModel::load(&dir("tiny-v3"), &context(2), false).unwrap();
    let learn: Vec<bool> = (0..8).map(|i| i % 3 == 0).collect();
    let masked = Batch { learn: Some(learn.clone()), ..batch(1, 8) };
    let tape = Tape::without_gradients(model.context());
    let losses = model.losses(&tape, &masked, &PassOptions::PLAIN).unwrap();
    let counted: Vec<f32> =
        losses.per_token.values().iter().zip(&learn).filter(|(_, l)| **l).map(|(v, _)| *v).collect();
    let mean = counted.iter().sum::<f32>() / counted.len() as f32;
    assert!((losses.main - mean).abs() < 1e-5);
}

#[test]
fn the_bias_moves_against_the_load() {
    let model = DifferentiableModel::load(&dir("tiny-v3"), &context(1), false).unwrap();
    let biases = || -> Vec<Vec<f32>> {
        let all = model.named_values();
        let of = all.iter().filter(|named| named.name.ends_with("e_score_correction_bias"));
        of.map(|named| named.values().to_vec()).collect()
    };
    let before = biases();
    let mut tokens = vec![vec![10u32; 12]; before.len()];
    (tokens[0][0], tokens[0][1]) = (16, 4);
    model.update_biases(&tokens, 0.5);
    let after = biases();
    assert_eq!(after[0][0], before[0][0] - 0.5);
    assert_eq!(after[0][1], before[0][1] + 0.5);
    assert_eq!(after[0][2..], before[0][2..]);
    assert_eq!(after[1], before[1]);
}

#[test]
fn random_weights_follow_the_seed_and_have_the_deviation_asked_for() {
    let config = crate::Config::read(&dir("tiny-v3")).unwrap();
    let weights = |seed| {
        let model = DifferentiableModel::random(config.clone(), &context(1), 0.006, seed).unwrap();
        model.named_values()[0].values().to_vec()
    };
    let (first, again, other) = (weights(1), weights(1), weights(2));
    assert!(first == again && first != other);
    let deviation = (first.iter().map(|x| x * x).sum::<f32>() / first.len() as f32).sqrt();
    assert!((deviation - 0.006).abs() < 2e-4, "{deviation}");
}
