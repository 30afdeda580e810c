//! GGUF, llama.cpp's container: metadata and tensors in one file, or in numbered parts.
//!
//! [`Checkpoint::open`](crate::Checkpoint::open) takes a `.gguf` file of the `deepseek2` architecture and gives
//! its weights the names that Hugging Face checkpoints have, so that nobody behind it need know the difference;
//! what has no name there is said in `names.rs`. [`Metadata`] is everything else in the file: configuration,
//! tokenizer, chat template. [`GgufWriter`] writes.
//!
//! The bytes are described in `docs/formats/gguf.md`.

mod cursor;
mod header;
mod metadata;
mod names;
mod open;
mod types;
mod value;
mod write;

pub use metadata::Metadata;
pub use names::{ARCHITECTURE, gguf_name};
pub(crate) use open::open_all;
pub use open::{is_gguf, read_metadata};
pub(crate) use types::SUPPORTED;
pub use value::{Array, Value};
pub use write::GgufWriter;
