//! What was measured.

use fathom_model::{LatentCache, Model};
use serde::Serialize;

use crate::cost::DecodeCost;
use crate::{Limits, Plan, Spread};

/// Everything a run found. Rates are per second, sizes in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether all of the plan was measured.
    pub complete: bool,
    /// What ran.
    pub model: ModelFacts,
    /// What was asked for.
    pub plan: Plan,
    /// What the machine allows.
    pub limits: Limits,
    /// One per prompt length and batch size.
    pub prefill: Vec<PrefillResult>,
    /// One per batch size and context.
    pub decode: Vec<DecodeResult>,
}

/// The model, as far as speed depends on it.
#[derive(Clone, Debug, Serialize)]
pub struct ModelFacts {
    /// `model_type` of the configuration.
    pub model_type: &'static str,
    /// `num_hidden_layers`.
    pub layers: usize,
    /// How weights are held.
    pub dtype: &'static str,
    /// Bytes of all packed weights.
    pub weight_bytes: usize,
    /// Bytes of weights that decoding one token reads.
    pub weight_bytes_per_token: usize,
    /// Bytes of the output head, which are among them.
    pub head_bytes: usize,
    /// Bytes of the latent cache per token.
    pub cache_bytes_per_token: usize,
    /// What the bytes of decode steps are counted from.
    pub decode_cost: DecodeCost,
}

impl ModelFacts {
    /// Of a loaded model.
    pub fn of(model: &Model) -> Self {
        let config = model.config();
        Self {
            model_type: config.model_type.name(),
            layers: config.num_hidden_layers,
            dtype: model.format().name(),
            weight_bytes: model.weight_bytes(),
            weight_bytes_per_token: model.weight_bytes_per_token(),
            head_bytes: model.head_bytes(),
            cache_bytes_per_token: LatentCache::bytes_per_token(config, model.cache_format()),
            decode_cost: DecodeCost::of(model),
        }
    }
}

/// Prompts into an empty cache.
#[derive(Clone, Debug, Serialize)]
pub struct PrefillResult {
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Prompts side by side.
    pub batch: usize,
    /// Whether all repeats were measured.
    pub complete: bool,
    /// Tokens of all prompts.
    pub tokens_per_second: Spread,
    /// Operations: products with weights, attention in MHA form, the head on last tokens.
    pub flops_per_token: f64,
    /// At the median.
    pub flops_per_second: f64,
    /// What multiplies.
    pub multiplier: &'static str,
    /// `flops_per_second` over that multiplier's best rate.
    pub share_of_peak: f64,
    /// `flops_per_second` over the best rate of that multiplier fed from the second-level cache, where it
    /// is a tile unit.
    pub share_of_l2_peak: Option<f64>,
    /// How many times as fast as f32 products of the same shapes alone (without attention, norms
    /// and the head) run in Fathom on this machine.
    pub times_f32_gemm: Option<f64>,
    /// What those products take.
    pub f32_gemm_seconds: Option<f64>,
    /// Of each repeat.
    pub seconds: Spread,
}

/// One token per sequence and step.
#[derive(Clone, Debug, Serialize)]
pub struct DecodeResult {
    /// Tokens of each sequence before the first step.
    pub context: usize,
    /// Sequences side by side.
    pub batch: usize,
    /// Whether all repeats were measured.
    pub complete: bool,
    /// Of all sequences together.
    pub tokens_per_second: Spread,
    /// Of each sequence, at the median.
    pub sequence_tokens_per_second: f64,
    /// Distinct (layer, expert) pairs that the measured steps used, in the mean.
    pub experts_per_step: f64,
    /// Weights and latents a step reads, in the mean.
    pub bytes_per_step: f64,
    /// The same for each of the step's tokens.
    pub bytes_per_token: f64,
    /// At the median.
    pub bytes_per_second: f64,
    /// Of all sequences together, with [`Plan::of_layers`] layers like these: every layer takes the mean
    /// time, the head its share of the bytes.
    pub tokens_per_second_of_layers: Option<f64>,
    /// `bytes_per_second` over the best bandwidth seen before and after.
    pub share_of_bandwidth: f64,
    /// Of each repeat.
    pub seconds: Spread,
}

impl DecodeResult {
    /// Sets [`DecodeResult::tokens_per_second_of_layers`].
    pub(crate) fn extrapolate(&mut self, model: &ModelFacts, layers: usize) {
        let step = self.batch as f64 / self.tokens_per_second.median;
        let head = model.head_bytes as f64 / self.bytes_per_second;
        let whole = (step - head) * layers as f64 / model.layers as f64 + head;
        self.tokens_per_second_of_layers = Some(self.batch as f64 / whole);
    }

    /// Sets what depends on the machine.
    pub(crate) fn compare(&mut self, limits: &Limits) {
        self.share_of_bandwidth = self.bytes_per_second / limits.read();
    }
}
