//! The one table of tensor names: how the `deepseek_v2` and `deepseek_v3` families are stored in Hugging
//! Face form (DeepSeek-V3 README_WEIGHTS.md; transformers `modeling_deepseek_v2`, `modeling_deepseek_v3`).
//!
//! Main layers are 0..`num_hidden_layers`; each MTP module is one more layer after them, with the same
//! block and the extra tensors at the end of [`Layer`].

/// Token embedding `[vocab_size, hidden_size]`.
pub const EMBED_TOKENS: &str = "model.embed_tokens.weight";
/// Final RMSNorm `[hidden_size]`.
pub const NORM: &str = "model.norm.weight";
/// Output head `[vocab_size, hidden_size]`; absent where `tie_word_embeddings`.
pub const LM_HEAD: &str = "lm_head.weight";

/// The weights of one attention block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// `[heads * (qk_nope + qk_rope), hidden]`, where there is no `q_lora_rank`.
    QProj,
    /// `[q_lora_rank, hidden]`
    QAProj,
    /// `[q_lora_rank]`
    QALayernorm,
    /// `[heads * (qk_nope + qk_rope), q_lora_rank]`
    QBProj,
    /// `[kv_lora_rank + qk_rope, hidden]`: the latent, then the shared rotary key.
    KvAProjWithMqa,
    /// `[kv_lora_rank]`
    KvALayernorm,
    /// `[heads * (qk_nope + v), kv_lora_rank]`: per head the key part, then the value part.
    KvBProj,
    /// `[hidden, heads * v]`
    OProj,
    /// `[key heads * head_dim, hidden]`: MHA, GQA and MQA only, as [`Self::VProj`].
    KProj,
    /// `[key heads * head_dim, hidden]`
    VProj,
}

/// The three matrices of a SwiGLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ffn {
    /// `[intermediate, hidden]`, the half that goes through SiLU.
    GateProj,
    /// `[intermediate, hidden]`
    UpProj,
    /// `[hidden, intermediate]`
    DownProj,
}

impl Attention {
    /// Those of MLA, in the order of the data flow.
    pub const ALL: [Self; 8] = [
        Self::QProj,
        Self::QAProj,
        Self::QALayernorm,
        Self::QBProj,
        Self::KvAProjWithMqa,
        Self::KvALayernorm,
        Self::KvBProj,
        Self::OProj,
    ];

    fn module(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::QAProj => "q_a_proj",
            Self::QALayernorm => "q_a_layernorm",
            Self::QBProj => "q_b_proj",
            Self::KvAProjWithMqa => "kv_a_proj_with_mqa",
            Self::KvALayernorm => "kv_a_layernorm",
            Self::KvBProj => "kv_b_proj",
            Self::OProj => "o_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
        }
    }
}

impl Ffn {
    /// All three.
    pub const ALL: [Self; 3] = [Self::GateProj, Self::UpProj, Self::DownProj];

    fn module(self) -> &'static str {
        match self {
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }
}

/// The names within layer `.0`, main or MTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer(pub usize);

impl Layer {
    /// RMSNorm before attention `[hidden]`.
    pub fn input_layernorm(self) -> String {
        self.tensor("input_layernorm.weight")
    }

    /// RMSNorm before the feed-forward part `[hidden]`.
    pub fn post_attention_layernorm(self) -> String {
        self.tensor("post_attention_layernorm.weight")
    }

    /// A weight of the attention block.
    pub fn attention(self, part: Attention) -> String {
        self.tensor(&format!("self_attn.{}.weight", part.module()))
    }

    /// A bias of the attention block: `q_a_proj`, `kv_a_proj_with_mqa` and `o_proj` have one where
    /// `attention_bias`.
    pub fn attention_bias(self, part: Attention) -> String {
        bias_name(&self.attention(part))
    }

    /// The key half of `kv_b_proj` as MLA-split GGUF files have it: per head the transpose of its rows,
    /// `[heads * kv_lora_rank, qk_nope]`. No Hugging Face checkpoint has this name.
    pub fn k_b_proj(self) -> String {
        self.tensor("self_attn.k_b_proj.weight")
    }

    /// The value half of `kv_b_proj` as MLA-split GGUF files have it, `[heads * v, kv_lora_rank]`. No Hugging
    /// Face checkpoint has this name.
    pub fn v_b_proj(self) -> String {
        self.tensor("self_attn.v_b_proj.weight")
    }

    /// A weight of a dense layer's SwiGLU.
    pub fn mlp(self, part: Ffn) -> String {
        self.tensor(&format!("mlp.{}.weight", part.module()))
    }

    /// The router `[n_routed_experts, hidden]`.
    pub fn router(self) -> String {
        self.tensor("mlp.gate.weight")
    }

    /// The router's bias for choosing, `[n_routed_experts]`, where `topk_method` is `noaux_tc`.
    pub fn e_score_correction_bias(self) -> String {
        self.tensor("mlp.gate.e_score_correction_bias")
    }

    /// A weight of one routed expert.
    pub fn expert(self, expert: usize, part: Ffn) -> String {
        self.tensor(&format!("mlp.experts.{expert}.{}.weight", part.module()))
    }

    /// A weight of the shared experts, which are stored as one SwiGLU of their joint width.
    pub fn shared_experts(self, part: Ffn) -> String {
        self.tensor(&format!("mlp.shared_experts.{}.weight", part.module()))
    }

    /// MTP: a copy of [`EMBED_TOKENS`].
    pub fn embed_tokens(self) -> String {
        self.tensor("embed_tokens.weight")
    }

    /// MTP: RMSNorm of the next token's embedding `[hidden]`.
    pub fn enorm(self) -> String {
        self.tensor("enorm.weight")
    }

    /// MTP: RMSNorm of the main model's hidden state `[hidden]`.
    pub fn hnorm(self) -> String {
        self.tensor("hnorm.weight")
    }

    /// MTP: the projection of `[embedding; hidden]`, `[hidden, 2 * hidden]`.
    pub fn eh_proj(self) -> String {
        self.tensor("eh_proj.weight")
    }

    /// MTP: RMSNorm before the head `[hidden]`.
    pub fn shared_head_norm(self) -> String {
        self.tensor("shared_head.norm.weight")
    }

    /// MTP: a copy of [`LM_HEAD`].
    pub fn shared_head_head(self) -> String {
        self.tensor("shared_head.head.weight")
    }

    fn tensor(self, rest: &str) -> String {
        format!("model.layers.{}.{rest}", self.0)
    }
}

/// The FP8 block scales of `weight_name`: `X.weight` has them in `X.weight_scale_inv`.
pub fn scale_name(weight_name: &str) -> String {
    format!("{}.weight_scale_inv", weight_name.strip_suffix(".weight").unwrap_or(weight_name))
}

/// The bias beside `weight_name`: `X.weight` has it in `X.bias`.
pub fn bias_name(weight_name: &str) -> String {
    format!("{}.bias", weight_name.strip_suffix(".weight").unwrap_or(weight_name))
}

/// Up to three of `names` that share most of their beginning and end with `name`, best first.
pub(crate) fn similar<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(usize, &str)> = names
        .filter_map(|candidate| {
            let shared = shared_ends(name.as_bytes(), candidate.as_bytes());
            let (shorter, longer) = (name.len().min(candidate.len()), name.len().max(candidate.len()));
            let contained = shared == shorter && shorter * 2 >= longer;
            (contained || shared * 10 >= longer * 7).then_some((longer - shared, candidate))
        })
        .collect();
    scored.sort_unstable();
    scored.into_iter().take(3).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// Bytes that a common prefix and a common suffix cover together. A full edit distance would say little
/// more about dotted names, and takes seconds over 91,000 of them.
fn shared_ends(a: &[u8], b: &[u8]) -> usize {
    let prefix = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[prefix..], &b[prefix..]);
    prefix + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_names_as_the_releases_do() {
        let layer = Layer(61);
        for (got, want) in [
            (
                layer.attention(Attention::KvAProjWithMqa),
                "model.layers.61.self_attn.kv_a_proj_with_mqa.weight",
            ),
            (layer.attention_bias(Attention::OProj), "model.layers.61.self_attn.o_proj.bias"),
            (layer.expert(255, Ffn::DownProj), "model.layers.61.mlp.experts.255.down_proj.weight"),
            (layer.shared_experts(Ffn::UpProj), "model.layers.61.mlp.shared_experts.up_proj.weight"),
            (layer.e_score_correction_bias(), "model.layers.61.mlp.gate.e_score_correction_bias"),
            (layer.eh_proj(), "model.layers.61.eh_proj.weight"),
            (scale_name(&layer.mlp(Ffn::GateProj)), "model.layers.61.mlp.gate_proj.weight_scale_inv"),
            (scale_name("odd"), "odd.weight_scale_inv"),
        ] {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn suggests_near_names_only() {
        let names = [
            "lm_head.weight",
            "model.layers.0.self_attn.q_a_proj.weight",
            "model.layers.0.self_attn.q_b_proj.weight",
            "model.layers.1.self_attn.q_a_proj.weight",
            "model.norm.weight",
        ];
        let check = |name: &str, want: &[&str]| assert_eq!(similar(name, names.into_iter()), want, "{name}");
        check("model.layers.0.self_attn.q_proj.weight", &names[1..3]);
        check("layers.0.self_attn.q_a_proj.weight", &names[1..2]);
        check("norm.weight", &["model.norm.weight"]);
        check("zzz", &[]);
        check("", &[]);
    }
}
