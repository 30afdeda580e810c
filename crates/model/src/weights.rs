//! The weights of a model in the layout the kernels read, named after the papers' matrices.

use fathom_kernels::gemm::{PackedMatrix, WeightFormat};
use fathom_kernels::router::Router;
use fathom_numeric::blocks::BlockFormat;
use fathom_numeric::{bf16, f16};

/// Everything a forward pass reads.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Embedding,
    pub(crate) layers: Vec<DecoderLayer>,
    /// `model.norm`.
    pub(crate) norm: Vec<f32>,
    pub(crate) lm_head: PackedMatrix,
    /// Loaded on demand.
    pub(crate) mtp: Vec<MtpModule>,
}

/// `embed_tokens [vocab_size, hidden_size]`, row-major.
#[derive(Debug)]
pub(crate) enum Embedding {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    /// Rows of blocks.
    Blocks(BlockFormat, Vec<u8>),
    /// The rows are those of `lm_head`.
    Tied,
}

#[derive(Debug)]
pub(crate) struct DecoderLayer {
    pub(crate) input_layernorm: Vec<f32>,
    pub(crate) attention: AttentionWeights,
    pub(crate) post_attention_layernorm: Vec<f32>,
    pub(crate) ffn: FeedForward,
}

/// MLA (V2 eq. 37-47). `heads`, `nope`, `rope`, `v`, `latent` are the config's dimensions.
#[derive(Debug)]
pub(crate) struct AttentionWeights {
    /// `[q_a_proj or q_proj ; kv_a_proj_with_mqa]`: one product gives the query (or its latent),
    /// the latent `c^KV` and the rotary key.
    pub(crate) qkv_a: PackedMatrix,
    /// With `q_lora_rank`: the norm of the query's latent and `q_b_proj`.
    pub(crate) q_b: Option<(Vec<f32>, PackedMatrix)>,
    pub(crate) kv_a_layernorm: Vec<f32>,
    /// `W^UK` per head, `[nope, latent]`: expands keys (MHA mode).
    pub(crate) w_uk: Vec<PackedMatrix>,
    /// `W^UK`ᵀ per head, `[latent, nope]`: absorbs into the query (MQA mode).
    pub(crate) w_uk_transposed: Vec<PackedMatrix>,
    /// `W^UV` per head, `[v, latent]`: expands values, or follows the sum over latents.
    pub(crate) w_uv: Vec<PackedMatrix>,
    pub(crate) o_proj: PackedMatrix,
}

#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(Mlp),
    Moe(Moe),
}

/// SwiGLU: `down(silu(gate(x)) · up(x))`.
#[derive(Debug)]
pub(crate) struct Mlp {
    /// Panels of gate and up in turn.
    pub(crate) gate_up: PackedMatrix,
    pub(crate) down: PackedMatrix,
    /// `intermediate_size` or `moe_intermediate_size`.
    pub(crate) width: usize,
}

/// DeepSeekMoE (V2 §2.2, V3 §2.1.2).
#[derive(Debug)]
pub(crate) struct Moe {
    pub(crate) router: Router,
    /// `[n_routed_experts, hidden]`, always f32.
    pub(crate) gate: PackedMatrix,
    /// `e_score_correction_bias`, empty in V2.
    pub(crate) bias: Vec<f32>,
    /// Routed experts, then the shared ones. Shared experts are stored as one SwiGLU of
    /// `n_shared_experts · moe_intermediate_size`; cut into experts of `moe_intermediate_size`
    /// that every token goes to with weight 1 they compute the same sum, and all experts of a
    /// step run in one region.
    pub(crate) experts: Vec<Mlp>,
    /// How many of `experts` are shared. (Where `down` is stored in long blocks, the shared SwiGLU may be
    /// cut into more and narrower ones than `n_shared_experts`.)
    pub(crate) shared: usize,
    /// `moe_intermediate_size`: no expert is wider.
    pub(crate) width: usize,
}

/// A multi-token-prediction module (V3 §2.2); embedding and head are the main model's.
#[derive(Debug)]
pub(crate) struct MtpModule {
    pub(crate) enorm: Vec<f32>,
    pub(crate) hnorm: Vec<f32>,
    /// `M_k [hidden, 2 · hidden]`: the embedding's half first.
    pub(crate) eh_proj: PackedMatrix,
    pub(crate) layer: DecoderLayer,
    /// `shared_head.norm`.
    pub(crate) norm: Vec<f32>,
}

impl Weights {
    /// Writes the embedding `[hidden_size]` of a token.
    pub(crate) fn embed(&self, token: u32, out: &mut [f32]) {
        let first = token as usize * out.len();
        match &self.embedding {
            Embedding::F32(rows) => out.copy_from_slice(&rows[first..first + out.len()]),
            Embedding::F16(rows) => {
                let row = &rows[first..first + out.len()];
                out.iter_mut().zip(row).for_each(|(out, value)| *out = value.to_f32());
            }
            Embedding::Bf16(rows) => {
                let row = &rows[first..first + out.len()];
                out.iter_mut().zip(row).for_each(|(out, value)| *out = value.to_f32());
            }
            Embedding::Blocks(format, rows) => {
                let len = format.row_bytes(out.len());
                format.decode(&rows[token as usize * len..][..len], out);
            }
            Embedding::Tied => self.lm_head.read_row(token as usize, out),
        }
    }

    /// Bytes of everything, padding included.
    pub(crate) fn bytes(&self) -> usize {
        let embedding = match &self.embedding {
            Embedding::F32(rows) => rows.len() * 4,
            Embedding::F16(rows) => rows.len() * 2,
            Embedding::Bf16(rows) => rows.len() * 2,
            Embedding::Blocks(_, rows) => rows.len(),
            Embedding::Tied => 0,
        };
        let layers: usize = self.layers.iter().map(DecoderLayer::bytes).sum();
        let mtp: usize = self.mtp.iter().map(|module| module.eh_proj.bytes() + module.layer.bytes()).sum();
        embedding + layers + mtp + self.lm_head.bytes()
    }

    /// The format that most bytes of layers are in.
    pub(crate) fn main_format(&self) -> WeightFormat {
        match self.layers.last().map(|layer| &layer.ffn) {
            Some(FeedForward::Moe(moe)) => moe.experts[0].gate_up.format(),
            Some(FeedForward::Dense(mlp)) => mlp.gate_up.format(),
            None => self.lm_head.format(),
        }
    }

    /// Bytes of weights a decode step of one token reads: everything but the embedding and the
    /// experts not chosen. W^UK counts once: one of its two layouts is read.
    pub(crate) fn bytes_per_token(&self) -> usize {
        self.layers.iter().map(DecoderLayer::bytes_per_token).sum::<usize>() + self.lm_head.bytes()
    }
}

impl DecoderLayer {
    fn bytes(&self) -> usize {
        let ffn = match &self.ffn {
            FeedForward::Dense(mlp) => mlp.bytes(),
            FeedForward::Moe(moe) => moe.gate.bytes() + moe.experts.iter().map(Mlp::bytes).sum::<usize>(),
        };
        self.attention.bytes() + sum(&self.attention.w_uk) + ffn
    }

    fn bytes_per_token(&self) -> usize {
        let ffn = match &self.ffn {
            FeedForward::Dense(mlp) => mlp.bytes(),
            FeedForward::Moe(moe) => {
                let expert = moe.experts.first().map_or(0, Mlp::bytes);
                let shared = moe.experts[moe.router.experts..].iter().map(Mlp::bytes).sum::<usize>();
                moe.gate.bytes() + moe.router.top_k * expert + shared
            }
        };
        self.attention.bytes() + ffn
    }
}

impl AttentionWeights {
    /// Bytes read in MQA mode.
    fn bytes(&self) -> usize {
        let q_b = self.q_b.as_ref().map_or(0, |(_, q_b)| q_b.bytes());
        self.qkv_a.bytes() + q_b + sum(&self.w_uk_transposed) + sum(&self.w_uv) + self.o_proj.bytes()
    }
}

impl Mlp {
    fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes()
    }
}

fn sum(matrices: &[PackedMatrix]) -> usize {
    matrices.iter().map(PackedMatrix::bytes).sum()
}
