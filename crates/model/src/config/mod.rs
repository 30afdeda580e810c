//! The configuration of a model: fields are those of Hugging Face's `config.json`, letter for letter.
//!
//! Both styles are read: the released one (`rope_scaling` + `rope_theta`, `torch_dtype`) and
//! transformers 5's (`rope_parameters`, `dtype`); [`gguf`] makes the same of GGUF metadata. A value that would change the mathematics in a
//! way Fathom does not compute is an error. Where the references themselves ignore a value (V2's
//! `norm_topk_prob`), so does Fathom, and [`Config::router`] says so.

mod fields;
pub mod gguf;
mod json;
mod parse;
mod rope;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::{Path, PathBuf};

use fathom_checkpoint::gguf::is_gguf;
use fathom_checkpoint::{Checkpoint, Plan};
use fathom_kernels::router::{Router, Scoring, TopkMethod};

use crate::{Error, Result};
pub use rope::{RopeScaling, Yarn};

/// `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelType {
    /// V2, V2-Lite, V2.5, Coder-V2 and Coder-V2-Lite.
    DeepseekV2,
    /// V3, R1, V3.1.
    DeepseekV3,
    /// DeepSeek-LLM and DeepSeekMoE: MHA, GQA or MQA instead of MLA. What comparisons are trained on; trained and
    /// saved, not served.
    Deepseek,
}

impl ModelType {
    /// The word in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            ModelType::DeepseekV2 => "deepseek_v2",
            ModelType::DeepseekV3 => "deepseek_v3",
            ModelType::Deepseek => "deepseek",
        }
    }
}

/// One model's configuration, checked.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are config.json's; docs/glossary.md explains them")]
pub struct Config {
    pub model_type: ModelType,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub moe_intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Heads of keys and values: fewer than `num_attention_heads` in GQA, 1 in MQA, as many in MLA.
    pub num_key_value_heads: usize,
    /// `None`: queries are not compressed (V2-Lite).
    pub q_lora_rank: Option<usize>,
    /// 0 without MLA.
    pub kv_lora_rank: usize,
    /// 0 without MLA: all of a head is rotary.
    pub qk_nope_head_dim: usize,
    /// Without MLA, this and `v_head_dim` are `head_dim`.
    pub qk_rope_head_dim: usize,
    pub v_head_dim: usize,
    /// 0 if every layer is dense.
    pub n_routed_experts: usize,
    pub n_shared_experts: usize,
    pub num_experts_per_tok: usize,
    pub n_group: usize,
    pub topk_group: usize,
    pub topk_method: TopkMethod,
    pub scoring_func: Scoring,
    pub norm_topk_prob: bool,
    pub routed_scaling_factor: f32,
    pub first_k_dense_replace: usize,
    pub moe_layer_freq: usize,
    pub num_nextn_predict_layers: usize,
    pub rms_norm_eps: f32,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: usize,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// transformers' `rope_interleave`: rotary pairs are adjacent numbers (all released models).
    pub rope_interleave: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Vec<u32>,
    /// `quantization_config.weight_block_size` of FP8 checkpoints.
    pub weight_block_size: Option<[usize; 2]>,
    /// `quantization_config.scale_fmt` is `ue8m0`: scales are powers of two (V3.1).
    pub power_of_two_scales: bool,
    /// `quantization_config.rules` of our own quantized checkpoints: which tensors are stored in blocks.
    pub block_formats: Option<Plan>,
}

/// The epsilon of the norms inside MLA, which the references fix whatever `rms_norm_eps` says.
pub const LATENT_NORM_EPS: f32 = 1e-6;

/// More than any configuration; what lies beyond is not read.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

impl Config {
    /// Reads `config.json` of the model directory `path` (or the file itself), or the metadata of a `.gguf`
    /// file.
    ///
    /// # Errors
    /// If the file cannot be read, is no JSON, lacks a field or holds a value Fathom does not
    /// compute; the error names file, field, expected and got.
    pub fn read(path: &Path) -> Result<Self> {
        if is_gguf(path) {
            return Self::from_gguf(&Checkpoint::open(path)?);
        }
        let (text, file) = read_text(path)?;
        Self::parse(&text, &file)
    }

    /// Parses the text of a `config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let config = Self::parse_trainable(text, file)?;
        match config.model_type {
            ModelType::Deepseek => Err(Error::NotServed { file: file.to_owned() }),
            ModelType::DeepseekV2 | ModelType::DeepseekV3 => Ok(config),
        }
    }

    /// As [`Config::parse`], of a model that is trained: those that cannot be served too.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse_trainable(text: &str, file: &Path) -> Result<Self> {
        parse::config(text, file)
    }

    /// As [`Config::read`], of a model that is trained: those that cannot be served too.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn read_trainable(path: &Path) -> Result<Self> {
        if is_gguf(path) {
            return Self::from_gguf(&Checkpoint::open(path)?);
        }
        let (text, file) = read_text(path)?;
        Self::parse_trainable(&text, &file)
    }

    /// The configuration in the metadata of a GGUF checkpoint.
    ///
    /// # Errors
    /// [`Error::NoGguf`] for any other checkpoint; otherwise as [`Config::read`].
    pub fn from_gguf(checkpoint: &Checkpoint) -> Result<Self> {
        gguf::read(checkpoint)
    }

    /// Opens the checkpoint of this configuration at `path`, and tells it how its weights are quantized.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::open(path)?;
        if let Some(block) = self.weight_block_size {
            checkpoint.set_fp8_block(block)?;
        }
        if let Some(plan) = &self.block_formats {
            checkpoint.set_block_formats(plan.clone());
        }
        Ok(checkpoint)
    }

    /// Whether layer `layer` is a mixture of experts. MTP layers (`layer >= num_hidden_layers`)
    /// always are, where the model has experts.
    pub fn is_moe(&self, layer: usize) -> bool {
        let main = layer >= self.first_k_dense_replace && layer.is_multiple_of(self.moe_layer_freq);
        self.n_routed_experts > 0 && (main || layer >= self.num_hidden_layers)
    }

    /// Main layers, then MTP layers.
    pub fn layers_with_mtp(&self) -> usize {
        self.num_hidden_layers + self.num_nextn_predict_layers
    }

    /// Numbers of one head's query and key: `qk_nope_head_dim + qk_rope_head_dim`.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Numbers cached per token and layer: `kv_lora_rank + qk_rope_head_dim` (V2 §2.1.4).
    pub fn latent_width(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// What attention scores are multiplied by: `qk_head_dim^-½`, times YaRN's
    /// `mscale(factor, mscale_all_dim)²`.
    pub fn softmax_scale(&self) -> f32 {
        let scale = (self.qk_head_dim() as f64).powf(-0.5);
        (scale * self.rope_scaling.score_factor()) as f32
    }

    /// The gate. V2 multiplies by `routed_scaling_factor` and never normalises, as transformers'
    /// V2 and every released V2 checkpoint do; V3 normalises if `norm_topk_prob`, then multiplies.
    pub fn router(&self) -> Router {
        Router {
            scoring: self.scoring_func,
            method: self.topk_method,
            experts: self.n_routed_experts,
            top_k: self.num_experts_per_tok,
            groups: self.n_group,
            top_groups: self.topk_group,
            normalize: self.model_type != ModelType::DeepseekV2 && self.norm_topk_prob,
            scale: self.routed_scaling_factor,
        }
    }
}

/// The text of `config.json` in `path` (a directory or the file itself), and the file's name.
fn read_text(path: &Path) -> Result<(String, PathBuf)> {
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let fail = |source| Error::ReadConfig { file: file.clone(), source };
    let mut text = String::new();
    let opened = std::fs::File::open(&file).map_err(fail)?;
    opened.take(CONFIG_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
    Ok((text, file))
}
