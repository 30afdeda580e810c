//! Floating-point operations of a forward pass; a multiplication and an addition are two.
//!
//! Counted: every matrix a token is multiplied with, and attention over the context. Not counted:
//! norms, softmax, rotary embedding, SwiGLU's product, the choice of experts, and MTP layers.

use serde::Serialize;

use super::Parameters;
use crate::mla::{AttentionForm, cheaper_form};
use crate::{Config, manifest};

/// Operations of the main model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Flops {
    /// Decoding the first token of a sequence: no context but itself.
    pub decode_first: FlopsPerToken,
    /// Decoding the last token of a context.
    pub decode: FlopsPerToken,
    /// A token of a prompt as long as the context, on average.
    pub prefill: FlopsPerToken,
    /// The context's length.
    pub context: usize,
}

/// Operations per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FlopsPerToken {
    /// Matrices: twice the active matrix parameters. `kv_b_proj` is in here once: both forms of
    /// attention move every new token through `W^UK` and `W^UV` (V2 App. C).
    pub matrices: f64,
    /// Scores and weighted sums, and in MHA mode the expansion of older keys and values.
    pub attention: f64,
    /// Both.
    pub total: f64,
    /// The form of attention with fewer operations, which is counted.
    pub form: &'static str,
}

impl Flops {
    /// Counts `config` at a context of `context` tokens.
    pub fn of(config: &Config, context: usize) -> Self {
        let context = context.max(1);
        let matrices = 2.0 * matrix_parameters(config) as f64;
        Self {
            decode_first: per_token(config, matrices, 1, 1),
            decode: per_token(config, matrices, 1, context),
            prefill: per_token(config, matrices, context, context),
            context,
        }
    }
}

/// Active parameters in matrices: all but vectors and the embedding's row.
fn matrix_parameters(config: &Config) -> u64 {
    let vector = |spec: &&manifest::TensorSpec| {
        spec.part != manifest::Part::Mtp
            && spec.part != manifest::Part::RoutedExperts
            && spec.shape.len() == 1
    };
    let vectors: u64 =
        manifest::tensors(config).iter().filter(vector).map(manifest::TensorSpec::elements).sum();
    Parameters::of(config).active - vectors - config.hidden_size as u64
}

/// `tokens` new tokens at the end of a context of `context`, themselves included.
fn per_token(config: &Config, matrices: f64, tokens: usize, context: usize) -> FlopsPerToken {
    let form = cheaper_form(config, tokens, context);
    let (nope, rope, v) = (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim);
    let (tokens, context, latent) = (tokens as f64, context as f64, config.kv_lora_rank);
    // Pairs of a query and a key that it sees.
    let pairs = tokens * (context - tokens) + tokens * (tokens + 1.0) / 2.0;
    let of_head = match form {
        AttentionForm::Absorbed => 2.0 * pairs * (2 * latent + rope) as f64,
        AttentionForm::Expanded => {
            2.0 * pairs * (nope + rope + v) as f64 + 2.0 * (context - tokens) * ((nope + v) * latent) as f64
        }
    };
    let heads = (config.num_hidden_layers * config.num_attention_heads) as f64;
    let attention = heads * of_head / tokens;
    let form = match form {
        AttentionForm::Absorbed => "absorbed",
        AttentionForm::Expanded => "expanded",
    };
    FlopsPerToken { matrices, attention, total: matrices + attention, form }
}
