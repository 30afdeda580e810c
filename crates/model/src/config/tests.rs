//! Both styles of `config.json`, and what is refused.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn fixture(name: &str, file: &str) -> Config {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    Config::read(&dir.join(file)).expect("the fixture's config is valid")
}

#[test]
fn both_styles_say_the_same() {
    for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-mtp"] {
        assert_eq!(fixture(name, "config.json"), fixture(name, "config.transformers5.json"), "{name}");
    }
    // transformers 5 writes a dequantized model's config: only the FP8 block is missing.
    let mut released = fixture("tiny-v3-fp8", "config.json");
    assert_eq!(released.weight_block_size.take(), Some([128, 128]));
    assert_eq!(released, fixture("tiny-v3-fp8", "config.transformers5.json"));
}

/// A valid V3 configuration with some fields replaced or (null) removed.
fn with(changes: serde_json::Value) -> Result<Config> {
    let text = crate::presets::json("v3").expect("shipped");
    let mut value: serde_json::Value = serde_json::from_str(text).expect("valid");
    for (field, change) in changes.as_object().expect("an object") {
        value[field] = change.clone();
    }
    Config::parse(&value.to_string(), Path::new("dir/config.json"))
}

#[track_caller]
fn refused(changes: serde_json::Value, parts: &[&str]) {
    let message = match with(changes.clone()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{changes} was accepted"),
    };
    for part in parts.iter().chain(&["dir/config.json"]) {
        assert!(message.contains(part), "{changes}: {message:?} lacks {part:?}");
    }
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    use serde_json::json;
    for other in ["deepseek_v32", "deepseek_v4", "llama"] {
        refused(json!({ "model_type": other }), &[other, "deepseek_v2", "deepseek_v3"]);
    }
    refused(json!({ "model_type": null }), &["model_type", "missing"]);
    refused(json!({ "hidden_size": null }), &["hidden_size", "missing"]);
    refused(json!({ "hidden_size": -1 }), &["hidden_size", "-1"]);
    refused(json!({ "hidden_size": 0 }), &["hidden_size", "from 1"]);
    refused(json!({ "num_hidden_layers": 1 << 20 }), &["num_hidden_layers", "experts"]);
    refused(json!({ "qk_nope_head_dim": 1 << 20 }), &["num_attention_heads"]);
    refused(json!({ "hidden_size": "big" }), &["hidden_size", "big"]);
    refused(json!({ "vocab_size": 1u64 << 60 }), &["vocab_size"]);
    refused(json!({ "hidden_act": "gelu" }), &["hidden_act", "gelu", "silu"]);
    refused(json!({ "topk_method": "greedy" }), &["topk_method", "noaux_tc"]);
    refused(json!({ "scoring_func": "softmax" }), &["scoring_func", "sigmoid"]);
    refused(json!({ "n_group": 7 }), &["n_group", "256"]);
    refused(json!({ "topk_group": 9 }), &["topk_group"]);
    refused(json!({ "num_experts_per_tok": 300 }), &["num_experts_per_tok", "256"]);
    refused(json!({ "num_key_value_heads": 8 }), &["num_key_value_heads", "128"]);
    refused(json!({ "qk_rope_head_dim": 63 }), &["qk_rope_head_dim", "even"]);
    refused(json!({ "rope_scaling": { "type": "linear", "factor": 2 } }), &["type", "linear", "yarn"]);
    refused(json!({ "rope_scaling": { "factor": 40 } }), &["rope_scaling.type", "yarn"]);
    refused(json!({ "rope_scaling": { "type": "yarn", "factor": -4 } }), &["factor", "-4"]);
    refused(json!({ "quantization_config": { "quant_method": "gptq" } }), &["quant_method", "gptq", "fp8"]);
    refused(json!({ "rms_norm_eps": "tiny" }), &["rms_norm_eps"]);
    refused(json!({ "eos_token_id": [1, "x"] }), &["eos_token_id"]);
    assert!(Config::parse("{", Path::new("config.json")).is_err());
    assert!(Config::parse("[]", Path::new("config.json")).is_err());
}

#[test]
fn yarn_follows_the_fields() {
    let yarn = |value: serde_json::Value| {
        with(serde_json::json!({ "rope_scaling": value })).expect("valid").rope_scaling
    };
    let base = serde_json::json!({ "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096 });
    let temperature = |m: f64| 0.1 * m * 40f64.ln() + 1.0;
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    // Neither field: cosines and sines carry the temperature. Both: their ratio, and the score.
    close(yarn(base.clone()).rotation_factor(), temperature(1.0));
    close(yarn(base.clone()).score_factor(), 1.0);
    let mut both = base.clone();
    (both["mscale"], both["mscale_all_dim"]) = (0.5.into(), 1.0.into());
    close(yarn(both.clone()).rotation_factor(), temperature(0.5) / temperature(1.0));
    close(yarn(both).score_factor(), temperature(1.0).powi(2));
    let mut all_only = base;
    all_only["mscale_all_dim"] = 0.8.into();
    close(yarn(all_only.clone()).rotation_factor(), temperature(1.0));
    close(yarn(all_only).score_factor(), temperature(0.8).powi(2));
}

#[test]
fn yarn_keeps_fast_turns_and_divides_slow_ones() {
    let config = crate::presets::find("v3").expect("shipped");
    let plain = RopeScaling::Default.frequencies(10_000.0, 64);
    let stretched = config.rope_scaling.frequencies(10_000.0, 64);
    assert_eq!(plain[0], stretched[0]);
    assert!((plain[31] / stretched[31] - 40.0).abs() < 1e-9);
    assert!(stretched.windows(2).all(|pair| pair[0] > pair[1]), "frequencies fall");
}

proptest! {
    /// Damaged and hostile files: an error or a configuration whose list of tensors can be made.
    #[test]
    fn damaged_files_are_refused_in_order(
        edits in prop::collection::vec((0usize..2000, any::<u8>()), 1..6),
        number in prop_oneof![any::<u64>(), 0u64..4, Just(1 << 20)],
        field in 0usize..40,
    ) {
        let text = crate::presets::json("v3").expect("shipped");
        let mut bytes = text.as_bytes().to_vec();
        for (position, byte) in edits {
            let position = position % bytes.len();
            bytes[position] = byte;
        }
        let _ = Config::parse(&String::from_utf8_lossy(&bytes), Path::new("config.json"));
        let mut value: serde_json::Value = serde_json::from_str(text).expect("valid");
        let names: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
        value[&names[field % names.len()]] = number.into();
        if let Ok(config) = Config::parse(&value.to_string(), Path::new("config.json")) {
            let elements: u64 = crate::manifest::tensors(&config).iter().map(|spec| spec.elements()).sum();
            prop_assert!(elements > 0);
        }
    }
}
