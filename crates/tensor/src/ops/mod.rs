//! The operations: each file has some, forward and backward side by side.
//!
//! | file | plain operations |
//! |---|---|
//! | [`arithmetic`] | `add`, `sub`, `mul`, `div`, `maximum`, `masked_fill`, with broadcasting |
//! | [`unary`] | `neg`, `scale`, `add_number`, `square`, `reciprocal`, `sqrt`, `rsqrt`, `exp`, `ln`, `sigmoid`, `tanh`, `relu`, `silu`, `gelu`, `softplus` |
//! | [`reduce`] | `sum`, `mean`, `max` along a dimension, `sum_all`, `mean_all`, `cumsum` |
//! | [`softmax`] | `softmax`, `log_softmax`, `cross_entropy` |
//! | [`matmul`] | `matmul` of stacks of matrices |
//! | [`shape`] | `reshape`, `permute`, `transpose`, `slice`, `concat`, `broadcast_to` |
//! | [`indexing`] | `gather`, `scatter_add`, `top_k` within the last dimension |
//! | [`rows`] | `gather_rows`: the embedding |
//!
//! | file | coarse operations |
//! |---|---|
//! | [`linear`] | `x · Wᵀ` with packed weights |
//! | [`rms_norm`] | `rms_norm`, `rms_norm_columns` |
//! | [`rope`] | `rope`, `rope_columns`: rotary positions |
//! | [`attention`] | `latent_attention` (MLA), `grouped_attention` (MHA, GQA, MQA) |
//! | [`swiglu`] | `silu(gate) · up` |
//! | [`router`] | `route`: affinities, chosen experts, their weights |
//! | [`experts`] | grouped SwiGLUs of a mixture, no padding |
//! | [`head_cross_entropy`] | output head and loss without `[tokens, vocab]` |

pub mod arithmetic;
pub mod attention;
pub mod experts;
pub mod head_cross_entropy;
pub mod indexing;
pub mod linear;
pub mod matmul;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod router;
pub mod rows;
pub mod shape;
pub mod softmax;
mod strided;
pub mod swiglu;
pub mod unary;
