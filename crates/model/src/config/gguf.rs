//! Configurations in GGUF metadata (llama.cpp's `deepseek2`), in both directions.
//!
//! Reading makes the `config.json` that the same model has as a directory, and hands it to the one parser with
//! all its checks. What is not said one to one:
//!
//! - `attention.key_length` is a head's width in old files and `kv_lora_rank + qk_rope_head_dim` in MLA-split
//!   ones, which add `attention.key_length_mla`; `value_length` likewise. `head_count_kv` is not a number of heads.
//! - The family is said by the gate: softmax (or nothing: old V2 files) is V2, sigmoid V3. Of V2's methods,
//!   more than one expert group means `group_limited_greedy`. Files from before the group keys route without groups.
//! - `rope.scaling.yarn_log_multiplier` is `0.1 · mscale_all_dim`. `mscale` is lost; llama.cpp takes both as equal
//!   (they are in every release), and so does this.
//! - `block_count` counts MTP layers, `nextn_predict_layers` of them.
//! - Without `output.weight` the head is the embedding.

use std::path::Path;

use fathom_checkpoint::Checkpoint;
use fathom_checkpoint::gguf::{ARCHITECTURE, Metadata, Value};
use fathom_checkpoint::names;
use fathom_kernels::router::{Scoring, TopkMethod};
use serde_json::{Map, Value as Json, json};

use super::{Config, LATENT_NORM_EPS, ModelType, RopeScaling, Yarn, parse};
use crate::{Error, Result};

/// `expert_gating_func` of llama.cpp.
const SOFTMAX: u64 = 1;
const SIGMOID: u64 = 2;

/// Keys with which other models of the same architecture change what is computed.
const NOT_COMPUTED: [(&str, f64); 3] = [
    ("attention.temperature_scale", 0.0),
    ("rope.scaling.attn_factor", 1.0),
    ("rope.scaling.yarn_ext_factor", 1.0),
];

/// The configuration of a GGUF checkpoint.
pub(super) fn read(checkpoint: &Checkpoint) -> Result<Config> {
    let (object, file) = object(checkpoint)?;
    parse::object(&object, file)
}

/// The `config.json` that the model of a GGUF checkpoint has as a directory.
///
/// # Errors
/// If the checkpoint is no GGUF file, or a key is missing, of the wrong type, or says what Fathom does not
/// compute.
pub fn config_json(checkpoint: &Checkpoint) -> Result<String> {
    Ok(format!("{:#}\n", Json::Object(object(checkpoint)?.0)))
}

fn object(checkpoint: &Checkpoint) -> Result<(Map<String, Json>, &Path)> {
    let Some(metadata) = checkpoint.gguf() else {
        return Err(Error::NoGguf { path: checkpoint.path().to_owned() });
    };
    let rows = checkpoint.find(names::EMBED_TOKENS).map(|view| view.shape[0] as u64);
    let object = Keys { metadata }.object(rows, checkpoint.contains(names::LM_HEAD))?;
    Ok((object, metadata.file()))
}

fn key(name: &str) -> String {
    format!("{ARCHITECTURE}.{name}")
}

struct Keys<'a> {
    metadata: &'a Metadata,
}

impl Keys<'_> {
    fn wrong(&self, name: &str, expected: &str) -> Error {
        self.metadata.wrong(&key(name), expected).into()
    }

    /// An integer, or an array of one for every layer that says the same of all.
    fn integer(&self, name: &str) -> Result<Option<u64>> {
        let key = key(name);
        if !matches!(self.metadata.get(&key), Some(Value::Array(_))) {
            return Ok(self.metadata.unsigned(&key)?);
        }
        let values = self.metadata.integers(&key)?.unwrap_or_default();
        match values.split_first() {
            Some((&first, rest)) if first >= 0 && rest.iter().all(|&value| value == first) => {
                Ok(Some(first.unsigned_abs()))
            }
            _ => Err(self.wrong(name, "the same number for every layer")),
        }
    }

    fn required(&self, name: &str) -> Result<u64> {
        self.integer(name)?.ok_or_else(|| self.wrong(name, "an integer"))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        Ok(self.metadata.number(&key(name))?)
    }

    /// `whole - part`, the width of a head's other half.
    fn rest(&self, name: &str, whole: u64, part: u64) -> Result<u64> {
        whole.checked_sub(part).ok_or_else(|| self.wrong(name, &format!("at least {part}")))
    }

    fn object(&self, embedding_rows: Option<u64>, has_head: bool) -> Result<Map<String, Json>> {
        for (name, neutral) in NOT_COMPUTED {
            if self.number(name)?.is_some_and(|value| value != neutral && value != 0.0) {
                return Err(self.wrong(name, "absent: Fathom does not compute what it asks for"));
            }
        }
        let v3 = self.is_v3()?;
        let rope = self.required("rope.dimension_count")?;
        let (key_name, value_name) = match self.integer("attention.key_length_mla")? {
            Some(_) => ("attention.key_length_mla", "attention.value_length_mla"),
            None => ("attention.key_length", "attention.value_length"),
        };
        let nope = self.rest(key_name, self.required(key_name)?, rope)?;
        let mtp = self.integer("nextn_predict_layers")?.unwrap_or(0);
        let layers = self.rest("block_count", self.required("block_count")?, mtp)?;
        let vocabulary = self.integer("vocab_size")?.or(embedding_rows);
        let mut object = json!({
            "architectures": [if v3 { "DeepseekV3ForCausalLM" } else { "DeepseekV2ForCausalLM" }],
            "model_type": if v3 { "deepseek_v3" } else { "deepseek_v2" },
            "vocab_size": vocabulary.ok_or_else(|| self.wrong("vocab_size", "an integer"))?,
            "hidden_size": self.required("embedding_length")?,
            "intermediate_size": self.required("feed_forward_length")?,
            "num_hidden_layers": layers,
            "num_nextn_predict_layers": mtp,
            "num_attention_heads": self.required("attention.head_count")?,
            "q_lora_rank": self.integer("attention.q_lora_rank")?.filter(|&rank| rank > 0),
            "kv_lora_rank": self.required("attention.kv_lora_rank")?,
            "qk_nope_head_dim": nope,
            "qk_rope_head_dim": rope,
            "v_head_dim": self.required(value_name)?,
            "max_position_embeddings": self.required("context_length")?,
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| self.wrong("attention.layer_norm_rms_epsilon", "a number"))?,
            "rope_theta": self.number("rope.freq_base")?.unwrap_or(10_000.0),
            "tie_word_embeddings": !has_head,
            "attention_bias": false,
            "hidden_act": "silu",
        });
        let object = object.as_object_mut().map(std::mem::take).expect("json! made an object");
        let object = self.with_experts(object, layers, v3)?;
        let mut object = self.with_tokens(object)?;
        if let Some(scaling) = self.rope_scaling()? {
            object.insert("rope_scaling".to_owned(), scaling);
        }
        Ok(object)
    }

    fn is_v3(&self) -> Result<bool> {
        match self.integer("expert_gating_func")? {
            None | Some(0 | SOFTMAX) => Ok(false),
            Some(SIGMOID) => Ok(true),
            Some(_) => Err(self.wrong("expert_gating_func", "1 (softmax) or 2 (sigmoid)")),
        }
    }

    fn with_experts(
        &self,
        mut object: Map<String, Json>,
        layers: u64,
        v3: bool,
    ) -> Result<Map<String, Json>> {
        let experts = self.integer("expert_count")?.unwrap_or(0);
        let dense =
            self.integer("leading_dense_block_count")?.unwrap_or(if experts > 0 { 0 } else { layers });
        let groups = self.integer("expert_group_count")?.unwrap_or(0).max(1);
        let used = self.integer("expert_group_used_count")?.unwrap_or(0).max(1);
        let method = match (v3, groups) {
            (true, _) => "noaux_tc",
            (false, 1) => "greedy",
            (false, _) => "group_limited_greedy",
        };
        // Zero and nothing both mean that there is no factor.
        let scale = self.number("expert_weights_scale")?.filter(|&scale| scale != 0.0).unwrap_or(1.0);
        let normalize = self.metadata.flag(&key("expert_weights_norm"))?.unwrap_or(false);
        let fields = json!({
            "n_routed_experts": experts,
            "n_shared_experts": self.integer("expert_shared_count")?.unwrap_or(0),
            "num_experts_per_tok": self.integer("expert_used_count")?.unwrap_or(0),
            "moe_intermediate_size": self.integer("expert_feed_forward_length")?,
            "first_k_dense_replace": dense,
            "moe_layer_freq": 1,
            "n_group": groups,
            "topk_group": used,
            "topk_method": method,
            "scoring_func": if v3 { "sigmoid" } else { "softmax" },
            "norm_topk_prob": normalize,
            "routed_scaling_factor": scale,
        });
        if let Json::Object(fields) = fields {
            object.extend(fields);
        }
        Ok(object)
    }

    fn with_tokens(&self, mut object: Map<String, Json>) -> Result<Map<String, Json>> {
        let id = |name: &str| self.metadata.unsigned(&format!("tokenizer.ggml.{name}"));
        if let Some(bos) = id("bos_token_id")? {
            object.insert("bos_token_id".to_owned(), bos.into());
        }
        let mut ends: Vec<u64> = Vec::new();
        for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ends.extend(id(name)?.filter(|end| !ends.contains(end)));
        }
        if !ends.is_empty() {
            let ends = if let [one] = ends[..] { one.into() } else { ends.into() };
            object.insert("eos_token_id".to_owned(), ends);
        }
        Ok(object)
    }

    fn rope_scaling(&self) -> Result<Option<Json>> {
        const TYPE: &str = "rope.scaling.type";
        let factor = self.number("rope.scaling.factor")?.filter(|&factor| factor != 0.0);
        match self.metadata.text(&key(TYPE))? {
            Some("yarn") => {}
            None | Some("none" | "linear") if factor.is_none_or(|factor| factor == 1.0) => return Ok(None),
            Some("none") => return Ok(None),
            _ => return Err(self.wrong(TYPE, "yarn, or none")),
        }
        let mut scaling = json!({
            "type": "yarn",
            "factor": factor.ok_or_else(|| self.wrong("rope.scaling.factor", "a number above 0"))?,
            "original_max_position_embeddings": self.required("rope.scaling.original_context_length")?,
            "beta_fast": self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            "beta_slow": self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        });
        if let Some(multiplier) = self.number("rope.scaling.yarn_log_multiplier")?.filter(|&m| m != 0.0) {
            // 0.0707 was an f32 in between: six digits are meant.
            let mscale = (multiplier * 1e7).round() / 1e6;
            scaling["mscale"] = mscale.into();
            scaling["mscale_all_dim"] = mscale.into();
        }
        if let Some(factor) = self.number("rope.scaling.yarn_attn_factor")? {
            scaling["attention_factor"] = factor.into();
        }
        Ok(Some(scaling))
    }
}

/// The metadata with which llama.cpp runs this configuration: everything but the tokenizer's. `mtp` says
/// whether the file has the MTP layers.
///
/// # Errors
/// [`Error::NotInGguf`] for a configuration that llama.cpp would run as another model.
pub fn metadata(config: &Config, mtp: bool) -> Result<Vec<(String, Value)>> {
    expressible(config)?;
    let count = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    let mtp_layers = if mtp { config.num_nextn_predict_layers } else { 0 };
    let latent = config.kv_lora_rank;
    let mut entries = vec![
        ("block_count", count(config.num_hidden_layers + mtp_layers)),
        ("context_length", count(config.max_position_embeddings)),
        ("embedding_length", count(config.hidden_size)),
        ("feed_forward_length", count(config.intermediate_size)),
        ("attention.head_count", count(config.num_attention_heads)),
        // MLA in absorbed form is attention with one key head.
        ("attention.head_count_kv", Value::U32(1)),
        ("attention.layer_norm_rms_epsilon", config.rms_norm_eps.into()),
        // llama.cpp demands the key of all but 26 and 27 layers; 0 says that queries are not compressed.
        ("attention.q_lora_rank", count(config.q_lora_rank.unwrap_or(0))),
        ("attention.kv_lora_rank", count(latent)),
        ("attention.key_length", count(config.latent_width())),
        ("attention.value_length", count(latent)),
        ("attention.key_length_mla", count(config.qk_head_dim())),
        ("attention.value_length_mla", count(config.v_head_dim)),
        ("rope.dimension_count", count(config.qk_rope_head_dim)),
        ("rope.freq_base", (config.rope_theta as f32).into()),
        ("vocab_size", count(config.vocab_size)),
        ("leading_dense_block_count", count(config.first_k_dense_replace.min(config.num_hidden_layers))),
        ("expert_feed_forward_length", count(config.moe_intermediate_size)),
        ("expert_shared_count", count(config.n_shared_experts)),
    ];
    if config.n_routed_experts > 0 {
        // Choosing among all groups is choosing without them, which llama.cpp says with one group.
        let grouped = config.topk_method != TopkMethod::Greedy && config.topk_group < config.n_group;
        let [groups, used] = if grouped { [config.n_group, config.topk_group] } else { [1, 1] };
        let gate = if config.scoring_func == Scoring::Sigmoid { SIGMOID } else { SOFTMAX };
        entries.extend([
            ("expert_count", count(config.n_routed_experts)),
            ("expert_used_count", count(config.num_experts_per_tok)),
            ("expert_group_count", count(groups)),
            ("expert_group_used_count", count(used)),
            ("expert_weights_scale", config.routed_scaling_factor.into()),
            ("expert_weights_norm", config.router().normalize.into()),
            ("expert_gating_func", Value::U32(gate as u32)),
        ]);
    }
    if mtp_layers > 0 {
        entries.push(("nextn_predict_layers", count(mtp_layers)));
    }
    if let RopeScaling::Yarn(yarn) = &config.rope_scaling {
        let multiplier = 0.1 * yarn.mscale_all_dim.unwrap_or(0.0);
        entries.extend([
            ("rope.scaling.type", Value::from("yarn")),
            ("rope.scaling.factor", (yarn.factor as f32).into()),
            ("rope.scaling.original_context_length", count(yarn.original_max_position_embeddings)),
            ("rope.scaling.yarn_beta_fast", (yarn.beta_fast as f32).into()),
            ("rope.scaling.yarn_beta_slow", (yarn.beta_slow as f32).into()),
            ("rope.scaling.yarn_log_multiplier", (multiplier as f32).into()),
        ]);
    }
    let own = entries.into_iter().map(|(name, value)| (key(name), value));
    let general = [("general.architecture", ARCHITECTURE), ("general.type", "model")];
    Ok(general.map(|(key, value)| (key.to_owned(), value.into())).into_iter().chain(own).collect())
}

/// Refuses what llama.cpp has no key for and would compute differently.
fn expressible(config: &Config) -> Result<()> {
    let refuse = |field: &'static str, got: String, expected: &'static str| {
        Err(Error::NotInGguf { field, got, expected })
    };
    if config.attention_bias || config.mlp_bias {
        let field = if config.attention_bias { "attention_bias" } else { "mlp_bias" };
        return refuse(field, "true".to_owned(), "false");
    }
    if config.moe_layer_freq != 1 {
        return refuse("moe_layer_freq", config.moe_layer_freq.to_string(), "1");
    }
    if !config.rope_interleave {
        return refuse("rope_interleave", "false".to_owned(), "true");
    }
    // llama.cpp normalises latents with the one epsilon of the file, the references with this.
    if (config.rms_norm_eps / LATENT_NORM_EPS - 1.0).abs() > 1e-3 {
        return refuse("rms_norm_eps", config.rms_norm_eps.to_string(), "1e-6, as inside MLA");
    }
    if config.model_type == ModelType::DeepseekV3 && config.n_routed_experts == 0 {
        return refuse("n_routed_experts", "0".to_owned(), "experts, whose gate says the model_type");
    }
    let RopeScaling::Yarn(Yarn { mscale, mscale_all_dim, attention_factor, truncate, .. }) =
        &config.rope_scaling
    else {
        return Ok(());
    };
    let show = |value: &Option<f64>| value.map_or_else(|| "null".to_owned(), |value| value.to_string());
    if mscale_all_dim.is_none() || mscale != mscale_all_dim {
        return refuse("rope_scaling.mscale", show(mscale), "the same as mscale_all_dim, and not 0");
    }
    if attention_factor.is_some() {
        return refuse("rope_scaling.attention_factor", show(attention_factor), "null");
    }
    if !truncate {
        return refuse("rope_scaling.truncate", "false".to_owned(), "true");
    }
    Ok(())
}
