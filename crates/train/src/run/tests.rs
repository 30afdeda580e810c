use std::fs;
use std::path::{Path, PathBuf};

use fathom_data::DatasetWriter;
use fathom_kernels::gemm::WeightFormat;
use fathom_kernels::{Compute, Isa};
use fathom_model::differentiable::{AdapterOptions, DifferentiableModel};
use fathom_model::{ForwardOptions, LoadOptions, LogitRows, Model, Segment, Sequence, Workspace};
use fathom_tensor::{Context, Precision};

use super::*;
use crate::metrics::{FILE_NAME, Log, Record};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A dataset of simple sequences (each token is its forerunner plus a number of its document's), of 512 ids.
fn dataset(directory: &Path) {
    let mut writer = DatasetWriter::create(directory, &fixture("tiny-v3"), false, 1 << 20).unwrap();
    for index in 0..60u32 {
        let step = 1 + index % 3;
        let tokens: Vec<u32> = (0..40).map(|at| (index * 17 + at * step) % 300 + 10).collect();
        writer.append(index % 6 == 5, &tokens, None, 80).unwrap();
    }
    writer.finish(Vec::new()).unwrap();
}

const RUN: &str = r#"
steps = 6
seed = 3
threads = 2
dtype = "f32"
init_std = 0.02
ema.decay = 0.9

[model.fields]
model_type = "deepseek_v3"
vocab_size = 512
hidden_size = 32
intermediate_size = 48
moe_intermediate_size = 16
num_hidden_layers = 2
num_attention_heads = 2
q_lora_rank = 16
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 8
v_head_dim = 8
first_k_dense_replace = 1
n_routed_experts = 8
n_shared_experts = 1
num_experts_per_tok = 2
n_group = 2
topk_group = 1
routed_scaling_factor = 2.5
num_nextn_predict_layers = 1
max_position_embeddings = 64

[data]
path = "data"

[batch]
sequences = 4
micro_batch = 2
seq_len = 32

[schedule]
kind = "cosine"
lr = 5e-3
warmup_steps = 2

[balance]
sequence = 1e-4

[validation]
every = 3
batches = 2

[checkpoint]
every = 2
keep_last = 9
"#;

/// Counts steps, and stops after one of them.
#[derive(Default)]
struct Watch {
    steps: u64,
    stop_after: Option<u64>,
    losses: Vec<f64>,
}

impl Observer for Watch {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Recorded(Record::Step(step)) = event {
            self.steps += 1;
            self.losses.push(step.loss);
        }
    }

    fn stop(&mut self) -> bool {
        self.stop_after.is_some_and(|steps| self.steps >= steps)
    }

    fn sample(&mut self, _: &Path, _: Kind, samples: &Samples) -> std::result::Result<Vec<String>, String> {
        Ok(samples.prompts.iter().map(|prompt| format!("after {prompt}")).collect())
    }
}

/// A plan for `scratch/data`, in `scratch/out`.
fn plan(scratch: &Path, out: &str, overrides: &[&str]) -> Plan {
    let overrides: Vec<String> = overrides.iter().map(|&given| given.to_owned()).collect();
    let file = scratch.join("run.toml");
    fs::write(&file, RUN).unwrap();
    let config = RunConfig::read(&file, &overrides).unwrap();
    Plan { file, config, out: scratch.join(out), kind: Kind::Pretraining, resume: Resume::No }
}

fn scratch() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    dataset(&scratch.path().join("data"));
    scratch
}

fn run(plan: &Plan) -> Outcome {
    train(plan, false, &mut Watch::default()).unwrap().unwrap()
}

#[track_caller]
fn refused(plan: &Plan) -> String {
    train(plan, false, &mut Watch::default()).map(|_| ()).unwrap_err().to_string()
}

/// Every number that two finished runs left must be the same.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    for file in ["model.safetensors", "optimizer.safetensors", "ema/model.safetensors", "config.json"] {
        let read = |out: &Path| fs::read(out.join("checkpoints/step-00000006").join(file)).unwrap();
        assert!(read(a) == read(b), "{file} differs");
    }
    let losses = |out: &Path| -> Vec<(u64, f64, f64)> {
        let steps = Log::read(&out.join(FILE_NAME)).unwrap().into_iter();
        steps
            .filter_map(|r| if let Record::Step(s) = r { Some((s.step, s.loss, s.grad_norm)) } else { None })
            .collect()
    };
    assert_eq!(losses(a), losses(b));
    assert_eq!(losses(a).len(), 6);
}

#[test]
fn a_run_that_stops_and_goes_on_is_the_one_that_never_stopped() {
    let scratch = scratch();
    let whole = plan(scratch.path(), "whole", &[]);
    assert!(run(&whole).finished);
    let mut parts = plan(scratch.path(), "parts", &["threads=1"]);
    let stopped = train(&parts, false, &mut Watch { stop_after: Some(3), ..Watch::default() });
    let outcome = stopped.unwrap().unwrap();
    assert!(!outcome.finished && outcome.saved.step == 3);
    parts.resume = Resume::Newest;
    assert!(run(&parts).finished);
    assert_same(&whole.out, &parts.out);
    // Killed between two checkpoints: half a checkpoint and records of lost steps are left.
    let mut killed = plan(scratch.path(), "killed", &[]);
    train(&killed, false, &mut Watch { stop_after: Some(5), ..Watch::default() }).unwrap();
    let last = killed.out.join("checkpoints/step-00000005");
    fs::rename(&last, last.with_extension("partial")).unwrap();
    killed.resume = Resume::Newest;
    let mut watch = Watch::default();
    train(&killed, false, &mut watch).unwrap();
    assert_eq!(watch.steps, 2, "from step 4");
    assert_same(&whole.out, &killed.out);
}

#[test]
fn what_is_saved_is_a_model_that_learnt() {
    let scratch = scratch();
    let plan = plan(scratch.path(), "out", &["steps=60", "checkpoint.every=100", "samples.prompts=['a']"]);
    let mut watch = Watch::default();
    let outcome = train(&plan, false, &mut watch).unwrap().unwrap();
    let (first, last) = (watch.losses[0], watch.losses[59]);
    assert!(first > 5.5 && last < 0.75 * first, "{first} to {last}");
    let records = Log::read(&plan.out.join(FILE_NAME)).unwrap();
    assert!(records.iter().any(|r| matches!(r, Record::Sample(s) if s.text == "after a")));
    assert!(records.iter().any(|r| matches!(r, Record::Checkpoint(c) if c.step == 60)));
    assert!(outcome.report.exists());
    // The serving form reads it, tokenizer included, and computes the same.
    let tokens: Vec<u32> = (10..30).collect();
    let compute = || Compute::with_isa(Isa::best(), 2);
    let context = Context::new(compute(), Precision::F32);
    let trained = DifferentiableModel::load(&outcome.saved.path, &context, true).unwrap();
    let logits = trained.logits(&tokens, 1).unwrap();
    let options = LoadOptions::new(WeightFormat::F32);
    let served = Model::load(&outcome.saved.path, compute(), options, &mut |_, _| {}).unwrap();
    let mut cache = served.new_cache(tokens.len()).unwrap();
    let (mut workspace, mut sequence) = (Workspace::default(), Sequence::default());
    let segment = Segment { sequence: &mut sequence, tokens: &tokens, logits: LogitRows::All };
    let segments = &mut [segment];
    let got = served.forward(&mut workspace, &mut cache, segments, ForwardOptions::default()).unwrap();
    let far = got.iter().zip(logits.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.len() == logits.elements() && far < 1e-4, "{far}");
    assert!(outcome.saved.path.join("tokenizer.json").exists());
}

#[test]
fn what_cannot_be_is_said_before_the_first_step() {
    let scratch = scratch();
    let done = plan(scratch.path(), "out", &["steps=1"]);
    run(&done);
    assert!(refused(&done).contains("already holds a run: give --resume"));
    let resumed =
        |overrides: &[&str]| Plan { resume: Resume::Newest, ..plan(scratch.path(), "out", overrides) };
    assert!(refused(&resumed(&["schedule.lr=1"])).contains("another value of schedule.lr (0.005, now 1.0)"));
    assert!(refused(&resumed(&["model.fields.hidden_size=64"])).contains("model.fields.hidden_size"));
    let held = fs::File::open(scratch.path().join("out/lock")).unwrap();
    held.lock().unwrap();
    assert!(refused(&resumed(&["steps=2"])).contains("in use by another process"));
    held.unlock().unwrap();
    let fresh = |overrides: &[&str]| refused(&plan(scratch.path(), "fresh", overrides));
    assert!(
        fresh(&["batch.seq_len=65"])
            .contains("batch.seq_len: 65 is beyond the model's max_position_embeddings")
    );
    assert!(
        fresh(&["model.fields.vocab_size=500"]).contains("gives ids up to 511"),
        "{}",
        fresh(&["model.fields.vocab_size=500"])
    );
    assert!(fresh(&["model.fields.n_group=3"]).contains("n_group is 3"));
    assert!(
        fresh(&["model.fields.n_group=1", "balance.device=0.1"])
            .contains("balance.device: it balances groups")
    );
    assert!(fresh(&["data.path='missing'"]).contains("missing"));
    assert!(fresh(&["data.validation=0.1"]).contains("its validation split already"));
    let empty = Plan { resume: Resume::Newest, ..plan(scratch.path(), "fresh", &[]) };
    assert!(refused(&empty).contains("no complete checkpoint"));
    assert!(!scratch.path().join("fresh").exists(), "nothing was written");
    let shard = fs::read_dir(scratch.path().join("data")).unwrap().map(|entry| entry.unwrap().path());
    let shard = shard.into_iter().find(|path| path.to_string_lossy().contains("train-")).unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    assert!(fresh(&[]).contains("checksum"), "{}", fresh(&[]));
}

#[test]
fn nonsense_stops_the_run_or_is_skipped() {
    let scratch = scratch();
    // Far too fast: weights overflow within some steps.
    let wild = [
        "schedule.lr=1e30",
        "schedule.warmup_steps=0",
        "optimizer.kind='adamw'",
        "optimizer.clip=0",
        "ema={decay=0.5}",
    ];
    let message = refused(&plan(scratch.path(), "wild", &wild));
    assert!(message.starts_with("step ") && message.contains("not a finite number"), "{message}");
    assert!(message.contains("model.layers") || message.contains("weight"), "{message}");
    let skipping: Vec<&str> =
        wild.into_iter().chain(["trouble.on_nan='skip'", "trouble.max_skips=2"]).collect();
    let message = refused(&plan(scratch.path(), "skipping", &skipping));
    assert!(message.contains("2 steps one after another were skipped"), "{message}");
    let records = Log::read(&scratch.path().join("skipping").join(FILE_NAME)).unwrap();
    assert_eq!(records.iter().filter(|record| matches!(record, Record::Skip(_))).count(), 2);
}

fn conversations(file: &Path) {
    let line = |a: u32, b: u32| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "{a}+{b}"}}, {{"role": "assistant", "content": "{}"}}]}}"#,
            a + b
        )
    };
    let lines: Vec<String> = (0..40).map(|i| line(i, 40 - i / 2)).collect();
    fs::write(file, lines.join("\n")).unwrap();
}

/// A plan that fine-tunes the fixture on conversations.
fn tuning(scratch: &Path, out: &str, overrides: &[&str]) -> Plan {
    conversations(&scratch.join("chat.jsonl"));
    let text = format!(
        "steps = 4\nthreads = 2\ndtype = \"f32\"\n[model]\nfrom = {:?}\n[data]\npath = \"chat.jsonl\"\nvalidation = 0.2\n\
         [batch]\nsequences = 2\nseq_len = 48\n[schedule]\nkind = \"constant\"\nlr = 1e-2\n",
        fixture("tiny-v3")
    );
    let file = scratch.join("sft.toml");
    fs::write(&file, text).unwrap();
    let overrides: Vec<String> = overrides.iter().map(|&given| given.to_owned()).collect();
    let config = RunConfig::read(&file, &overrides).unwrap();
    Plan { file, config, out: scratch.join(out), kind: Kind::FineTuning, resume: Resume::No }
}

#[test]
fn conversations_are_learnt_from_a_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = tuning(scratch.path(), "out", &["steps=12"]);
    let mut watch = Watch::default();
    let outcome = train(&plan, false, &mut watch).unwrap().unwrap();
    assert!(watch.losses[11] < 0.8 * watch.losses[0], "{:?}", watch.losses);
    assert!(outcome.saved.path.join("generation_config.json").exists());
    let mut without = tuning(scratch.path(), "other", &[]);
    without.config.model.from = None;
    without.config.model.preset = Some("v2-lite".to_owned());
    assert!(refused(&without).contains("model.from: fine-tuning begins from weights"));
}

#[test]
fn adapters_are_trained_continued_and_merged() {
    let scratch = tempfile::tempdir().unwrap();
    let lora = ["lora={rank=4,target_modules=['q_b_proj','o_proj','gate_proj']}"];
    let whole = tuning(scratch.path(), "whole", &lora);
    let outcome = run(&whole);
    let mut parts = tuning(scratch.path(), "parts", &lora);
    train(&parts, false, &mut Watch { stop_after: Some(2), ..Watch::default() }).unwrap();
    parts.resume = Resume::Newest;
    run(&parts);
    let weights =
        |out: &Path| fs::read(out.join("checkpoints/step-00000004/adapter_model.safetensors")).unwrap();
    assert!(weights(&whole.out) == weights(&parts.out));
    let context = || Context::new(Compute::with_isa(Isa::best(), 2), Precision::F32);
    let options = AdapterOptions {
        rank: 4,
        scale: 2.0,
        target_modules: vec!["q_b_proj".to_owned(), "o_proj".to_owned(), "gate_proj".to_owned()],
        seed: 0,
    };
    let base = fixture("tiny-v3");
    let adapted = DifferentiableModel::load_with(&base, &context(), false, Some(options)).unwrap();
    adapted.load_adapters(&outcome.saved.path).unwrap();
    let merged_dir = scratch.path().join("merged");
    let changed = merge(&base, &outcome.saved.path, &merged_dir, &mut |_, _| {}).unwrap();
    assert_eq!(changed, adapted.adapters().len() / 2);
    let merged = DifferentiableModel::load(&merged_dir, &context(), false).unwrap();
    let plain = DifferentiableModel::load(&base, &context(), false).unwrap();
    let tokens: Vec<u32> = (5..29).collect();
    let [adapted, merged, plain] =
        [&adapted, &merged, &plain].map(|model| model.logits(&tokens, 1).unwrap().values().to_vec());
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // The fixture stores bf16: merged weights are rounded to it.
    assert!(far(&adapted, &plain) > 0.1 && far(&adapted, &merged) < 0.1 * far(&adapted, &plain));
    let unknown = tuning(scratch.path(), "unknown", &["lora={rank=4,target_modules=['query']}"]);
    assert!(refused(&unknown).contains("no linear map of this model is named \"query\""));
}
