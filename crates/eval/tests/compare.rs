//! Two models side by side on a fixture.

use std::ops::ControlFlow;
use std::path::PathBuf;

use fathom_eval::{Comparison, Document, Windowing, calibrate, compare, perplexity};
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{LoadOptions, Model, Storage};

fn model(storage: Storage) -> Model {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-v3");
    Model::load(&dir, Compute::new(2).unwrap(), LoadOptions::new(storage), &mut |_, _| {}).unwrap()
}

fn document() -> Document {
    Document { bos: Some(0), tokens: (0..200).map(|i| 2 + i * 37 % 500).collect(), bytes: 400 }
}

const WINDOWING: Windowing = Windowing { window: 48, stride: 32 };

fn run(source: &Model, result: &Model) -> Comparison {
    compare(source, result, &document(), WINDOWING, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_model_is_no_distance_from_itself() {
    let model = model(WeightFormat::F32.into());
    let comparison = run(&model, &model);
    assert!(comparison.complete);
    assert_eq!(comparison.divergence.tokens(), 200);
    assert_eq!((comparison.divergence.mean_kl(), comparison.divergence.top1_agreement()), (0.0, 1.0));
    assert_eq!(comparison.layers.relative(), [0.0; 3]);
    let score = perplexity(&model, &document(), WINDOWING, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let [ours, _] = comparison.divergence.perplexities();
    assert!((ours / score.perplexity() - 1.0).abs() < 1e-4, "{ours}, expected {}", score.perplexity());
}

#[test]
fn fewer_bits_are_further_away() {
    let source = model(WeightFormat::F32.into());
    let quantized = |name: &str| model(Storage::quantized(Storage::preset(name).unwrap()));
    let kl = ["int8", "int4-g64"].map(|name| run(&source, &quantized(name)).divergence.mean_kl());
    assert!(0.0 < kl[0] && kl[0] < kl[1], "{kl:?}");
}

#[test]
fn every_matrix_of_the_main_layers_is_calibrated() {
    let model = model(WeightFormat::F32.into());
    let mut last = (0, 0);
    let mut progress = |done, total| {
        last = (done, total);
        ControlFlow::Continue(())
    };
    let importance = calibrate(&model, &document(), 48, &mut progress).unwrap().expect("not stopped");
    assert_eq!(last, (200, 200));
    for spec in fathom_model::manifest::tensors(model.config()) {
        let &[_, cols] = &spec.shape[..] else { continue };
        if spec.name == "model.embed_tokens.weight" || spec.name.ends_with("mlp.gate.weight") {
            continue;
        }
        let columns = importance.of(&spec.name, cols).unwrap_or_else(|| panic!("{} has none", spec.name));
        assert!(columns.iter().all(|&x| x.is_finite()) && columns.iter().any(|&x| x > 0.0), "{}", spec.name);
    }
    assert!(importance.of("model.layers.1.self_attn.k_b_proj.weight", 16).is_some());
    let stopped = calibrate(&model, &document(), 48, &mut |_, _| ControlFlow::Break(())).unwrap();
    assert_eq!(stopped, None);
}
