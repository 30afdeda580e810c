//! What a parameter is for, as far as optimizers treat parameters differently.

use fathom_checkpoint::names;

use crate::config::WithoutDecay;

/// Kinds of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A weight of RMSNorm.
    Norm,
    /// Any other vector.
    Bias,
    /// Token embedding or output head, of the model or of an MTP module.
    Embedding,
    /// Anything else: one matrix `[rows, cols]`, or a stack of them `[experts, rows, cols]`.
    Matrix,
}

impl Role {
    /// By the name in checkpoints and the shape.
    pub fn of(name: &str, shape: &[usize]) -> Self {
        let embedding = [names::EMBED_TOKENS, names::LM_HEAD].contains(&name)
            || name.ends_with(".embed_tokens.weight")
            || name.ends_with(".shared_head.head.weight");
        match shape.len() {
            _ if embedding => Self::Embedding,
            0 | 1 if name.contains("norm") => Self::Norm,
            0 | 1 => Self::Bias,
            _ => Self::Matrix,
        }
    }

    /// Whether `spared` names it.
    pub fn is_spared(self, spared: &[WithoutDecay]) -> bool {
        let kind = match self {
            Self::Norm => WithoutDecay::Norms,
            Self::Bias => WithoutDecay::Biases,
            Self::Embedding => WithoutDecay::Embeddings,
            Self::Matrix => return false,
        };
        spared.contains(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shapes_tell_roles() {
        for (name, shape, want) in [
            ("model.embed_tokens.weight", &[64, 8][..], Role::Embedding),
            ("lm_head.weight", &[64, 8], Role::Embedding),
            ("model.layers.3.shared_head.head.weight", &[64, 8], Role::Embedding),
            ("model.norm.weight", &[8], Role::Norm),
            ("model.layers.0.self_attn.q_a_layernorm.weight", &[8], Role::Norm),
            ("model.layers.0.self_attn.o_proj.bias", &[8], Role::Bias),
            ("model.layers.3.enorm.weight", &[8], Role::Norm),
            ("model.layers.1.mlp.gate.weight", &[4, 8], Role::Matrix),
            ("model.layers.1.mlp.experts.gate_proj.weight", &[4, 3, 8], Role::Matrix),
        ] {
            assert_eq!(Role::of(name, shape), want, "{name}");
        }
        assert!(Role::Norm.is_spared(&[WithoutDecay::Norms]));
        assert!(!Role::Embedding.is_spared(&[WithoutDecay::Norms, WithoutDecay::Biases]));
    }
}
