//! `cargo bench -p fathom-kernels --bench attention`: attention against what the multipliers allow.
//!
//! Decode: one token per sequence behind a context, absorbed form, every cache format. Prefill: a
//! prompt into an empty cache, expanded form, the expansion itself aside. For each: time per step of
//! all layers, operations per second, and the share of the f32 rate that the multipliers reach in
//! registers, measured beside every case because shared machines drift. Of int8 the share may exceed
//! 100 %: its multiplier does four times as much. `-- 4` runs on four threads, `-- quick` takes only
//! the cases that decide, `-- quick decode v2 bf16` those of them whose line has these words. Layers have caches of their own, so that latents come from memory.

use std::time::Instant;

use fathom_kernels::attention::{CacheFormat, LatentRows, absorbed, expanded};
use fathom_kernels::gemm::Rows;
use fathom_kernels::roofline::{Multiplier, multiply_rate};
use fathom_kernels::{Compute, Isa};

/// Seconds per measurement.
const SECONDS: f64 = 0.5;

/// Dimensions of a model.
#[derive(Clone, Copy)]
struct Dims {
    name: &'static str,
    heads: usize,
    layers: usize,
}

/// V2-Lite with the 6 layers of the comparison, and V3 with 2 of its 61 (times are scaled to 61).
const V2_LITE: Dims = Dims { name: "v2-lite, 6 layers", heads: 16, layers: 6 };
const V3: Dims = Dims { name: "v3, 61 layers", heads: 128, layers: 61 };

/// Layers that are allocated and run.
const LAYERS_MAX: usize = 6;

/// The same in all released models.
const LATENT: usize = 512;
const ROPE: usize = 64;
const NOPE: usize = 128;
const VALUE: usize = 128;

fn main() {
    // Cargo passes flags such as `--bench`; `cargo test` passes none and only wants to see it start.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let threads = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(0);
    let quick = arguments.iter().any(|argument| argument == "quick");
    let words: Vec<&String> = arguments
        .iter()
        .filter(|a| !a.starts_with('-') && *a != "quick" && a.parse::<usize>().is_err())
        .collect();
    let asked = |line: String| words.iter().all(|word| line.contains(word.as_str()));
    println!(
        "{:<18} {:<9} {:>6} {:>7} {:>5} {:>7} {:>10} {:>10} {:>6} {:>7}",
        "model", "what", "cache", "context", "batch", "isa", "ms/step", "GFLOP/s", "of f32", "spread"
    );
    let lowest = if quick { Isa::best() } else { Isa::Avx2 };
    for isa in Isa::available().filter(|&isa| isa >= lowest) {
        let compute = Compute::with_isa(isa, threads);
        for format in [CacheFormat::Bf16, CacheFormat::Int8, CacheFormat::Fp8, CacheFormat::F32] {
            for (dims, context, batch) in [
                (V2_LITE, 64, 1),
                (V2_LITE, 2048, 1),
                (V2_LITE, 8192, 1),
                (V2_LITE, 2048, 16),
                (V2_LITE, 8192, 16),
                (V3, 2048, 1),
                (V3, 8192, 1),
            ] {
                let decides = context == 8192 && batch == 1 && format != CacheFormat::F32;
                if (decides || !quick) && asked(format!("{} decode {format}", dims.name)) {
                    decode(&compute, dims, format, context, batch);
                }
            }
        }
        for (dims, tokens) in [(V2_LITE, 512), (V2_LITE, 2048), (V2_LITE, 8192), (V3, 2048)] {
            if (!quick || tokens == 2048) && asked(format!("{} prefill", dims.name)) {
                prefill(&compute, dims, tokens);
            }
        }
    }
}

/// Numbers in [-1, 1) that do not repeat soon.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i as u32).wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn decode(compute: &Compute, dims: Dims, format: CacheFormat, context: usize, batch: usize) {
    let layers = dims.layers.min(LAYERS_MAX);
    let blocks = context.div_ceil(64);
    let tables: Vec<Vec<u32>> =
        (0..batch).map(|i| (i * blocks..(i + 1) * blocks).map(|block| block as u32).collect()).collect();
    let row = numbers(64 * (LATENT + ROPE));
    let caches: Vec<LatentRows> = (0..layers)
        .map(|_| {
            let mut cache =
                LatentRows::new(format, batch * blocks, [LATENT, ROPE]).expect("memory for the cache");
            for table in &tables {
                for position in 0..context {
                    cache.write(table, position, &row[position % 64 * (LATENT + ROPE)..][..LATENT + ROPE]);
                }
            }
            cache
        })
        .collect();
    let (latent, rotary) = (numbers(batch * dims.heads * LATENT), numbers(batch * dims.heads * ROPE));
    let shape =
        absorbed::Shape { heads: dims.heads, latent: LATENT, rope: ROPE, rotary_stride: ROPE, scale: 0.07 };
    let mut out = vec![0.0; latent.len()];
    let mut space = absorbed::Space::default();
    let flops = 2.0 * (batch * dims.heads * context * (2 * LATENT + ROPE) * layers) as f64;
    let step = || {
        for cache in &caches {
            let query = |i: usize| absorbed::Query {
                cache: cache.sequence(&tables[i]),
                visible: context,
                rotary: &rotary[i * dims.heads * ROPE..],
            };
            let queries = absorbed::Queries { count: batch, latent: &latent, query };
            absorbed::attend(compute, shape, &queries, &mut space, &mut out);
        }
    };
    report(compute, dims, ["decode", format.name()], [context, batch], flops, layers, step);
}

fn prefill(compute: &Compute, dims: Dims, tokens: usize) {
    let shape = expanded::Shape {
        heads: dims.heads,
        nope: NOPE,
        rope: ROPE,
        value: VALUE,
        scale: 0.07,
        exact: false,
    };
    let q = numbers(tokens * dims.heads * (NOPE + ROPE));
    // As many keys at a time as the model expands.
    let chunk = ((8 << 20) / (dims.heads * (NOPE + VALUE))).max(64).min(tokens);
    let (kv, rope) = (numbers(chunk * dims.heads * (NOPE + VALUE)), numbers(chunk * ROPE));
    let mut state = expanded::State::default();
    let mut out = vec![0.0; tokens * dims.heads * VALUE];
    let pairs = tokens as f64 * (tokens as f64 + 1.0) / 2.0;
    let flops = 2.0 * pairs * (dims.heads * (NOPE + ROPE + VALUE)) as f64;
    let step = || {
        state.reset(shape, tokens);
        for first in (0..tokens).step_by(chunk) {
            let count = chunk.min(tokens - first);
            let keys = expanded::Keys {
                first,
                expanded: &kv[..count * dims.heads * (NOPE + VALUE)],
                rope: &rope[..count * ROPE],
            };
            state.attend(compute, shape, Rows::dense(&q, dims.heads * (NOPE + ROPE)), 0, keys);
        }
        state.finish(compute, shape, &mut out);
    };
    report(compute, dims, ["prefill", "-"], [tokens, 1], flops, 1, step);
}

/// Times `step`, which does `flops` operations in `layers` of the model's layers.
fn report(
    compute: &Compute,
    dims: Dims,
    [what, format]: [&str; 2],
    [context, batch]: [usize; 2],
    flops: f64,
    layers: usize,
    mut step: impl FnMut(),
) {
    let mut peak = 0.0f64;
    let mut times = Vec::new();
    step();
    let started = Instant::now();
    while times.len() < 5 || started.elapsed().as_secs_f64() < SECONDS {
        if times.len() % 4 == 0 {
            peak = peak
                .max(multiply_rate(compute, Multiplier::F32, 0.02).expect("every ISA multiplies f32").best);
        }
        let begun = Instant::now();
        step();
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[times.len() / 2]);
    println!(
        "{:<18} {what:<9} {format:>6} {context:>7} {batch:>5} {:>7} {:>10.3} {:>10.1} {:>4.0} % {:>5.0} %",
        dims.name,
        compute.isa().name(),
        1e3 * best * dims.layers as f64 / layers as f64,
        flops / best / 1e9,
        100.0 * flops / best / peak,
        100.0 * (median / best - 1.0),
    );
}
