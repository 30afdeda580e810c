//! The model: embedding, decoder layers, final norm, head; serving form.

use std::path::Path;

use fathom_kernels::Compute;
use fathom_kernels::attention::{BLOCK_TOKENS, CacheFormat};
use fathom_kernels::combine;
use fathom_kernels::gemm::{Epilogue, Gathered, Group, Output, Rows, WeightFormat, gemm};
use fathom_kernels::rmsnorm::rmsnorm;
use fathom_kernels::rope::Rope;

use crate::batch::{self, Batch, Segment};
use crate::cache::LatentCache;
use crate::load::{LoadOptions, Progress};
use crate::mla::{Attention, AttentionForm};
use crate::observe::{FeedForwardInputs, Observed, Observer};
use crate::packed_cache::{self, CacheOutcome, Request};
use crate::weights::{DecoderLayer, FeedForward, Weights};
use crate::workspace::{Workspace, room};
use crate::{Config, Result};

/// A loaded model: weights that are read by all and written by nobody.
#[derive(Debug)]
pub struct Model {
    config: Config,
    compute: Compute,
    /// What is not in blocks is held so.
    floats: WeightFormat,
    /// How latents are cached, if somebody chose.
    cached: Option<CacheFormat>,
    batch_invariant: bool,
    packed_cache: CacheOutcome,
    pub(crate) weights: Weights,
    pub(crate) rope: Rope,
}

/// How a forward pass runs.
#[derive(Default)]
pub struct ForwardOptions<'a> {
    /// Forces a form of attention; if `None`, MQA mode in a batch-invariant model, and else by cost.
    pub attention_form: Option<AttentionForm>,
    /// Told what is computed on the way.
    pub observer: Option<Observer<'a>>,
}

impl Model {
    /// Loads the checkpoint in `dir` (`config.json` and safetensors, or a `.gguf` file), holding every weight as
    /// `options.storage` says; from a packed cache if `options.cache` allows and there is one, and else with one
    /// written. Trouble with the cache is no error: see [`Model::packed_cache`].
    ///
    /// # Errors
    /// If the configuration or a tensor is missing, damaged, of the wrong shape or not supported.
    pub fn load(dir: &Path, compute: Compute, options: LoadOptions, progress: Progress<'_>) -> Result<Self> {
        let batch_invariant = options.batch_invariant;
        let compute = if batch_invariant { compute.without_tiles() } else { compute };
        let config = Config::read(dir)?;
        let checkpoint = config.open_checkpoint(dir)?;
        let request = Request {
            path: dir,
            config: &config,
            checkpoint: &checkpoint,
            compute: &compute,
            options: &options,
        };
        let (weights, packed_cache) = packed_cache::weights(&request, progress)?;
        let frequencies = config.rope_scaling.frequencies(config.rope_theta, config.qk_rope_head_dim);
        let factor = config.rope_scaling.rotation_factor();
        let rope = Rope::new(&frequencies, factor);
        Ok(Self {
            config,
            compute,
            floats: options.storage.floats,
            cached: None,
            batch_invariant,
            packed_cache,
            weights,
            rope,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the model computes on.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Whether a token's logits do not depend on what is computed beside it
    /// ([`LoadOptions::batch_invariant`]).
    pub fn is_batch_invariant(&self) -> bool {
        self.batch_invariant
    }

    /// Whether the weights came from a packed cache, or one was written.
    pub fn packed_cache(&self) -> &CacheOutcome {
        &self.packed_cache
    }

    /// How most weights are held.
    pub fn format(&self) -> WeightFormat {
        self.weights.main_format()
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Bytes of weights that decoding one token reads.
    pub fn weight_bytes_per_token(&self) -> usize {
        self.weights.bytes_per_token()
    }

    /// Bytes of the output head.
    pub fn head_bytes(&self) -> usize {
        self.weights.lm_head.bytes()
    }

    /// Bytes of one routed expert, in the mean over layers; 0 without experts.
    pub fn expert_bytes(&self) -> usize {
        self.weights.expert_bytes()
    }

    /// How this model's latents are cached: as chosen with [`Model::set_cache_format`], else f32
    /// where all weights are, else bf16.
    pub fn cache_format(&self) -> CacheFormat {
        self.cached.unwrap_or(match self.floats {
            WeightFormat::F32 => CacheFormat::F32,
            _ => CacheFormat::Bf16,
        })
    }

    /// Chooses how caches made from now on hold latents; `None` chooses by the weights.
    pub fn set_cache_format(&mut self, format: Option<CacheFormat>) {
        self.cached = format;
    }

    /// A cache with room for `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::CacheTooLarge`](crate::Error::CacheTooLarge).
    pub fn new_cache(&self, tokens: usize) -> Result<LatentCache> {
        LatentCache::new(&self.config, self.cache_format(), tokens)
    }

    /// A cache of `blocks` blocks that the caller lends to sequences itself ([`Sequence::over`]): nothing
    /// in it is lent by [`LatentCache::reserve`].
    ///
    /// # Errors
    /// [`Error::CacheTooLarge`](crate::Error::CacheTooLarge).
    ///
    /// [`Sequence::over`]: crate::Sequence::over
    pub fn new_block_cache(&self, blocks: usize) -> Result<LatentCache> {
        Ok(LatentCache::new(&self.config, self.cache_format(), blocks * BLOCK_TOKENS)?.lent_by_the_caller())
    }

    /// Runs the next tokens of some sequences. Returns logits `[rows asked for, vocab_size]`, in
    /// the order of the segments; [`Model::hidden`] gives the final hidden states.
    ///
    /// # Errors
    /// If a segment is empty, leaves the vocabulary or the context, or the cache is full. Nothing
    /// has changed then but reserved blocks.
    pub fn forward<'w>(
        &self,
        workspace: &'w mut Workspace,
        cache: &mut LatentCache,
        segments: &mut [Segment<'_>],
        mut options: ForwardOptions<'_>,
    ) -> Result<&'w [f32]> {
        batch::admit(&self.config, cache, segments)?;
        let logit_rows =
            batch::logit_rows(segments.iter().map(|segment| (segment.tokens.len(), segment.logits)));
        let hidden = self.config.hidden_size;
        {
            let parts =
                segments.iter().map(|s| (s.sequence.len, s.tokens.len(), s.sequence.block_table.as_slice()));
            let batch = Batch::new(&self.rope, parts);
            let x = room(&mut workspace.x, batch.rows() * hidden);
            let tokens = segments.iter().flat_map(|segment| segment.tokens);
            for (row, &token) in x.chunks_exact_mut(hidden).zip(tokens) {
                self.weights.embed(token, row);
            }
            observe(&mut options.observer, Observed::Embed(x));
            for (index, layer) in self.weights.layers.iter().enumerate() {
                self.layer(index, layer, &batch, workspace, cache, &mut options);
            }
            let x = Rows::dense(&workspace.x[..batch.rows() * hidden], hidden);
            let out = room(&mut workspace.hidden, batch.rows() * hidden);
            rmsnorm(&self.compute, x, &self.weights.norm, self.config.rms_norm_eps, out);
            workspace.rows = batch.rows();
        }
        for segment in segments {
            segment.sequence.len += segment.tokens.len();
        }
        Ok(self.head(workspace, &logit_rows))
    }

    /// Hidden states after the final norm of the last pass's rows, `[rows, hidden_size]`.
    pub fn hidden<'w>(&self, workspace: &'w Workspace) -> &'w [f32] {
        &workspace.hidden[..workspace.rows * self.config.hidden_size]
    }

    /// One decoder layer on `workspace.x`.
    pub(crate) fn layer(
        &self,
        index: usize,
        layer: &DecoderLayer,
        batch: &Batch<'_>,
        workspace: &mut Workspace,
        cache: &mut LatentCache,
        options: &mut ForwardOptions<'_>,
    ) {
        let (config, compute) = (&self.config, &self.compute);
        let (rows, hidden) = (batch.rows(), config.hidden_size);
        let Workspace { x, normed, delta, attention, feed_forward, .. } = workspace;
        let x = &mut x[..rows * hidden];
        let (normed, delta) = (room(normed, rows * hidden), room(delta, rows * hidden));

        rmsnorm(compute, Rows::dense(x, hidden), &layer.input_layernorm, config.rms_norm_eps, normed);
        let form = options.attention_form.or(self.batch_invariant.then_some(AttentionForm::Absorbed));
        let block = Attention { compute, config, batch, form };
        block.forward(&layer.attention, &mut cache.layers[index], normed, attention, delta);
        if let Some(observer) = &mut options.observer {
            let inputs = attention.inputs(compute, config, &layer.attention, normed);
            observer(Observed::AttentionInputs { layer: index, inputs });
        }
        observe(&mut options.observer, Observed::AttentionOut { layer: index, values: delta });
        combine::add(compute, x, delta);

        let norm = &layer.post_attention_layernorm;
        rmsnorm(compute, Rows::dense(x, hidden), norm, config.rms_norm_eps, normed);
        match &layer.ffn {
            FeedForward::Dense(mlp) => mlp.forward(compute, Rows::dense(normed, hidden), feed_forward, delta),
            FeedForward::Moe(moe) => {
                moe.forward(compute, Rows::dense(normed, hidden), feed_forward, delta);
                let router_logits = &feed_forward.logits[..rows * moe.router.experts];
                let routing = feed_forward.routing();
                observe(&mut options.observer, Observed::Routed { layer: index, router_logits, routing });
            }
        }
        if let Some(observer) = &mut options.observer {
            let routed = layer.ffn.routed();
            let experts = &feed_forward.inputs(&layer.ffn, rows);
            let inputs = FeedForwardInputs { hidden: normed, experts, routed };
            observer(Observed::FeedForwardInputs { layer: index, inputs });
        }
        observe(&mut options.observer, Observed::MlpOut { layer: index, values: delta });
        combine::add(compute, x, delta);
        observe(&mut options.observer, Observed::Hidden { layer: index, values: x });
    }

    /// Logits of some rows of `workspace.hidden`.
    pub(crate) fn head<'w>(&self, workspace: &'w mut Workspace, rows: &[usize]) -> &'w [f32] {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let Workspace { hidden: states, activations, logits, .. } = workspace;
        let head = &self.weights.lm_head;
        let states = Rows::dense(states, hidden);
        let wanted = Gathered { rows: rows.len(), largest: rows.len(), source_rows: |row| rows[row] };
        activations.gather(&self.compute, head.format(), states, wanted);
        let logits = room(logits, rows.len() * vocab);
        let groups = [Group::whole(head, activations)];
        gemm(&self.compute, activations, &groups, Epilogue::Store, Output { values: logits, stride: vocab });
        logits
    }
}

fn observe(observer: &mut Option<Observer<'_>>, observed: Observed<'_>) {
    if let Some(observer) = observer {
        observer(observed);
    }
}
