//! Quantized checkpoints: the inputs that calibration sees, what importance is for, and what is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fathom_checkpoint::names::{Attention, Ffn, Layer};
use fathom_checkpoint::{Checkpoint, Plan};
use fathom_kernels::Compute;
use fathom_kernels::gemm::{Rows, WeightFormat};
use fathom_model::quantize::{DirectoryOptions, Quantizer, Report};
use fathom_model::{
    Config, ForwardOptions, Importance, LoadOptions, LogitRows, Model, Observed, Segment, Sequence, Storage,
    Workspace,
};

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn compute() -> Compute {
    Compute::new(2).expect("two threads")
}

fn rows(values: Rows<'_>) -> Vec<Vec<f32>> {
    values.values.chunks(values.stride).map(|row| row[..values.cols].to_vec()).collect()
}

/// `x · Wᵀ` of a stored matrix.
fn product(checkpoint: &Checkpoint, name: &str, x: &[f32]) -> Vec<f64> {
    let rows = checkpoint.tensor(name).expect("stored").shape[0];
    let matrix = checkpoint.matrix(name, [rows, x.len()]).expect("a matrix");
    let mut weights = vec![0.0; rows * x.len()];
    matrix.rows_f32(0..rows, &mut weights).expect("finite");
    let dot = |row: &[f32]| row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
    weights.chunks_exact(x.len()).map(dot).collect()
}

#[track_caller]
fn close(got: &[f64], want: &[f32], what: &str) {
    let scale = want.iter().fold(1e-3f64, |max, &x| max.max(f64::from(x).abs()));
    let worst = got.iter().zip(want).map(|(a, &b)| (a - f64::from(b)).abs()).fold(0.0, f64::max);
    assert!(got.len() == want.len() && worst < 1e-4 * scale, "{what}: {worst} of {scale}");
}

/// Multiplying the inputs that an observer sees gives the outputs that it sees: no buffer was used again, no expert
/// is confused with another.
#[test]
fn observed_inputs_make_the_observed_outputs() {
    for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3"] {
        let options = LoadOptions::new(WeightFormat::F32);
        let model = Model::load(&dir(name), compute(), options, &mut |_, _| ()).expect("a model");
        let (config, checkpoint) = (model.config(), Checkpoint::open(&dir(name)).expect("a checkpoint"));
        let (hidden, tokens) = (config.hidden_size, [0u32, 17, 300, 17, 42, 99, 7]);
        let mut outputs: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        let mut seen = 0;
        let mut observer = |observed: Observed<'_>| match observed {
            Observed::AttentionInputs { layer, inputs } => {
                let width = config.num_attention_heads * config.v_head_dim;
                let o_proj = Layer(layer).attention(Attention::OProj);
                let out = inputs.values.chunks_exact(width).flat_map(|x| product(&checkpoint, &o_proj, x));
                outputs.insert(layer, out.map(|x| x as f32).collect());
                assert_eq!(inputs.latent.len(), tokens.len() * config.kv_lora_rank);
                assert_eq!(
                    inputs.q_latent.map(<[f32]>::len),
                    config.q_lora_rank.map(|rank| rank * tokens.len())
                );
                assert_eq!(rows(inputs.queries).len(), tokens.len());
            }
            Observed::AttentionOut { layer, values } => {
                let got: Vec<f64> = outputs[&layer].iter().map(|&x| f64::from(x)).collect();
                close(&got, values, &format!("{name} layer {layer} o_proj"));
                seen += 1;
            }
            Observed::FeedForwardInputs { layer, inputs } => {
                for (index, expert) in inputs.experts.iter().enumerate() {
                    // Shared experts are pieces of one matrix; their columns begin where the last ended.
                    let name_of = |part| match (inputs.routed, index) {
                        (0, _) => Layer(layer).mlp(part),
                        (routed, _) if index < routed => Layer(layer).expert(index, part),
                        _ => Layer(layer).shared_experts(part),
                    };
                    let first = index.saturating_sub(inputs.routed) * expert.inner.cols;
                    let all: Vec<usize> = (0..tokens.len()).collect();
                    let given = expert.rows.unwrap_or(&all);
                    for (&row, inner) in given.iter().zip(rows(expert.inner)) {
                        let x = &inputs.hidden[row * hidden..][..hidden];
                        let [gate, up] =
                            [Ffn::GateProj, Ffn::UpProj].map(|part| product(&checkpoint, &name_of(part), x));
                        let first = if index < inputs.routed { 0 } else { first };
                        let silu = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u);
                        let want: Vec<f64> = silu.skip(first).take(inner.len()).collect();
                        close(&want, &inner, &format!("{name} layer {layer} expert {index} row {row}"));
                        seen += 1;
                    }
                }
            }
            _ => {}
        };
        let (mut workspace, mut cache) = (Workspace::default(), model.new_cache(16).expect("a small cache"));
        let options = ForwardOptions { observer: Some(&mut observer), ..ForwardOptions::default() };
        let mut sequence = Sequence::default();
        let segment = Segment { sequence: &mut sequence, tokens: &tokens, logits: LogitRows::None };
        model.forward(&mut workspace, &mut cache, &mut [segment], options).expect("a pass");
        assert!(seen > 3 * tokens.len(), "{seen}");
    }
}

fn quantize(
    source: &Path,
    plan: &Plan,
    importance: Option<&Importance>,
    to: &Path,
    stop: u64,
) -> Option<Report> {
    let config = Config::read(source).expect("valid");
    let checkpoint = config.open_checkpoint(source).expect("a checkpoint");
    let compute = compute();
    let quantizer =
        Quantizer { config: &config, checkpoint: &checkpoint, compute: &compute, plan, importance };
    let options = DirectoryOptions {
        config_json: fs::read_to_string(source.join("config.json")).expect("it is there"),
        files: Vec::new(),
        max_shard_bytes: 200_000,
        overwrite: false,
    };
    let mut progress = |done, total| {
        assert!(done <= total);
        if done > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    quantizer.write_directory(to, &options, &mut progress).expect("written")
}

/// Σ importance · (x - x̂)² of a matrix.
fn weighted_error(result: &Path, name: &str, shape: [usize; 2], importance: &[f32]) -> f64 {
    let read = |dir: &Path| {
        let config = Config::read(dir).expect("valid");
        let checkpoint = config.open_checkpoint(dir).expect("a checkpoint");
        let mut values = vec![0.0; shape[0] * shape[1]];
        checkpoint.matrix(name, shape).expect("a matrix").rows_f32(0..shape[0], &mut values).expect("finite");
        values
    };
    let (source, result) = (read(&dir("tiny-v3")), read(result));
    let columns = importance.iter().cycle();
    let term = |((&x, &y), &weight): ((&f32, &f32), &f32)| f64::from(weight) * f64::from(x - y).powi(2);
    source.iter().zip(&result).zip(columns).map(term).sum()
}

#[test]
fn calibration_lessens_the_weighted_error() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (name, shape) = ("model.layers.0.mlp.down_proj.weight", [136, 160]);
    let columns: Vec<f32> = (0..shape[1]).map(|col| if col % 7 == 0 { 100.0 } else { 0.1 }).collect();
    let importance = Importance::from_columns([(name.to_owned(), columns.clone())]);
    for (format, gain) in [("q4_0", 0.95), ("q4_1", 0.95), ("iq4_nl", 0.95), ("int4-g64", 0.95)] {
        let plan = Storage::preset(format).expect("listed");
        let [with, without] = [Some(&importance), None].map(|importance| {
            let to = scratch.path().join(format!("{format}-{}", importance.is_some()));
            quantize(&dir("tiny-v3"), &plan, importance, &to, u64::MAX).expect("not stopped");
            weighted_error(&to, name, shape, &columns)
        });
        assert!(with < gain * without, "{format}: {with} with importance, {without} without");
    }
}

#[test]
fn what_is_stopped_leaves_nothing() {
    let scratch = tempfile::tempdir().expect("a directory");
    let plan = Storage::preset("int8").expect("listed");
    let to = scratch.path().join("model");
    assert_eq!(quantize(&dir("tiny-v3"), &plan, None, &to, 300_000), None);
    assert!(!to.exists());
    let report = quantize(&dir("tiny-v3"), &plan, None, &to, u64::MAX).expect("not stopped");
    assert!(report.files.len() > 3, "shards, index and config.json: {:?}", report.files);
    assert!((8.2..20.0).contains(&report.bits_per_weight()), "{}", report.bits_per_weight());
    assert_eq!(fs::read_dir(&to).expect("it is there").count(), report.files.len());
}

#[test]
fn importance_survives_its_file() {
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("importance.safetensors");
    let importance = Importance::from_columns([
        ("a".to_owned(), vec![1.5, 0.0]),
        ("b".to_owned(), vec![f32::MIN_POSITIVE]),
    ]);
    importance.save(&file).expect("written");
    assert_eq!(Importance::load(&file).expect("readable"), importance);
    Importance::from_columns([("a".to_owned(), vec![-1.0])]).save(&file).expect("written");
    let message = Importance::load(&file).expect_err("negative").to_string();
    assert!(message.contains("importance.safetensors") && message.contains("negative"), "{message}");
}
