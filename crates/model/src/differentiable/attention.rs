//! Attention: MLA in MHA mode (V2 §2.1, App. C eq. 37–47), where what the cache would hold is expanded into keys and
//! values; and MHA, GQA and MQA (`model_type` `deepseek`), which MLA is compared with.

use fathom_checkpoint::names::{self, Attention as Weight};
use fathom_tensor::{Parameter, Tape, Var};

use super::Pass;
use super::parameters::{Linear, Origin, Store};
use crate::config::{LATENT_NORM_EPS, ModelType};
use crate::{Config, Result};

/// The weights of one attention block.
#[derive(Debug)]
pub(super) enum Attention {
    Latent(LatentAttention),
    Grouped(GroupedAttention),
}

/// MLA.
#[derive(Debug)]
pub(super) struct LatentAttention {
    queries: Queries,
    kv_a_proj_with_mqa: Linear,
    kv_a_layernorm: Parameter,
    kv_b_proj: Linear,
    o_proj: Linear,
    heads: usize,
    kv_lora_rank: usize,
    qk_nope_head_dim: usize,
}

/// With `q_lora_rank` and without.
#[derive(Debug)]
enum Queries {
    Plain(Linear),
    Compressed { q_a_proj: Linear, q_a_layernorm: Parameter, q_b_proj: Linear },
}

/// MHA (as many heads of keys as of queries), GQA (fewer), MQA (one).
#[derive(Debug)]
pub(super) struct GroupedAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: usize,
    key_value_heads: usize,
}

impl Attention {
    pub(super) fn build(
        config: &Config,
        store: &mut Store,
        origin: &Origin<'_>,
        names: names::Layer,
    ) -> Result<Self> {
        Ok(match config.model_type {
            ModelType::Deepseek => Self::Grouped(GroupedAttention::build(config, store, origin, names)?),
            ModelType::DeepseekV2 | ModelType::DeepseekV3 => {
                Self::Latent(LatentAttention::build(config, store, origin, names)?)
            }
        })
    }

    /// `x [batch · seq, hidden]`, normed, gives `[batch · seq, hidden]`.
    pub(super) fn forward(&self, tape: &Tape, pass: &Pass, x: &Var) -> Var {
        match self {
            Self::Latent(attention) => attention.forward(tape, pass, x),
            Self::Grouped(attention) => attention.forward(tape, pass, x),
        }
    }
}

impl LatentAttention {
    fn build(config: &Config, store: &mut Store, origin: &Origin<'_>, names: names::Layer) -> Result<Self> {
        let bias = config.attention_bias;
        let mut linear = |weight, bias| store.linear(origin, &names.attention(weight), bias);
        let queries = match config.q_lora_rank {
            None => Queries::Plain(linear(Weight::QProj, false)?),
            Some(_) => {
                let (q_a_proj, q_b_proj) = (linear(Weight::QAProj, bias)?, linear(Weight::QBProj, false)?);
                let q_a_layernorm = store.parameter(origin, &names.attention(Weight::QALayernorm))?;
                Queries::Compressed { q_a_proj, q_a_layernorm, q_b_proj }
            }
        };
        let mut linear = |weight, bias| store.linear(origin, &names.attention(weight), bias);
        Ok(Self {
            queries,
            kv_a_proj_with_mqa: linear(Weight::KvAProjWithMqa, bias)?,
            kv_b_proj: linear(Weight::KvBProj, false)?,
            o_proj: linear(Weight::OProj, bias)?,
            kv_a_layernorm: store.parameter(origin, &names.attention(Weight::KvALayernorm))?,
            heads: config.num_attention_heads,
            kv_lora_rank: config.kv_lora_rank,
            qk_nope_head_dim: config.qk_nope_head_dim,
        })
    }

    fn forward(&self, tape: &Tape, pass: &Pass, x: &Var) -> Var {
        let q = match &self.queries {
            Queries::Plain(q_proj) => q_proj.forward(tape, x),
            Queries::Compressed { q_a_proj, q_a_layernorm, q_b_proj } => {
                let latent = q_a_proj.forward(tape, x);
                q_b_proj.forward(tape, &latent.rms_norm(&tape.parameter(q_a_layernorm), LATENT_NORM_EPS))
            }
        };
        let q = q.rope(&pass.rotary, self.heads, self.qk_nope_head_dim);
        // [latent | shared rotary key]: only the latent is normed.
        let compressed = self.kv_a_proj_with_mqa.forward(tape, x);
        let width = compressed.value().rows().1;
        let latent = compressed.rms_norm_columns(0, &tape.parameter(&self.kv_a_layernorm), LATENT_NORM_EPS);
        let k_rope = compressed.rope_columns(&pass.rotary, self.kv_lora_rank..width);
        let keys_values = self.kv_b_proj.forward(tape, &latent);
        let values = q.latent_attention(&keys_values, &k_rope, &pass.shape);
        self.o_proj.forward(tape, &values)
    }
}

impl GroupedAttention {
    fn build(config: &Config, store: &mut Store, origin: &Origin<'_>, names: names::Layer) -> Result<Self> {
        let mut linear = |weight| store.linear(origin, &names.attention(weight), config.attention_bias);
        Ok(Self {
            q_proj: linear(Weight::QProj)?,
            k_proj: linear(Weight::KProj)?,
            v_proj: linear(Weight::VProj)?,
            o_proj: linear(Weight::OProj)?,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
        })
    }

    fn forward(&self, tape: &Tape, pass: &Pass, x: &Var) -> Var {
        let q = self.q_proj.forward(tape, x).rope(&pass.rotary, self.heads, 0);
        let k = self.k_proj.forward(tape, x).rope(&pass.rotary, self.key_value_heads, 0);
        let v = self.v_proj.forward(tape, x);
        self.o_proj.forward(tape, &q.grouped_attention(&k, &v, self.key_value_heads, &pass.shape))
    }
}
