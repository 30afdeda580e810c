//! Hugging Face checkpoints: safetensors in, safetensors out.
