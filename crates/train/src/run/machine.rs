//! Where a run computes, how fast that could be, and how much there is to compute.

use fathom_kernels::Compute;
use fathom_kernels::roofline::{Multiplier, multiply_rate};
use fathom_model::Config;
use fathom_model::accounting::{Flops, Parameters};

use crate::config::Dtype;
use crate::metrics::Machine;

/// Seconds that the peak is measured for.
const MEASURE: f64 = 0.2;

/// What a step is measured against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Floating-point operations that a token of training needs, recomputation not counted.
    pub(super) flops_per_token: f64,
    /// What the machine can do per second.
    pub(super) peak: f64,
}

impl Work {
    /// Counts `config` on sequences of `seq`: a forward pass, the gradients of its inputs, and those of weights where they
    /// move (`frozen`: only adapters do, whose own operations are not counted).
    pub(super) fn of(config: &Config, seq: usize, mtp: bool, frozen: bool, peak: f64) -> Self {
        let matrices = Flops::of(config, seq).prefill.matrices;
        // Every token sees half of its sequence on average, in MHA mode.
        let pairs = (seq as f64 + 1.0) / 2.0;
        let of_head = 2.0 * pairs * (config.qk_head_dim() + config.v_head_dim) as f64;
        let attention = config.num_attention_heads as f64 * of_head;
        let mut forward = matrices + config.num_hidden_layers as f64 * attention;
        if mtp && config.num_nextn_predict_layers > 0 {
            let modules = config.num_nextn_predict_layers as f64;
            let head = (config.vocab_size * config.hidden_size) as f64;
            forward +=
                2.0 * (Parameters::of(config).mtp_active as f64 + modules * head) + modules * attention;
        }
        Self { flops_per_token: if frozen { 2.0 } else { 3.0 } * forward, peak }
    }
}

/// Operations per second that the multiplier of `dtype` does on this machine.
pub(super) fn peak(compute: &Compute, dtype: Dtype) -> f64 {
    let tiles = || multiply_rate(compute, Multiplier::Bf16Tiles, MEASURE);
    let vectors = || multiply_rate(compute, Multiplier::F32, MEASURE);
    let rate = if dtype == Dtype::Bf16 { tiles().or_else(vectors) } else { vectors() };
    rate.map_or(f64::NAN, |rate| rate.best)
}

/// The machine, for the record.
pub(super) fn describe(compute: &Compute, peak: f64) -> Machine {
    Machine {
        processor: field("/proc/cpuinfo", "model name").unwrap_or_default(),
        threads: compute.threads(),
        isa: compute.isa().name().to_owned(),
        memory_bytes: kilobytes("/proc/meminfo", "MemTotal"),
        peak_flops: peak.is_finite().then_some(peak),
    }
}

/// Bytes of this process that are in memory; 0 where the system does not tell.
pub(super) fn resident_bytes() -> u64 {
    kilobytes("/proc/self/status", "VmRSS")
}

fn kilobytes(file: &str, name: &str) -> u64 {
    let value = field(file, name).unwrap_or_default();
    value.trim_end_matches("kB").trim().parse::<u64>().map_or(0, |kilobytes| kilobytes * 1024)
}

/// The value of the first line `name : value`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
