//! `config.json` to [`Config`]: defaults, checks, and what the two families fix.

use std::path::Path;

use fathom_checkpoint::Plan;
use fathom_kernels::router::{Scoring, TopkMethod};
use serde_json::{Map, Value};

use super::fields::Fields;
use super::{Config, ModelType, rope};
use crate::{Error, Result};

/// Rows of one layer's widest projection.
const PROJECTION_MAX: usize = 1 << 22;

/// Layers times experts.
const EXPERTS_MAX: usize = 1 << 18;

pub(super) fn config(text: &str, file: &Path) -> Result<Config> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Error::ConfigSyntax { file: file.to_owned(), reason: error.to_string() })?;
    let value = value.as_object().ok_or_else(|| Error::ConfigSyntax {
        file: file.to_owned(),
        reason: "the file is not an object".to_owned(),
    })?;
    object(value, file)
}

/// The same of an object, whatever text it came from; `file` is named in errors.
pub(super) fn object(object: &Map<String, Value>, file: &Path) -> Result<Config> {
    let fields = Fields { file, object };
    let model_type = model_type(&fields)?;
    let v3 = model_type == ModelType::DeepseekV3;
    let heads = heads(&fields, model_type)?;
    fields.word("hidden_act", &[("silu", ())])?;
    let (rope_theta, rope_scaling) = rope::parse(&fields)?;
    let quantization = quantization(&fields)?;
    let config = Config {
        model_type,
        vocab_size: fields.dimension("vocab_size")?,
        hidden_size: fields.dimension("hidden_size")?,
        intermediate_size: fields.dimension("intermediate_size")?,
        moe_intermediate_size: fields.optional_dimension("moe_intermediate_size")?.unwrap_or(1),
        num_hidden_layers: fields.dimension("num_hidden_layers")?,
        num_attention_heads: heads.query,
        num_key_value_heads: heads.key_value,
        q_lora_rank: heads.q_lora_rank,
        kv_lora_rank: heads.kv_lora_rank,
        qk_nope_head_dim: heads.qk_nope_head_dim,
        qk_rope_head_dim: heads.qk_rope_head_dim,
        v_head_dim: heads.v_head_dim,
        n_routed_experts: fields.optional_count("n_routed_experts")?.unwrap_or(0),
        n_shared_experts: fields.optional_count("n_shared_experts")?.unwrap_or(0),
        num_experts_per_tok: fields.optional_count("num_experts_per_tok")?.unwrap_or(0),
        n_group: fields.optional_dimension("n_group")?.unwrap_or(1),
        topk_group: fields.optional_dimension("topk_group")?.unwrap_or(1),
        topk_method: topk_method(&fields, v3)?,
        scoring_func: scoring_func(&fields, v3)?,
        norm_topk_prob: fields.flag("norm_topk_prob", v3)?,
        routed_scaling_factor: fields.optional_number("routed_scaling_factor", 0.0)?.unwrap_or(if v3 {
            2.5
        } else {
            1.0
        }) as f32,
        first_k_dense_replace: fields.optional_count("first_k_dense_replace")?.unwrap_or(if v3 {
            3
        } else {
            0
        }),
        moe_layer_freq: fields.optional_dimension("moe_layer_freq")?.unwrap_or(1),
        num_nextn_predict_layers: fields.optional_count("num_nextn_predict_layers")?.unwrap_or(0),
        rms_norm_eps: fields.optional_number("rms_norm_eps", 0.0)?.unwrap_or(1e-6) as f32,
        attention_bias: fields.flag("attention_bias", false)?,
        mlp_bias: !v3 && fields.flag("mlp_bias", false)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        max_position_embeddings: fields.context("max_position_embeddings")?,
        rope_theta,
        rope_scaling,
        rope_interleave: match model_type {
            ModelType::DeepseekV2 => true,
            ModelType::DeepseekV3 => fields.flag("rope_interleave", true)?,
            ModelType::Deepseek => false,
        },
        bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
        eos_token_id: fields.token_ids("eos_token_id")?,
        weight_block_size: quantization.weight_block_size,
        power_of_two_scales: quantization.power_of_two_scales,
        block_formats: quantization.block_formats,
    };
    check(&config, &fields)?;
    Ok(config)
}

fn model_type(fields: &Fields<'_>) -> Result<ModelType> {
    let expected = "deepseek_v2 or deepseek_v3";
    match fields.get("model_type") {
        None => Err(Error::MissingField { file: fields.file.to_owned(), field: "model_type", expected }),
        Some(Value::String(name)) => match name.as_str() {
            "deepseek_v2" => Ok(ModelType::DeepseekV2),
            "deepseek_v3" => Ok(ModelType::DeepseekV3),
            "deepseek" => Ok(ModelType::Deepseek),
            _ => Err(Error::UnsupportedModelType { file: fields.file.to_owned(), got: name.clone() }),
        },
        Some(other) => Err(fields.bad("model_type", expected, other)),
    }
}

/// How attention is cut into heads.
struct Heads {
    query: usize,
    key_value: usize,
    q_lora_rank: Option<usize>,
    kv_lora_rank: usize,
    qk_nope_head_dim: usize,
    qk_rope_head_dim: usize,
    v_head_dim: usize,
}

fn heads(fields: &Fields<'_>, model_type: ModelType) -> Result<Heads> {
    let query = fields.dimension("num_attention_heads")?;
    let key_value = fields.optional_dimension("num_key_value_heads")?.unwrap_or(query);
    let fail = |field, expected: String, got: usize| {
        Err(Error::BadField { file: fields.file.to_owned(), field, expected, got: got.to_string() })
    };
    if model_type != ModelType::Deepseek {
        if key_value != query {
            return fail("num_key_value_heads", format!("{query}, as num_attention_heads"), key_value);
        }
        return Ok(Heads {
            query,
            key_value,
            q_lora_rank: fields.optional_dimension("q_lora_rank")?,
            kv_lora_rank: fields.dimension("kv_lora_rank")?,
            qk_nope_head_dim: fields.dimension("qk_nope_head_dim")?,
            qk_rope_head_dim: fields.dimension("qk_rope_head_dim")?,
            v_head_dim: fields.dimension("v_head_dim")?,
        });
    }
    if !query.is_multiple_of(key_value) {
        let expected = format!("a divisor of num_attention_heads = {query}");
        return fail("num_key_value_heads", expected, key_value);
    }
    let hidden = fields.dimension("hidden_size")?;
    let head_dim = match fields.optional_dimension("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(query) => hidden / query,
        None => return fail("num_attention_heads", format!("a divisor of hidden_size = {hidden}"), query),
    };
    if !head_dim.is_multiple_of(2) {
        return fail("head_dim", "even: rotary numbers come in pairs".to_owned(), head_dim);
    }
    Ok(Heads {
        query,
        key_value,
        q_lora_rank: None,
        kv_lora_rank: 0,
        qk_nope_head_dim: 0,
        qk_rope_head_dim: head_dim,
        v_head_dim: head_dim,
    })
}

fn topk_method(fields: &Fields<'_>, v3: bool) -> Result<TopkMethod> {
    let methods: &[(&str, TopkMethod)] = &[
        ("greedy", TopkMethod::Greedy),
        ("group_limited_greedy", TopkMethod::GroupLimitedGreedy),
        ("noaux_tc", TopkMethod::NoauxTc),
    ];
    // Each family's references know their own methods only; V3's is fixed.
    let known = if v3 { &methods[2..] } else { &methods[..2] };
    Ok(fields.word("topk_method", known)?.unwrap_or(known[0].1))
}

fn scoring_func(fields: &Fields<'_>, v3: bool) -> Result<Scoring> {
    let known = if v3 { [("sigmoid", Scoring::Sigmoid)] } else { [("softmax", Scoring::Softmax)] };
    Ok(fields.word("scoring_func", &known)?.unwrap_or(known[0].1))
}

/// What `quantization_config` says; all empty if there is none.
#[derive(Default)]
struct Quantization {
    weight_block_size: Option<[usize; 2]>,
    power_of_two_scales: bool,
    block_formats: Option<Plan>,
}

/// The version of our own quantized checkpoints (`docs/formats/quantized-safetensors.md`).
const OWN_VERSION: u64 = 1;

fn quantization(fields: &Fields<'_>) -> Result<Quantization> {
    let Some(quantization) = fields.object("quantization_config")? else {
        return Ok(Quantization::default());
    };
    let own = quantization.word("quant_method", &[("fp8", false), ("fathom", true)])?.unwrap_or(false);
    if own {
        let version = quantization.get("version").unwrap_or(&Value::Null);
        if version.as_u64() != Some(OWN_VERSION) {
            return Err(quantization.bad("version", "1: is Fathom too old?", version));
        }
        let rules = quantization.get("rules").unwrap_or(&Value::Null);
        let plan =
            Plan::from_json(rules).map_err(|error| quantization.bad("rules", &error.to_string(), rules))?;
        return Ok(Quantization { block_formats: Some(plan), ..Quantization::default() });
    }
    quantization.word("fmt", &[("e4m3", ())])?;
    let power_of_two_scales =
        quantization.word("scale_fmt", &[("ue8m0", true), ("float", false)])?.unwrap_or(false);
    let block = match quantization.get("weight_block_size") {
        None => [128, 128],
        Some(value) => block_size(value)
            .ok_or_else(|| quantization.bad("weight_block_size", "two positive integers", value))?,
    };
    Ok(Quantization { weight_block_size: Some(block), power_of_two_scales, block_formats: None })
}

fn block_size(value: &Value) -> Option<[usize; 2]> {
    let side = |value: &Value| value.as_u64().filter(|side| (1..=1 << 20).contains(side)).map(|s| s as usize);
    match value.as_array()?.as_slice() {
        [rows, cols] => Some([side(rows)?, side(cols)?]),
        _ => None,
    }
}

fn check(config: &Config, fields: &Fields<'_>) -> Result<()> {
    let fail = |field: &'static str, expected: String, got: usize| {
        Err(Error::BadField { file: fields.file.to_owned(), field, expected, got: got.to_string() })
    };
    if !config.qk_rope_head_dim.is_multiple_of(2) {
        return fail(
            "qk_rope_head_dim",
            "even: rotary numbers come in pairs".to_owned(),
            config.qk_rope_head_dim,
        );
    }
    // Beyond these no file could hold the weights; within them no list or sum of ours can overflow.
    let (heads, widest) =
        (config.num_attention_heads, config.qk_head_dim().max(config.qk_nope_head_dim + config.v_head_dim));
    if heads * widest > PROJECTION_MAX {
        return fail("num_attention_heads", format!("at most {}", PROJECTION_MAX / widest), heads);
    }
    let layers = config.layers_with_mtp();
    if layers * (config.n_routed_experts + config.n_shared_experts + 1) > EXPERTS_MAX {
        return fail(
            "num_hidden_layers",
            format!("such that layers times experts are at most {EXPERTS_MAX}"),
            layers,
        );
    }
    let any_moe = (0..config.layers_with_mtp()).any(|layer| config.is_moe(layer));
    if !any_moe {
        return Ok(());
    }
    if fields.optional_dimension("moe_intermediate_size")?.is_none() {
        let (field, expected) = ("moe_intermediate_size", "a positive integer");
        return Err(Error::MissingField { file: fields.file.to_owned(), field, expected });
    }
    let experts = config.n_routed_experts;
    if config.num_experts_per_tok == 0 || config.num_experts_per_tok > experts {
        return fail(
            "num_experts_per_tok",
            format!("from 1 to n_routed_experts = {experts}"),
            config.num_experts_per_tok,
        );
    }
    if config.topk_method == TopkMethod::Greedy {
        return Ok(());
    }
    if !experts.is_multiple_of(config.n_group) {
        return fail("n_group", format!("a divisor of n_routed_experts = {experts}"), config.n_group);
    }
    let group = experts / config.n_group;
    if config.n_group > 1024 {
        return fail("n_group", "at most 1024".to_owned(), config.n_group);
    }
    if config.topk_group > config.n_group || config.topk_group * group < config.num_experts_per_tok {
        let expected = format!(
            "at most n_group = {} and enough for num_experts_per_tok = {} in groups of {group}",
            config.n_group, config.num_experts_per_tok
        );
        return fail("topk_group", expected, config.topk_group);
    }
    Ok(())
}
