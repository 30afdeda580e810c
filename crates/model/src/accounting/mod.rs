//! What a model costs, counted from its configuration: parameters, cache, memory, operations.
//!
//! Parameters come from [`manifest::tensors`], so what is counted is what is loaded. "Active" is
//! what one token meets: every matrix it is multiplied with, `num_experts_per_tok` of the routed
//! experts, the output head, and one row of the embedding. This convention gives the published
//! numbers (V2-Lite 2.4B, V2 21B, V3 37B); with the whole embedding it would be 2.7B, 21.4B and
//! 37.6B, which is [`Parameters::active_with_embedding`].
//!
//! MTP layers are counted apart, as the papers do. V3's README_WEIGHTS says 11.5B unique and 2.4B
//! active (embedding and head included): that is the decoder layer without `eh_proj`'s 0.1B.

mod flops;
mod stored;
#[cfg(test)]
mod tests;

use fathom_checkpoint::names;
use fathom_kernels::attention::CacheFormat;
use fathom_kernels::gemm::WeightFormat;
use serde::Serialize;

use crate::manifest::{self, Part};
use crate::{Config, LatentCache, Storage};
pub use flops::{Flops, FlopsPerToken};
pub use stored::{Stored, StoredDtype, stored};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// How weights are held. What stays as it is stored counts as floats: the configuration does not say.
    pub storage: Storage,
    /// How latents are cached; by the weights if `None`.
    pub cache: Option<CacheFormat>,
    /// Tokens of each sequence.
    pub context: usize,
    /// Sequences at a time.
    pub batch: usize,
}

/// Everything there is to say about a configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Parameters by part.
    pub parameters: Parameters,
    /// The cache of one token.
    pub kv_cache: KvCache,
    /// Memory for the workload.
    pub memory: Memory,
    /// Floating-point operations of a forward pass.
    pub flops: Flops,
}

impl Workload {
    fn cache_format(&self) -> CacheFormat {
        self.cache.unwrap_or(match self.storage.floats {
            WeightFormat::F32 => CacheFormat::F32,
            _ => CacheFormat::Bf16,
        })
    }
}

impl Report {
    /// Counts `config` running `workload`.
    pub fn new(config: &Config, workload: Workload) -> Self {
        Self {
            parameters: Parameters::of(config),
            kv_cache: KvCache::of(config, workload.cache_format()),
            memory: Memory::of(config, &workload),
            flops: Flops::of(config, workload.context),
        }
    }
}

/// Numbers of parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parameters {
    /// The main model: all layers, embedding, head; a tied head counts once.
    pub total: u64,
    /// What one token meets (see the module's text).
    pub active: u64,
    /// The same with the whole embedding.
    pub active_with_embedding: u64,
    /// The main model's parts, in the order of [`Part`].
    pub parts: Vec<PartParameters>,
    /// MTP layers, without the copies of embedding and head.
    pub mtp: u64,
    /// Of these, what one token meets.
    pub mtp_active: u64,
}

/// One part's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PartParameters {
    /// Its name.
    pub part: &'static str,
    /// Parameters stored.
    pub total: u64,
    /// Parameters one token meets.
    pub active: u64,
}

const PARTS: [(Part, &str); 8] = [
    (Part::Embedding, "embedding"),
    (Part::Attention, "attention (MLA)"),
    (Part::DenseMlp, "dense MLPs"),
    (Part::Router, "routers"),
    (Part::RoutedExperts, "routed experts"),
    (Part::SharedExperts, "shared experts"),
    (Part::Norms, "norms"),
    (Part::Head, "output head"),
];

impl Parameters {
    /// Counts `config`.
    pub fn of(config: &Config) -> Self {
        let specs = manifest::tensors(config);
        let count = |part: Part| -> u64 {
            let of_part = specs.iter().filter(|spec| spec.part == part && !spec.optional);
            of_part.map(manifest::TensorSpec::elements).sum()
        };
        let embedding = count(Part::Embedding);
        let part = |(part, name)| {
            let total = count(part);
            let active = match part {
                Part::Embedding => config.hidden_size as u64,
                Part::RoutedExperts => chosen(config, total),
                // Tied, it is the embedding that is multiplied.
                Part::Head => embedding,
                _ => total,
            };
            PartParameters { part: name, total, active }
        };
        let parts: Vec<PartParameters> = PARTS.into_iter().map(part).collect();
        let active = parts.iter().map(|part| part.active).sum();
        let mtp = count(Part::Mtp);
        let mtp_routed = (config.num_nextn_predict_layers * config.n_routed_experts) as u64
            * (3 * config.moe_intermediate_size * config.hidden_size) as u64;
        Self {
            total: parts.iter().map(|part| part.total).sum(),
            active,
            active_with_embedding: active - config.hidden_size as u64 + embedding,
            parts,
            mtp,
            mtp_active: mtp - mtp_routed + chosen(config, mtp_routed),
        }
    }
}

/// Of `routed` parameters in routed experts, those of the experts one token goes to.
fn chosen(config: &Config, routed: u64) -> u64 {
    let experts = config.n_routed_experts.max(1) as u64;
    routed / experts * config.num_experts_per_tok as u64
}

/// The cache of one token over all main layers, against what other attention of the same heads
/// would need (V2 Table 1, with `d_h = qk_nope_head_dim`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvCache {
    /// How numbers are cached.
    pub dtype: &'static str,
    /// MLA: `(kv_lora_rank + qk_rope_head_dim) · l`.
    pub mla: CachePerToken,
    /// Multi-head attention: `2 · n_h · d_h · l`.
    pub mha: CachePerToken,
    /// Grouped-query attention with 8 groups (or one per head, if there are fewer): `2 · 8 · d_h · l`.
    pub gqa8: CachePerToken,
    /// Multi-query attention: `2 · d_h · l`.
    pub mqa: CachePerToken,
}

/// One way of caching.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CachePerToken {
    /// Numbers per token.
    pub elements: u64,
    /// Bytes per token.
    pub bytes: u64,
    /// Share of what MHA needs.
    pub of_mha: f64,
}

impl KvCache {
    /// Counts `config` with latents in `format`. Scales and padding count for MLA; the others are
    /// counted as if their numbers needed none.
    pub fn of(config: &Config, format: CacheFormat) -> Self {
        let (heads, layers) = (config.num_attention_heads as u64, config.num_hidden_layers as u64);
        let groups = |groups: u64| 2 * groups * config.qk_nope_head_dim as u64 * layers;
        let per_token = |elements: u64| CachePerToken {
            elements,
            bytes: elements * format.number_bytes() as u64,
            of_mha: elements as f64 / groups(heads) as f64,
        };
        let mla = per_token(config.latent_width() as u64 * layers);
        Self {
            dtype: format.name(),
            mla: CachePerToken { bytes: LatentCache::bytes_per_token(config, format) as u64, ..mla },
            mha: per_token(groups(heads)),
            gqa8: per_token(groups(heads.min(8))),
            mqa: per_token(groups(1)),
        }
    }
}

/// Bytes of memory for a workload, without the MTP layers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// How weights are held.
    pub dtype: &'static str,
    /// Tokens of each sequence.
    pub context: usize,
    /// Sequences at a time.
    pub batch: usize,
    /// Packed weights: every matrix in the format whatever it is stored as (FP8 is converted),
    /// `W^UK` in both layouts, gates and norms in f32. Padding of matrices is not counted.
    pub weights: u64,
    /// Latents of all sequences.
    pub cache: u64,
    /// An estimate of the buffers of a forward pass over a prompt, [`PROMPT_CHUNK`] tokens at a time.
    pub buffers: u64,
    /// All of them.
    pub total: u64,
}

/// Tokens of a prompt taken to be in flight at a time, in the estimate of buffers.
pub const PROMPT_CHUNK: usize = 512;

/// Keys and values that MHA mode expands at a time, all heads together, are about as many numbers.
const EXPANDED: usize = 8 << 20;

impl Memory {
    /// Counts `config` running `workload`.
    pub fn of(config: &Config, workload: &Workload) -> Self {
        let Workload { ref storage, context, batch, .. } = *workload;
        let per_token = LatentCache::bytes_per_token(config, workload.cache_format()) as u64;
        let weights = packed_bytes(config, storage);
        let cache = per_token.saturating_mul(context as u64).saturating_mul(batch as u64);
        let buffers = buffer_bytes(config, workload);
        let total = weights.saturating_add(cache).saturating_add(buffers);
        let dtype = storage.of_floats(names::LM_HEAD, config.hidden_size).name();
        Self { dtype, context, batch, weights, cache, buffers, total }
    }
}

fn packed_bytes(config: &Config, storage: &Storage) -> u64 {
    let specs = manifest::tensors(config);
    // A tied head is read from the embedding's place in memory: one of the two is held.
    let held = specs.iter().filter(|spec| spec.part != Part::Mtp && !spec.optional);
    let one = |spec: &manifest::TensorSpec| match spec.shape[..] {
        [_, cols] if spec.part != Part::Router => {
            storage.of_floats(&spec.name, cols).bytes_of(spec.elements())
        }
        _ => spec.elements() * 4,
    };
    let key_up = config.num_attention_heads * config.qk_nope_head_dim * config.kv_lora_rank;
    held.map(one).sum::<u64>() + storage.floats.bytes_of((config.num_hidden_layers * key_up) as u64)
}

fn buffer_bytes(config: &Config, workload: &Workload) -> u64 {
    let Workload { ref storage, context, batch, .. } = *workload;
    let rows = context.clamp(1, PROMPT_CHUNK).max(batch);
    let heads = config.num_attention_heads;
    let queries = heads * config.qk_head_dim();
    let residual = 4 * config.hidden_size;
    let attention = config.q_lora_rank.map_or(queries, |rank| rank + queries)
        + 2 * config.latent_width()
        + heads * config.v_head_dim;
    let slots = config.num_experts_per_tok + config.n_shared_experts;
    let experts = slots * (config.moe_intermediate_size + config.hidden_size);
    let feed_forward = config.intermediate_size.max(experts);
    // The widest input of a product, once more in the format of the weights.
    let widest = (slots * config.hidden_size.max(config.moe_intermediate_size))
        .max(heads * config.v_head_dim)
        .max(config.intermediate_size);
    let numbers = rows * (residual + attention + feed_forward) + batch * config.vocab_size + EXPANDED;
    numbers as u64 * 4 + storage.floats.bytes_of((rows * widest) as u64)
}
