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

pub mod arithmetic;
pub mod indexing;
pub mod linear;
pub mod matmul;
pub mod reduce;
pub mod rows;
pub mod shape;
pub mod softmax;
mod strided;
pub mod unary;
