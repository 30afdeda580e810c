//! Buffers of a forward pass, kept between steps so that a steady step allocates nothing large.

use fathom_kernels::gemm::Activations;

use crate::mla::AttentionSpace;
use crate::moe::FeedForwardSpace;

/// One forward pass's memory; make one per thread of execution and keep it.
#[derive(Debug, Default)]
pub struct Workspace {
    /// The residual stream `[rows, hidden]`.
    pub(crate) x: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    /// A block's output before the residual add.
    pub(crate) delta: Vec<f32>,
    pub(crate) attention: AttentionSpace,
    pub(crate) feed_forward: FeedForwardSpace,
    pub(crate) activations: Activations,
    /// Rows of the last pass.
    pub(crate) rows: usize,
    /// After the final norm, `[rows, hidden]`.
    pub(crate) hidden: Vec<f32>,
    pub(crate) logits: Vec<f32>,
    /// `eh_proj`'s input `[rows, 2 · hidden]`.
    pub(crate) joined: Vec<f32>,
}

/// The first `len` numbers of `buffer`, which grows as needed and never shrinks. Contents are
/// unspecified.
pub(crate) fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
