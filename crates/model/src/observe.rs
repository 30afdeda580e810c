//! Looking into a forward pass.

use fathom_kernels::gemm::Rows;

/// Something computed on the way; rows are those of the batch.
#[derive(Clone, Copy, Debug)]
pub enum Observed<'a> {
    /// Token embeddings `[rows, hidden]`.
    Embed(&'a [f32]),
    /// Output of a layer's attention after `o_proj`, before the residual add `[rows, hidden]`.
    AttentionOut {
        /// Layer.
        layer: usize,
        /// Values.
        values: &'a [f32],
    },
    /// Output of a layer's MLP or MoE before the residual add `[rows, hidden]`.
    MlpOut {
        /// Layer.
        layer: usize,
        /// Values.
        values: &'a [f32],
    },
    /// The residual stream after a layer `[rows, hidden]`.
    Hidden {
        /// Layer.
        layer: usize,
        /// Values.
        values: &'a [f32],
    },
    /// A MoE layer's decision.
    Routed {
        /// Layer.
        layer: usize,
        /// The gate's output before softmax or sigmoid `[rows, n_routed_experts]`.
        router_logits: &'a [f32],
        /// The choice.
        routing: Routing<'a>,
    },
    /// What the matrices of a layer's attention are multiplied with.
    AttentionInputs {
        /// Layer.
        layer: usize,
        /// By matrix.
        inputs: AttentionInputs<'a>,
    },
    /// What the matrices of a layer's MLP or experts are multiplied with.
    FeedForwardInputs {
        /// Layer.
        layer: usize,
        /// By matrix.
        inputs: FeedForwardInputs<'a>,
    },
}

/// Inputs of attention's products; rows are those of the batch.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    /// Of `q_proj` or `q_a_proj`, and of `kv_a_proj_with_mqa`: `[rows, hidden]`.
    pub hidden: &'a [f32],
    /// Of `q_b_proj`, where there is one: `[rows, q_lora_rank]`.
    pub q_latent: Option<&'a [f32]>,
    /// Of `W^UK`ᵀ, per head the first `qk_nope_head_dim` numbers: `[rows, heads, nope + rope]`.
    pub queries: Rows<'a>,
    /// Of `kv_b_proj`: `[rows, kv_lora_rank]`.
    pub latent: &'a [f32],
    /// Of `o_proj`: `[rows, heads · v]`.
    pub values: &'a [f32],
}

/// Inputs of a feed-forward layer's products.
#[derive(Clone, Copy, Debug)]
pub struct FeedForwardInputs<'a> {
    /// Of gate and up (each expert some of the rows): `[rows, hidden]`.
    pub hidden: &'a [f32],
    /// Routed experts, then the pieces of the shared ones from the first column to the last; a dense layer's MLP
    /// alone.
    pub experts: &'a [ExpertInputs<'a>],
    /// How many of `experts` are routed.
    pub routed: usize,
}

/// What one SwiGLU is given.
#[derive(Clone, Copy, Debug)]
pub struct ExpertInputs<'a> {
    /// Which rows of the batch; `None`: all.
    pub rows: Option<&'a [usize]>,
    /// Of down, one for each of them.
    pub inner: Rows<'a>,
}

/// Which experts each row goes to, sorted by id, and their final weights:
/// `[rows, num_experts_per_tok]` each.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// Expert ids.
    pub expert_ids: &'a [u32],
    /// Weights, normalised and scaled as the configuration says.
    pub expert_weights: &'a [f32],
}

/// Called with everything that can be observed.
pub type Observer<'a> = &'a mut dyn FnMut(Observed<'_>);
