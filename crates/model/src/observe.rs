//! Looking into a forward pass.

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
