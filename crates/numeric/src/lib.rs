//! What the bits of a number format mean: scalar encode and decode, and nothing about speed.
//!
//! A checkpoint stores weights in a format; a kernel multiplies them in another. Both must agree
//! on what the bits say, so the meaning stands here once, in code short enough to be checked by
//! eye, and every fast path elsewhere is tested against it.
//!
//! - [`struct@bf16`], [`struct@f16`]: the `half` crate's types, which the rest of the ecosystem shares.
//! - [`blocks`]: weights in blocks that share a scale: GGUF formats, integer groups, FP8 rows.
//! - [`fp8`]: E4M3 as DeepSeek-V3's checkpoints use it, with the 128×128 block scales of
//!   `weight_scale_inv` (V3 §3.3).
//! - [`round`]: the rounding of activations that bf16 matrix products are defined by.
//!
//! **Invariant:** scalar and portable; no intrinsics, no threads, no files.
//!
//! **Invariant:** every format decodes to `f32` exactly; encoding a number rounds to nearest, ties to even,
//! and encoding a block says what it minimises instead.
#![forbid(unsafe_code)]

pub mod blocks;
pub mod fp8;
pub mod round;

pub use half::{bf16, f16};
