//! Loading never holds the model twice. Alone in its file: a test binary is a process, and the
//! high-water mark of resident memory belongs to the process.
#![cfg(target_os = "linux")]

use std::ops::ControlFlow;
use std::path::Path;

use fathom_kernels::gemm::WeightFormat;
use fathom_kernels::{Compute, Isa};
use fathom_model::synthesize::{SynthesizeOptions, synthesize};
use fathom_model::{LoadOptions, Model};

/// A line of `/proc/self/status` in bytes.
fn status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel reports it");
    let kibibytes: usize =
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of kB");
    kibibytes * 1024
}

#[test]
fn resident_memory_while_loading_stays_below_the_packed_weights_and_a_little() {
    let mut json: serde_json::Value =
        serde_json::from_str(fathom_model::presets::json("v2-lite").expect("shipped")).expect("valid");
    for (field, value) in [
        ("num_hidden_layers", 3),
        ("hidden_size", 1024),
        ("intermediate_size", 4096),
        ("moe_intermediate_size", 512),
        ("vocab_size", 16_384),
        ("n_routed_experts", 32),
    ] {
        json[field] = value.into();
    }
    let (text, dir) = (json.to_string(), tempfile::tempdir().expect("a temporary directory"));
    let options = SynthesizeOptions { threads: 2, ..SynthesizeOptions::default() };
    synthesize(&text, Path::new("config.json"), &options, dir.path(), &mut |_, _| ControlFlow::Continue(()))
        .expect("space on disk");

    // What writing needed at most would hide what loading needs: start the mark anew.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux lets a process reset its own mark");
    let before = status("VmRSS");
    let options = LoadOptions::new(WeightFormat::Bf16);
    let compute = Compute::with_isa(Isa::best(), 2);
    let model = Model::load(dir.path(), compute, options, &mut |_, _| {}).expect("loads");
    let (peak, packed) = (status("VmHWM") - before, model.weight_bytes());
    assert!(packed > 200 << 20, "{packed} bytes are too few to tell");
    // The source is mapped, and read ahead. Every slab of 32 MiB that matrices share ends in a huge page of 2 MiB, which
    // they fill in part.
    let most = 1.14 * packed as f64 + (packed / 16) as f64 / 2.0;
    assert!(peak as f64 <= most, "resident {peak} bytes for {packed} of packed weights");
}
