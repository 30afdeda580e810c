//! The training step on two configurations that PyTorch was measured on: what one costs, and how far it is from the floor.
//!
//! ```sh
//! cargo bench -p fathom-train --bench step -- [--size S|M] [--dtype f32|bf16] [--steps 7] [--threads 2] [--optimizer adamw|muon]
//!     [--moments f32|bf16] [--recompute] [--pack-each-use]
//! ```
//!
//! Prints one JSON object: tokens per second (median and best), useful GFLOP/s and their share of the multiplier's measured peak,
//! peak memory, and what the bookkeeping of experts costs: the gate, the choice, the permutation and the combination, forward
//! and backward, measured as the same step's MoE layers with experts of width 8, whose products are next to nothing.

use std::rc::Rc;
use std::time::Instant;

use fathom_kernels::Compute;
use fathom_kernels::roofline::{Multiplier, multiply_rate};
use fathom_model::Config;
use fathom_model::accounting::{Flops, Parameters};
use fathom_model::differentiable::{Batch, DifferentiableModel, PassOptions};
use fathom_tensor::ops::experts::{Dispatch, ExpertWeights};
use fathom_tensor::testing::random;
use fathom_tensor::{Context, Packing, Parameter, Precision, Tape};
use fathom_train::config::{AdamW, Moments, Muon, Optimizer as OptimizerConfig};
use fathom_train::optimizer::{Optimizer, Step, gradient_norm};
use serde_json::json;

/// A configuration, and the batch that it is measured on.
struct Size {
    config: Config,
    batch: usize,
    seq: usize,
}

fn size(name: &str) -> Size {
    let small = name == "S";
    let pick = |s: usize, m: usize| if small { s } else { m };
    let mut fields = json!({
        "model_type": "deepseek_v3",
        "vocab_size": pick(4096, 8192),
        "hidden_size": pick(256, 512),
        "intermediate_size": pick(640, 1920),
        "moe_intermediate_size": pick(128, 384),
        "num_hidden_layers": pick(6, 8),
        "num_attention_heads": 8,
        "kv_lora_rank": pick(64, 128),
        "qk_nope_head_dim": pick(32, 64),
        "qk_rope_head_dim": pick(16, 32),
        "v_head_dim": pick(32, 64),
        "n_routed_experts": pick(16, 32),
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "norm_topk_prob": true,
        "routed_scaling_factor": 2.5,
        "max_position_embeddings": 2048,
    });
    if !small {
        fields["q_lora_rank"] = json!(256);
    }
    let config = Config::parse(&fields.to_string(), "the benchmark's configuration".as_ref());
    Size { config: config.expect("a valid configuration"), batch: pick(8, 4), seq: pick(512, 1024) }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).cloned().unwrap_or_else(|| default.to_owned())
    };
    let (name, dtype) = (given("--size", "S"), given("--dtype", "bf16"));
    let steps: usize = given("--steps", "7").parse().expect("--steps takes a number");
    let precision = if dtype == "f32" { Precision::F32 } else { Precision::Bf16 };
    let threads = given("--threads", "0").parse().expect("--threads takes a number");
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let packing = if flag("--pack-each-use") { Packing::EachUse } else { Packing::Once };
    let context = Context::with_packing(Compute::new(threads).expect("threads"), precision, packing);
    let size = size(&name);
    let moments = if given("--moments", "f32") == "bf16" { Moments::Bf16 } else { Moments::F32 };
    let recompute = flag("--recompute");
    let kind = match given("--optimizer", "adamw").as_str() {
        "muon" => OptimizerConfig::Muon(Muon { moments, ..Muon::default() }),
        _ => OptimizerConfig::Adamw(AdamW { moments, ..AdamW::default() }),
    };
    let times = measure(&context, &size, (&kind, recompute), steps);
    let bookkeeping = bookkeeping(&context, &size, steps);
    let peak = multiply_rate(context.compute(), Multiplier::Bf16Tiles, 0.5)
        .filter(|_| precision == Precision::Bf16)
        .or_else(|| multiply_rate(context.compute(), Multiplier::F32, 0.5))
        .map_or(f64::NAN, |rate| rate.best);
    let tokens = (size.batch * size.seq) as f64;
    let (median, best) = (times[times.len() / 2], times[0]);
    let flops = 3.0 * forward_flops(&size) * tokens;
    println!(
        "{}",
        json!({
            "size": name, "dtype": dtype, "moments": given("--moments", "f32"), "recompute": recompute,
            "pack_each_use": flag("--pack-each-use"), "isa": context.compute().isa().name(), "threads": context.compute().threads(),
            "parameters": Parameters::of(&size.config).total,
            "tokens_per_second": tokens / median, "best_tokens_per_second": tokens / best,
            "useful_gflops": flops / median / 1e9, "share_of_peak": flops / median / peak, "peak_gflops": peak / 1e9,
            "peak_memory_mib": peak_memory() / 1024, "tensors_mib": context.peak_bytes() >> 20,
            "moe_bookkeeping_share": bookkeeping / median,
        })
    );
}

/// Seconds of every step after the first two, in order of size.
fn measure(
    context: &Context,
    size: &Size,
    (kind, recompute): (&OptimizerConfig, bool),
    steps: usize,
) -> Vec<f64> {
    let model = DifferentiableModel::random(size.config.clone(), context, 0.02, 1).expect("a model");
    let parameters = model.parameters();
    let mut optimizer = Optimizer::new(kind, parameters);
    let mut times = Vec::new();
    for step in 0..steps + 2 {
        let batch = batch(size, step as u64);
        let started = Instant::now();
        parameters.iter().for_each(Parameter::clear_gradient);
        let tape = Tape::new(context);
        let losses =
            model.losses(&tape, &batch, &PassOptions { recompute, ..PassOptions::PLAIN }).expect("a pass");
        tape.backward(&losses.total);
        drop((tape, losses));
        let gradient_scale = gradient_norm(context.compute(), parameters, 1.0).clipping(Some(1.0)) as f32;
        optimizer.step(context, parameters, Step { learning_rate: 1e-3, gradient_scale });
        if step >= 2 {
            times.push(started.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    times
}

fn batch(size: &Size, seed: u64) -> Batch {
    let count = size.batch * (size.seq + 1);
    let vocab = size.config.vocab_size as f32;
    let tokens = random(count, seed).into_iter().map(|x| ((x + 1.0) / 2.0 * (vocab - 1.0)) as u32).collect();
    Batch { batch: size.batch, seq: size.seq, tokens, documents: None, learn: None }
}

/// Median seconds of all that is done about experts in a step, besides their products.
fn bookkeeping(context: &Context, size: &Size, steps: usize) -> f64 {
    const WIDTH: usize = 8;
    let (config, tokens) = (&size.config, size.batch * size.seq);
    let (hidden, experts) = (config.hidden_size, config.n_routed_experts);
    let parameter = |shape: &[usize], seed| {
        Parameter::new("weight", context.tensor(shape, &random(shape.iter().product(), seed)))
    };
    let gate = parameter(&[experts, hidden], 1);
    let stacks = [&[experts, WIDTH, hidden], &[experts, WIDTH, hidden], &[experts, hidden, WIDTH]];
    let stacks: Vec<Parameter> =
        stacks.iter().zip(2..).map(|(shape, seed)| parameter(*shape, seed)).collect();
    let values = context.tensor([tokens, hidden], &random(tokens * hidden, 9));
    let ones = context.full([tokens, hidden], 1e-3);
    let layers = (0..config.num_hidden_layers).filter(|&layer| config.is_moe(layer)).count();
    let mut times: Vec<f64> = (0..steps)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..layers {
                let tape = Tape::new(context);
                let x = tape.input(values.clone());
                let routed =
                    x.linear_f32(&tape.parameter(&gate)).route(&config.router(), &vec![0.0; experts]);
                let dispatch = Rc::new(Dispatch::new(&routed.ids, experts));
                let [gate_proj, up_proj, down_proj] = [0, 1, 2].map(|at| tape.parameter(&stacks[at]));
                let weights =
                    ExpertWeights { gate_proj: &gate_proj, up_proj: &up_proj, down_proj: &down_proj };
                let y = x.experts(&dispatch, &routed.weights, weights);
                tape.backward_from(&[(&y, ones.clone())]);
            }
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Useful operations of a token's forward pass: matrices, and attention over half of the sequence in MHA mode.
fn forward_flops(size: &Size) -> f64 {
    let config = &size.config;
    let pairs = (size.seq as f64 + 1.0) / 2.0;
    let of_head = 2.0 * pairs * (config.qk_head_dim() + config.v_head_dim) as f64;
    let heads = (config.num_hidden_layers * config.num_attention_heads) as f64;
    Flops::of(config, size.seq).prefill.matrices + heads * of_head
}

/// The most memory that the process has had, in KiB; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
