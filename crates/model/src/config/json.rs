//! [`Config`] to `config.json`, in the style of the released files, which transformers reads too.

use fathom_kernels::router::{Scoring, TopkMethod};
use serde_json::{Value, json};

use super::{Config, ModelType, RopeScaling};

impl Config {
    /// The text of a `config.json`, with `dtype` (`float32`, `bfloat16`) as `torch_dtype`: reading it gives this
    /// configuration again, quantization aside.
    pub fn to_json(&self, dtype: &str) -> String {
        let mut fields = self.shared_fields();
        fields["torch_dtype"] = json!(dtype);
        let architecture = match self.model_type {
            ModelType::DeepseekV2 => "DeepseekV2ForCausalLM",
            ModelType::DeepseekV3 => "DeepseekV3ForCausalLM",
            ModelType::Deepseek => "DeepseekForCausalLM",
        };
        fields["architectures"] = json!([architecture]);
        self.attention_fields(&mut fields);
        if self.n_routed_experts > 0 {
            self.expert_fields(&mut fields);
        }
        if let Some(bos) = self.bos_token_id {
            fields["bos_token_id"] = json!(bos);
        }
        match self.eos_token_id.as_slice() {
            [] => {}
            [one] => fields["eos_token_id"] = json!(one),
            many => fields["eos_token_id"] = json!(many),
        }
        format!("{fields:#}\n")
    }

    fn shared_fields(&self) -> Value {
        json!({
            "model_type": self.model_type.name(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "num_nextn_predict_layers": self.num_nextn_predict_layers,
            "hidden_act": "silu",
            "initializer_range": 0.006,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": exact(self.rms_norm_eps),
            "rope_theta": self.rope_theta,
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_cache": true,
        })
    }

    fn attention_fields(&self, fields: &mut Value) {
        if self.model_type == ModelType::Deepseek {
            fields["head_dim"] = json!(self.v_head_dim);
        } else {
            fields["q_lora_rank"] = json!(self.q_lora_rank);
            fields["kv_lora_rank"] = json!(self.kv_lora_rank);
            fields["qk_nope_head_dim"] = json!(self.qk_nope_head_dim);
            fields["qk_rope_head_dim"] = json!(self.qk_rope_head_dim);
            fields["v_head_dim"] = json!(self.v_head_dim);
        }
        if self.model_type == ModelType::DeepseekV3 && !self.rope_interleave {
            fields["rope_interleave"] = json!(false);
        }
        if self.model_type != ModelType::DeepseekV3 && self.mlp_bias {
            fields["mlp_bias"] = json!(true);
        }
        let RopeScaling::Yarn(yarn) = &self.rope_scaling else { return };
        let mut scaling = json!({
            "type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
        });
        let optional = [
            ("mscale", yarn.mscale),
            ("mscale_all_dim", yarn.mscale_all_dim),
            ("attention_factor", yarn.attention_factor),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                scaling[field] = json!(value);
            }
        }
        if !yarn.truncate {
            scaling["truncate"] = json!(false);
        }
        fields["rope_scaling"] = scaling;
    }

    fn expert_fields(&self, fields: &mut Value) {
        fields["moe_intermediate_size"] = json!(self.moe_intermediate_size);
        fields["n_routed_experts"] = json!(self.n_routed_experts);
        fields["n_shared_experts"] = match self.n_shared_experts {
            0 if self.model_type == ModelType::Deepseek => Value::Null,
            count => json!(count),
        };
        fields["num_experts_per_tok"] = json!(self.num_experts_per_tok);
        fields["n_group"] = json!(self.n_group);
        fields["topk_group"] = json!(self.topk_group);
        fields["topk_method"] = json!(match self.topk_method {
            TopkMethod::Greedy => "greedy",
            TopkMethod::GroupLimitedGreedy => "group_limited_greedy",
            TopkMethod::NoauxTc => "noaux_tc",
        });
        fields["scoring_func"] = json!(match self.scoring_func {
            Scoring::Softmax => "softmax",
            Scoring::Sigmoid => "sigmoid",
        });
        fields["norm_topk_prob"] = json!(self.norm_topk_prob);
        fields["routed_scaling_factor"] = exact(self.routed_scaling_factor);
        fields["first_k_dense_replace"] = json!(self.first_k_dense_replace);
        fields["moe_layer_freq"] = json!(self.moe_layer_freq);
        fields["ep_size"] = json!(1);
    }
}

/// The shortest decimal that reads as this f32: `1e-6` and not `9.999999974752427e-7`.
fn exact(value: f32) -> Value {
    json!(value.to_string().parse::<f64>().expect("a number's own text"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        let mut configs: Vec<Config> =
            crate::presets::names().map(|name| crate::presets::find(name).expect("a preset")).collect();
        for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-mtp"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
            configs.push(Config::read(&dir).expect("a fixture"));
        }
        let grouped = r#"{"model_type": "deepseek", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "n_routed_experts": 4,
            "moe_intermediate_size": 16, "num_experts_per_tok": 2, "norm_topk_prob": true,
            "max_position_embeddings": 128}"#;
        configs.push(Config::parse_trainable(grouped, Path::new("config.json")).expect("valid"));
        for config in configs {
            let text = config.to_json("bfloat16");
            let read = Config::parse_trainable(&text, Path::new("config.json")).expect("our own");
            let expected = Config { weight_block_size: None, power_of_two_scales: false, ..config };
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn baselines_are_trained_and_not_served() {
        let text = r#"{"model_type": "deepseek", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 6, "max_position_embeddings": 128}"#;
        let file = Path::new("config.json");
        let config = Config::parse_trainable(text, file).expect("valid");
        assert_eq!([config.num_key_value_heads, config.v_head_dim, config.qk_head_dim()], [6, 4, 4]);
        let refused = Config::parse(text, file).expect_err("not served").to_string();
        assert!(refused.contains("deepseek_v2") && refused.contains("trained"), "{refused}");
        for (field, value, named) in
            [("num_key_value_heads", 4, "num_key_value_heads"), ("head_dim", 3, "head_dim")]
        {
            let text = text.replacen('{', &format!("{{\"{field}\": {value}, "), 1);
            let refused = Config::parse_trainable(&text, file).expect_err("impossible").to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }
}
