//! Whole measurements on fixtures: structure and sanity, never a speed.

use std::cell::Cell;
use std::path::Path;

use fathom_bench::{Effort, Hooks, Plan, Report, Spread, run};
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{LoadOptions, Model};

const EFFORT: Effort = Effort { bytes: 1 << 20, seconds: 0.001 };

fn model(name: &str, format: WeightFormat) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let compute = Compute::new(2).expect("an ISA of this machine");
    let options = LoadOptions::new(format);
    Model::load(&dir, compute, options, &mut |_, _| {}).expect("the fixture is a checkpoint")
}

fn plan() -> Plan {
    Plan {
        prompt_tokens: vec![3, 20].into(),
        decode_tokens: 2,
        contexts: vec![0, 5, 17].into(),
        batches: vec![1, 3].into(),
        repeats: 1,
        seed: 7,
        of_layers: Some(61),
    }
}

#[track_caller]
fn check(spread: &Spread, samples: usize) {
    assert_eq!(spread.samples.len(), samples);
    assert!(spread.min > 0.0 && spread.min <= spread.median && spread.median <= spread.max, "{spread:?}");
    assert!(spread.max.is_finite());
}

#[track_caller]
fn check_report(report: &Report) {
    for result in &report.prefill {
        check(&result.tokens_per_second, result.seconds.samples.len());
        let ratios = [result.flops_per_token, result.share_of_peak, result.flops_per_second];
        assert!(ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0), "{result:?}");
    }
    for result in &report.decode {
        check(&result.tokens_per_second, result.seconds.samples.len());
        let whole = result.tokens_per_second_of_layers.expect("61 layers are asked for");
        assert!(whole > 0.0 && whole < result.tokens_per_second.median, "more layers, more time: {whole}");
        let ratios = [result.bytes_per_token, result.bytes_per_second, result.share_of_bandwidth];
        assert!(ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0), "{result:?}");
    }
}

#[test]
fn every_case_is_measured() {
    for (name, format) in [
        ("tiny-v2-lite", WeightFormat::Bf16),
        ("tiny-v2", WeightFormat::F32),
        ("tiny-v3", WeightFormat::Bf16),
        ("tiny-v3-mtp", WeightFormat::F32),
    ] {
        let model = model(name, format);
        let hooks = Hooks { note: &mut |_| {}, stop: &|| false };
        let report = run(&model, &plan(), EFFORT, hooks).expect("the plan fits");
        check_report(&report);
        assert!(report.complete);
        let prefills: Vec<_> = report.prefill.iter().map(|r| (r.prompt_tokens, r.batch)).collect();
        assert_eq!(prefills, [(3, 1), (3, 3), (20, 1), (20, 3)], "{name}");
        let decodes: Vec<_> = report.decode.iter().map(|r| (r.batch, r.context)).collect();
        assert_eq!(decodes, [(1, 0), (1, 5), (1, 17), (3, 0), (3, 5), (3, 17)], "{name}");
        assert!(report.prefill.iter().all(|result| result.times_f32_gemm.is_some_and(|times| times > 0.0)));
        assert!(report.limits.read_after.is_some());
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!(json["decode"][3]["tokens_per_second"]["samples"].as_array().map(Vec::len), Some(1));
        let text = report.to_string();
        assert!(
            text.contains("prefill") && text.contains("decode") && !text.contains("incomplete"),
            "{text}"
        );
    }
}

#[test]
fn bytes_are_those_of_the_experts_and_latents_read() {
    let model = model("tiny-v2-lite", WeightFormat::Bf16);
    let hooks = Hooks { note: &mut |_| {}, stop: &|| false };
    let report = run(&model, &plan(), EFFORT, hooks).expect("the plan fits");
    let config = model.config();
    let moe = (0..config.num_hidden_layers).filter(|&layer| config.is_moe(layer)).count();
    let per_token = (moe * config.num_experts_per_tok) as f64;
    for result in &report.decode {
        assert!(result.experts_per_step >= per_token, "every token reaches top_k experts: {result:?}");
        assert!(result.experts_per_step <= per_token * result.batch as f64, "{result:?}");
        // Two steps: the first sees one token more than the context, the second two.
        let latents = result.batch as f64 * (result.context as f64 + 1.5);
        let cached = latents * report.model.cache_bytes_per_token as f64;
        if result.batch == 1 {
            let expected = model.weight_bytes_per_token() as f64 + cached;
            assert!((result.bytes_per_step - expected).abs() < 1e-6, "{result:?}, expected {expected}");
        } else {
            assert!(result.bytes_per_step - cached > model.weight_bytes_per_token() as f64);
            assert!(result.bytes_per_token < model.weight_bytes_per_token() as f64 + cached);
        }
    }
}

#[test]
fn stopping_keeps_what_there_is_and_says_so() {
    let model = model("tiny-v2-lite", WeightFormat::Bf16);
    let mut plan = plan();
    plan.repeats = 3;
    let mut seen = [false; 4];
    for after in (0..90).step_by(7) {
        let (asked, told) = (Cell::new(0), Cell::new(0));
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > after
        };
        let mut note = |_: &str| told.set(told.get() + 1);
        let report = run(&model, &plan, EFFORT, Hooks { note: &mut note, stop: &stop }).expect("no error");
        check_report(&report);
        assert!(!report.complete && told.get() > 0, "stopped after {after}");
        assert!(report.to_string().contains("incomplete"));
        let partial = report.prefill.iter().any(|r| !r.complete) || report.decode.iter().any(|r| !r.complete);
        let found =
            [report.prefill.is_empty(), !report.prefill.is_empty(), !report.decode.is_empty(), partial];
        seen.iter_mut().zip(found).for_each(|(seen, found)| *seen |= found);
    }
    assert_eq!(seen, [true; 4], "stops fell into every phase");
}

#[test]
fn a_plan_beyond_the_context_is_refused_before_anything_runs() {
    let model = model("tiny-v2-lite", WeightFormat::Bf16);
    let mut plan = plan();
    plan.contexts = vec![model.config().max_position_embeddings].into();
    let hooks = Hooks { note: &mut |what| panic!("measured {what}"), stop: &|| false };
    let error = run(&model, &plan, EFFORT, hooks).expect_err("too long").to_string();
    assert!(error.contains("max_position_embeddings"), "{error}");
}
