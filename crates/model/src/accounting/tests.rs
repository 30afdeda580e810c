//! Against the figures of the papers and of the released models' documents.

use std::path::{Path, PathBuf};

use fathom_checkpoint::Checkpoint;
use fathom_kernels::Compute;

use super::*;
use crate::{LoadOptions, Model, presets};

fn preset(name: &str) -> Config {
    presets::find(name).expect("shipped")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

#[track_caller]
fn near(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{got} is not {want}");
}

/// V2 abstract and App. B, V3 abstract; in billions.
#[test]
fn parameters_are_the_published_ones() {
    for (name, total, active) in [("v2-lite", 15.7, 2.4), ("v2", 236.0, 21.0), ("v3", 671.0, 37.0)] {
        let parameters = Parameters::of(&preset(name));
        // V2-Lite's 2.451B is published as 2.4B; the others are rounded to whole billions.
        let [of_total, of_active] = if name == "v2-lite" { [0.05, 0.052] } else { [0.5, 0.5] };
        near(parameters.total as f64 / 1e9, total, of_total);
        near(parameters.active as f64 / 1e9, active, of_active);
        let parts: u64 = parameters.parts.iter().map(|part| part.total).sum();
        assert_eq!(parts, parameters.total, "{name}");
    }
}

/// V3's README_WEIGHTS: 11.5B unique and 2.4B active, embedding and head included, `eh_proj` not.
#[test]
fn the_mtp_layer_is_the_published_one() {
    let config = preset("v3");
    let parameters = Parameters::of(&config);
    let eh_proj = 2 * (config.hidden_size as u64).pow(2);
    let tables = 2 * (config.vocab_size * config.hidden_size) as u64;
    near((parameters.mtp - eh_proj) as f64 / 1e9, 11.5, 0.05);
    near((parameters.mtp_active - eh_proj + tables) as f64 / 1e9, 2.4, 0.05);
    assert_eq!(Parameters::of(&preset("v2")).mtp, 0);
}

/// V2 Table 1, and the ratios it speaks of.
#[test]
fn the_cache_is_that_of_table_1() {
    for (name, elements, mha, share) in [
        ("v2-lite", 15_552, 110_592, 0.141),
        ("v2", 34_560, 1_966_080, 0.0176),
        ("v3", 35_136, 1_998_848, 0.0176),
    ] {
        let config = preset(name);
        let cache = KvCache::of(&config, CacheFormat::Bf16);
        assert_eq!((cache.mla.elements, cache.mha.elements), (elements, mha), "{name}");
        assert_eq!(cache.mla.bytes, 2 * elements, "{name}");
        near(cache.mla.of_mha, share, 0.0005);
        let unit = (config.qk_nope_head_dim * config.num_hidden_layers) as f64;
        near(cache.mla.elements as f64 / unit, 4.5, 0.0);
        near(cache.gqa8.elements as f64 / unit, 16.0, 0.0);
        near(cache.mqa.elements as f64 / unit, 2.0, 0.0);
        assert_eq!(
            cache.mla.bytes as usize,
            LatentCache::bytes_per_token(&config, CacheFormat::Bf16),
            "{name}: what is counted is what is cached"
        );
    }
}

#[test]
fn a_tied_head_is_stored_once_and_used() {
    let mut config = preset("v2-lite");
    let untied = Parameters::of(&config);
    config.tie_word_embeddings = true;
    let tied = Parameters::of(&config);
    let table = (config.vocab_size * config.hidden_size) as u64;
    assert_eq!(untied.total - tied.total, table);
    assert_eq!(untied.active, tied.active);
}

/// The loader pads matrices to whole panels; beyond that the count is what it holds.
#[test]
fn counted_weights_are_those_loaded() {
    for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8"] {
        for format in [WeightFormat::F32, WeightFormat::Bf16] {
            let compute = Compute::new(1).expect("a thread");
            let options = LoadOptions::new(format);
            let model =
                Model::load(&fixture(name), compute, options, &mut |_, _| ()).expect("the fixture loads");
            let counted = Memory::of(
                model.config(),
                &Workload { storage: format.into(), cache: None, context: 1, batch: 1 },
            )
            .weights as f64;
            let loaded = model.weight_bytes() as f64;
            assert!(
                counted < loaded * 1.02 && counted > loaded * 0.6,
                "{name} {format:?}: {counted} {loaded}"
            );
        }
    }
}

#[test]
fn memory_grows_with_context_and_batch() {
    let config = preset("v2-lite");
    let memory = |format: WeightFormat, context, batch| {
        Memory::of(&config, &Workload { storage: format.into(), cache: None, context, batch })
    };
    let small = memory(WeightFormat::Bf16, 1000, 1);
    assert_eq!(small.cache, 1000 * 15_552 * 2);
    assert_eq!(memory(WeightFormat::Bf16, 1000, 4).cache, 4 * small.cache);
    assert_eq!(small.total, small.weights + small.cache + small.buffers);
    let double = memory(WeightFormat::F32, 1000, 1).weights as f64 / small.weights as f64;
    assert!((1.99..=2.0).contains(&double), "{double}");
    let huge = memory(WeightFormat::F32, usize::MAX, usize::MAX >> 40);
    assert_eq!(huge.total, u64::MAX, "saturates instead of wrapping");
}

#[test]
fn operations_follow_parameters_and_context() {
    for name in presets::names() {
        let config = preset(name);
        let flops = Flops::of(&config, 32_768);
        // Twice the published active parameters, norms and the embedding's row aside.
        let active = Parameters::of(&config).active as f64;
        assert!((0.999..1.0).contains(&(flops.decode.matrices / (2.0 * active))), "{name}");
        let heads = (config.num_hidden_layers * config.num_attention_heads) as f64;
        assert_eq!(flops.decode.form, "absorbed");
        near(flops.decode.attention, heads * 2.0 * 32_768.0 * (2.0 * 512.0 + 64.0), 1.0);
        // Nothing older to expand: MHA mode pays 320 per key and head, MQA mode 1088.
        assert_eq!(flops.decode_first.form, "expanded");
        near(flops.decode_first.attention, heads * 2.0 * (128.0 + 64.0 + 128.0), 1.0);
        assert_eq!(flops.prefill.form, "expanded");
        near(flops.prefill.attention, heads * 32_769.0 * (128.0 + 64.0 + 128.0), 1.0);
    }
}

#[test]
fn a_checkpoint_is_checked_without_loading() {
    let (config, held) = {
        let dir = fixture("tiny-v3-mtp");
        (Config::read(&dir).expect("valid"), Checkpoint::open(&dir).expect("a checkpoint"))
    };
    let contents = stored(&config, &held).expect("they agree");
    assert!(contents.mtp);
    assert_eq!(contents.bytes, contents.dtypes.iter().map(|row| row.bytes).sum::<u64>());
    assert_eq!(contents.tensors, held.names().count());

    let check = |change: &dyn Fn(&mut Config), part: &str| {
        let mut config = config.clone();
        change(&mut config);
        let message = stored(&config, &held).expect_err("they disagree").to_string();
        assert!(message.contains(part), "{message} lacks {part}");
    };
    check(&|config| config.num_nextn_predict_layers = 0, "model.layers.3.");
    check(&|config| config.n_routed_experts = 13, "mlp.gate.weight");
    check(&|config| config.q_lora_rank = None, "q_proj.weight");
    check(&|config| config.n_shared_experts = 0, "shared_experts");
    check(&|config| config.vocab_size = 500, "model.embed_tokens.weight");
}
