//! Checkpoints: Hugging Face safetensors and llama.cpp's GGUF, in and out.
//!
//! A checkpoint is a directory of `.safetensors` files, one or many with an index, or a `.gguf` file ([`gguf`]),
//! whose tensors get the names that they have in a directory. Opening one maps every
//! file, checks every header against the file it stands in, and leaves a table from tensor name to bytes:
//! after that a tensor is a borrowed slice of the mapping, and nothing has been read yet.
//!
//! A weight is asked for by name and by the shape that the configuration promises
//! ([`Checkpoint::matrix`], [`Checkpoint::vector`]), and comes as `f32` rows whatever it is stored as: F32,
//! F16, BF16, F8_E4M3 with its table of block scales, or quantized blocks ([`Dtype::Block`]), which come as
//! they are too ([`Matrix::row_blocks`]). The caller converts some rows, packs them, and
//! gives the pages back ([`Matrix::release`]), so a model larger than half the memory still loads.
//!
//! The other direction ([`ShardedWriter`], [`write_safetensors`]) is told all shapes first, so that shards
//! and headers are fixed before the first byte, then streams tensors of any size. Files appear under their
//! names only when complete.
//!
//! The names themselves stand in one table, [`names`].
//!
//! **Invariant:** nothing read from a file is trusted. Offsets, lengths, shapes and names are checked once,
//! when the checkpoint is opened; after that a view cannot be out of bounds. Malformed input is an
//! [`Error`] that names the file and the tensor, never a panic.
//! **Invariant:** no allocation is larger than a small multiple of the file (or of its header) justifies.
//! **Invariant:** a weight that is NaN or infinite is never handed out as a number.
//! **Invariant:** `unsafe` stands in `mapping.rs` only.
//! **Invariant:** this crate knows names and bytes; it never reads `config.json` and computes no forward
//! pass.

#![deny(unsafe_code)]

mod checkpoint;
mod decode;
mod dtype;
mod error;
pub mod gguf;
mod header;
mod index;
mod locate;
mod mapping;
mod matrix;
pub mod names;
mod plan;
mod view;
mod write;

pub use checkpoint::Checkpoint;
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use matrix::Matrix;
pub use plan::{Plan, Rule};
pub use view::TensorView;
pub use write::{
    OutTensor, SafetensorsWriter, ShardedWriter, TensorPlan, WriteOptions, destination, write_safetensors,
};
