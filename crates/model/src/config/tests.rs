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

mod of_gguf {
    use std::path::PathBuf;

    use fathom_checkpoint::gguf::{Array, GgufWriter, Value};
    use fathom_checkpoint::{Dtype, TensorPlan};

    use super::*;

    /// llama.cpp's conversion says what config.json says.
    #[test]
    fn a_converted_fixture_is_the_same_configuration() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf/tiny-v2.gguf");
        let read = Config::read(&path).expect("valid");
        assert_eq!(read, fixture("tiny-v2", "config.json"));
        let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
        let json = gguf::config_json(&checkpoint).expect("valid");
        assert_eq!(Config::parse(&json, Path::new("config.json")).expect("valid"), read);
        crate::manifest::check(&read, &checkpoint, true).expect("all tensors, no others");
    }

    fn preset(name: &str) -> Config {
        crate::presets::find(name).expect("shipped")
    }

    /// A GGUF file without weights but for the rows of the embedding.
    fn written(entries: &[(String, Value)], head: bool) -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("m.gguf");
        let names = if head { &["token_embd.weight", "output.weight"][..] } else { &["token_embd.weight"] };
        let plan = names.iter().map(|name| TensorPlan::new(*name, Dtype::F32, [7, 1])).collect();
        let mut writer = GgufWriter::create(&path, entries, plan).expect("space");
        for name in names {
            writer.begin(name).expect("planned");
            writer.write_f32(&[0.0; 7]).expect("space");
        }
        writer.finish().expect("space");
        (scratch, path)
    }

    fn tokens() -> [(String, Value); 2] {
        [("bos_token_id", 0u32), ("eos_token_id", 1)]
            .map(|(name, id)| (format!("tokenizer.ggml.{name}"), id.into()))
    }

    #[test]
    fn what_is_written_is_read() {
        for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-mtp"] {
            let config = fixture(name, "config.json");
            let mut entries = gguf::metadata(&config, true).expect("expressible");
            entries.extend(tokens());
            let (_scratch, path) = written(&entries, true);
            assert_eq!(Config::read(&path).expect("valid"), config, "{name}");
        }
        for name in ["v2-lite", "v2", "v3"] {
            let config = preset(name);
            let entries = gguf::metadata(&config, false).expect("expressible");
            let (_scratch, path) = written(&entries, false);
            let read = Config::read(&path).expect("valid");
            assert_eq!(read.num_hidden_layers, config.num_hidden_layers);
            assert_eq!((read.num_nextn_predict_layers, read.tie_word_embeddings), (0, true));
            let rest = Config {
                num_nextn_predict_layers: config.num_nextn_predict_layers,
                tie_word_embeddings: config.tie_word_embeddings,
                bos_token_id: config.bos_token_id,
                eos_token_id: config.eos_token_id.clone(),
                weight_block_size: config.weight_block_size,
                power_of_two_scales: config.power_of_two_scales,
                ..read
            };
            assert_eq!(rest, config, "{name}");
        }
    }

    /// The metadata of V3 as the converter writes it, with some keys replaced or (`None`) removed.
    fn with(name: &str, changes: &[(&str, Option<Value>)]) -> Result<Config> {
        let mut entries = gguf::metadata(&preset(name), false).expect("expressible");
        for (key, value) in changes {
            let key = format!("deepseek2.{key}");
            entries.retain(|entry| entry.0 != key);
            entries.extend(value.clone().map(|value| (key, value)));
        }
        let (_scratch, path) = written(&entries, true);
        Config::read(&path)
    }

    #[test]
    fn old_files_are_read() {
        // Before MLA was split: widths of heads as they are, keys that did not exist.
        let old = [
            ("attention.key_length", Some(Value::U32(192))),
            ("attention.value_length", Some(Value::U32(128))),
            ("attention.key_length_mla", None),
            ("attention.value_length_mla", None),
            ("attention.head_count_kv", Some(Value::U32(128))),
        ];
        let v3 = preset("v3");
        let read = with("v3", &old).expect("valid");
        assert_eq!((read.qk_nope_head_dim, read.v_head_dim), (v3.qk_nope_head_dim, v3.v_head_dim));
        // Groups are not guessed.
        let groups = [("expert_group_count", None), ("expert_group_used_count", None)];
        let read = with("v3", &groups).expect("valid");
        assert_eq!((read.n_group, read.topk_group, read.topk_method), (1, 1, TopkMethod::NoauxTc));
        let read = with("v2", &groups).expect("valid");
        assert_eq!((read.n_group, read.topk_method), (1, TopkMethod::Greedy));
        // No gate function is softmax, no weight scale is 1; no vocabulary size is the embedding's.
        let none = ["expert_gating_func", "expert_weights_scale", "vocab_size", "attention.q_lora_rank"];
        let read = with("v2-lite", &none.map(|key| (key, None))).expect("valid");
        assert_eq!(read.model_type, ModelType::DeepseekV2);
        assert_eq!((read.routed_scaling_factor, read.vocab_size, read.q_lora_rank), (1.0, 7, None));
        // One number for every layer may be an array.
        let each = Value::Array(Array::I32(vec![2048; 61]));
        let read = with("v3", &[("expert_feed_forward_length", Some(each))]).expect("valid");
        assert_eq!(read.moe_intermediate_size, 2048);
        let plain = ["factor", "type", "original_context_length", "yarn_log_multiplier"];
        let plain = plain.map(|key| format!("rope.scaling.{key}"));
        let read = with("v3", &plain.each_ref().map(|key| (key.as_str(), None))).expect("valid");
        assert_eq!(read.rope_scaling, RopeScaling::Default);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_key() {
        let refused = |changes: &[(&str, Option<Value>)], parts: &[&str]| {
            let message = with("v3", changes).expect_err("this must be refused").to_string();
            for part in parts.iter().chain(&["m.gguf"]) {
                assert!(message.contains(part), "{part:?} is missing in: {message}");
            }
        };
        refused(&[("expert_gating_func", Some(Value::U32(4)))], &["expert_gating_func", "sigmoid", "got 4"]);
        refused(&[("block_count", None)], &["deepseek2.block_count", "no such key"]);
        refused(&[("block_count", Some("many".into()))], &["block_count", "\"many\""]);
        refused(&[("block_count", Some(Value::I32(-1)))], &["block_count", "got -1"]);
        refused(&[("nextn_predict_layers", Some(Value::U32(62)))], &["block_count", "at least 62"]);
        refused(&[("attention.key_length_mla", Some(Value::U32(63)))], &["key_length_mla", "at least 64"]);
        refused(
            &[("rope.scaling.type", Some("longrope".into()))],
            &["rope.scaling.type", "longrope", "yarn"],
        );
        refused(&[("attention.temperature_scale", Some(Value::F32(0.1)))], &["temperature_scale", "0.1"]);
        refused(&[("attention.layer_norm_rms_epsilon", None)], &["layer_norm_rms_epsilon"]);
        let uneven = Value::Array(Array::U32(vec![1, 2]));
        refused(&[("feed_forward_length", Some(uneven))], &["feed_forward_length", "every layer"]);
        refused(&[("embedding_length", Some(Value::U32(0)))], &["hidden_size"]);
        let error = Config::from_gguf(
            &Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-v2"))
                .expect("a checkpoint"),
        );
        assert!(error.expect_err("no GGUF").to_string().contains("tiny-v2"));
    }

    #[test]
    fn what_llama_cpp_would_run_otherwise_is_not_written() {
        let refused = |change: &dyn Fn(&mut Config), field: &str| {
            let mut config = preset("v2");
            change(&mut config);
            let message = gguf::metadata(&config, false).expect_err("this must be refused").to_string();
            assert!(message.contains(field) && message.contains("safetensors"), "{message}");
        };
        refused(&|config| config.attention_bias = true, "attention_bias");
        refused(&|config| config.mlp_bias = true, "mlp_bias");
        refused(&|config| config.moe_layer_freq = 2, "moe_layer_freq");
        refused(&|config| config.rope_interleave = false, "rope_interleave");
        refused(&|config| config.rms_norm_eps = 1e-5, "rms_norm_eps");
        let yarn = |change: fn(&mut Yarn)| {
            move |config: &mut Config| match &mut config.rope_scaling {
                RopeScaling::Yarn(yarn) => change(yarn),
                RopeScaling::Default => panic!("V2 has YaRN"),
            }
        };
        refused(&yarn(|yarn| yarn.mscale = Some(1.0)), "mscale");
        refused(&yarn(|yarn| (yarn.mscale, yarn.mscale_all_dim) = (None, None)), "mscale");
        refused(&yarn(|yarn| yarn.attention_factor = Some(1.0)), "attention_factor");
        refused(&yarn(|yarn| yarn.truncate = false), "truncate");
    }
}

#[test]
fn our_own_quantization_is_read() {
    use serde_json::json;
    let quantization = |value: serde_json::Value| with(json!({ "quantization_config": value }));
    let rules = json!([{ "tensors": "*.experts.*", "format": "int4-g64" }]);
    let config =
        quantization(json!({ "quant_method": "fathom", "version": 1, "rules": rules })).expect("valid");
    assert_eq!(config.block_formats, Some(Plan::from_json(&rules).expect("valid")));
    assert_eq!(config.weight_block_size, None);
    let refuse = |value, parts: &[&str]| refused(json!({ "quantization_config": value }), parts);
    refuse(json!({ "quant_method": "fathom", "version": 2, "rules": rules }), &["version", "2"]);
    refuse(json!({ "quant_method": "fathom", "rules": rules }), &["version"]);
    refuse(json!({ "quant_method": "fathom", "version": 1 }), &["rules", "a list"]);
    let unknown = json!([{ "tensors": "*", "format": "int3" }]);
    refuse(
        json!({ "quant_method": "fathom", "version": 1, "rules": unknown }),
        &["rules", "int3", "int4-g64"],
    );
}
