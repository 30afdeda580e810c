//! The weights of a model in the layout the kernels read, named after the papers' matrices.

use fathom_kernels::WeightBytes;
use fathom_kernels::gemm::{PackedMatrix, WeightFormat};
use fathom_kernels::router::Router;
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

/// `embed_tokens [vocab_size, hidden_size]`.
#[derive(Debug)]
pub(crate) enum Embedding {
    /// Row-major, of [`table_row_bytes`] each: little-endian numbers, or blocks.
    Rows(WeightFormat, WeightBytes),
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
        let (format, rows) = match &self.embedding {
            Embedding::Rows(format, rows) => (*format, rows.as_slice()),
            Embedding::Tied => return self.lm_head.read_row(token as usize, out),
        };
        let len = table_row_bytes(format, out.len());
        let row = &rows[token as usize * len..][..len];
        match format {
            WeightFormat::F32 => decode(row, f32::from_le_bytes, out),
            WeightFormat::F16 => decode(row, |bytes| f16::from_le_bytes(bytes).to_f32(), out),
            WeightFormat::Bf16 => decode(row, |bytes| bf16::from_le_bytes(bytes).to_f32(), out),
            WeightFormat::Block(format) => format.decode(row, out),
        }
    }

    /// Bytes of everything, padding included.
    pub(crate) fn bytes(&self) -> usize {
        let embedding = match &self.embedding {
            Embedding::Rows(_, rows) => rows.as_slice().len(),
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

    /// Bytes of one routed expert, in the mean over layers (which may hold theirs in other formats).
    pub(crate) fn expert_bytes(&self) -> usize {
        let layers: Vec<usize> = self.layers.iter().filter_map(DecoderLayer::expert_bytes).collect();
        layers.iter().sum::<usize>() / layers.len().max(1)
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

    fn expert_bytes(&self) -> Option<usize> {
        match &self.ffn {
            FeedForward::Dense(_) => None,
            FeedForward::Moe(moe) => moe.experts.first().map(Mlp::bytes),
        }
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

impl FeedForward {
    /// Routed experts.
    pub(crate) fn routed(&self) -> usize {
        match self {
            FeedForward::Dense(_) => 0,
            FeedForward::Moe(moe) => moe.router.experts,
        }
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

/// Bytes of a row of `cols` numbers in an embedding.
pub(crate) fn table_row_bytes(format: WeightFormat, cols: usize) -> usize {
    match format {
        WeightFormat::F32 => cols * 4,
        WeightFormat::F16 | WeightFormat::Bf16 => cols * 2,
        WeightFormat::Block(format) => format.row_bytes(cols),
    }
}

fn decode<const N: usize>(row: &[u8], value: impl Fn([u8; N]) -> f32, out: &mut [f32]) {
    let (row, _) = row.as_chunks();
    out.iter_mut().zip(row).for_each(|(out, &bytes)| *out = value(bytes));
}

fn sum(matrices: &[PackedMatrix]) -> usize {
    matrices.iter().map(PackedMatrix::bytes).sum()
}
