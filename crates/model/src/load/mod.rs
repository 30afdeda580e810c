//! From a checkpoint to packed weights: each matrix is converted once, panel by panel, on all
//! threads, and the file's pages are given back as soon as they are read.

mod embedding;
mod matrix;

use fathom_checkpoint::names::{self, Attention, Ffn, Layer};
use fathom_checkpoint::{Checkpoint, Matrix};
use fathom_kernels::Compute;
use fathom_kernels::gemm::{PANEL, PackedMatrix, Precision, WeightFormat};
use fathom_numeric::blocks::BlockFormat;

use crate::config::ModelType;
use crate::manifest;
use crate::weights::{AttentionWeights, DecoderLayer, Embedding, FeedForward, Mlp, Moe, MtpModule, Weights};
use crate::{CacheUse, Config, Error, Result, Storage};
use matrix::{Source, transposed};

/// What to load, and how to store it.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// How weights are held in memory.
    pub storage: Storage,
    /// Load the MTP layers too.
    pub mtp: bool,
    /// Whether the packed weights are kept for the next start.
    pub cache: CacheUse,
    /// [`CacheUse::Auto`] writes none for fewer bytes of packed weights.
    pub cache_from_bytes: usize,
    /// Logits of a token are the same, bit for bit, whatever else is computed beside it and however its sequence
    /// was cut: attention stays in MQA mode, and the tile unit is not used. Off, prompts are faster, and roundings
    /// may differ.
    pub batch_invariant: bool,
}

impl LoadOptions {
    /// Weights held so, without MTP layers and without a packed cache.
    pub fn new(storage: impl Into<Storage>) -> Self {
        Self {
            storage: storage.into(),
            mtp: false,
            cache: CacheUse::Off,
            cache_from_bytes: 256 << 20,
            batch_invariant: false,
        }
    }
}

/// Told of bytes done so far and in all: those read, and, where a packed cache is written, those written. The total
/// grows by the latter when everything has been read.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

pub(crate) fn weights(
    config: &Config,
    checkpoint: &Checkpoint,
    compute: &Compute,
    options: &LoadOptions,
    progress: Progress<'_>,
) -> Result<Weights> {
    let total = manifest::check(config, checkpoint, options.mtp)?;
    checkpoint.read_sequentially();
    let storage = &options.storage;
    Loader { config, checkpoint, compute, storage, progress, done: 0, total }.weights(options.mtp)
}

/// Whether the embedding is the head's. As transformers: a head in the file counts, even if the config says it is
/// tied.
pub(crate) fn is_tied(config: &Config, checkpoint: &Checkpoint) -> bool {
    config.tie_word_embeddings && !checkpoint.contains(names::LM_HEAD)
}

struct Loader<'a> {
    config: &'a Config,
    checkpoint: &'a Checkpoint,
    compute: &'a Compute,
    storage: &'a Storage,
    progress: Progress<'a>,
    done: u64,
    total: u64,
}

impl<'a> Loader<'a> {
    fn weights(mut self, mtp: bool) -> Result<Weights> {
        let config = self.config;
        let shape = [config.vocab_size, config.hidden_size];
        let tied = is_tied(config, self.checkpoint);
        let embedding = if tied { Embedding::Tied } else { self.embedding(shape)? };
        let layers = (0..config.num_hidden_layers).map(|layer| self.layer(layer)).collect::<Result<_>>()?;
        let norm = self.vector(names::NORM, config.hidden_size)?;
        let head = if tied { names::EMBED_TOKENS } else { names::LM_HEAD };
        let lm_head = self.matrix(head, shape)?;
        let mtp_layers = if mtp { config.num_hidden_layers..config.layers_with_mtp() } else { 0..0 };
        let mtp = mtp_layers.map(|layer| self.mtp_module(layer)).collect::<Result<_>>()?;
        Ok(Weights { embedding, layers, norm, lm_head, mtp })
    }

    fn layer(&mut self, layer: usize) -> Result<DecoderLayer> {
        let (config, names) = (self.config, Layer(layer));
        let hidden = config.hidden_size;
        let input_layernorm = self.vector(&names.input_layernorm(), hidden)?;
        let attention = self.attention(names)?;
        let post_attention_layernorm = self.vector(&names.post_attention_layernorm(), hidden)?;
        let ffn = if config.is_moe(layer) {
            FeedForward::Moe(self.moe(names)?)
        } else {
            let parts = Ffn::ALL.map(|ffn| names.mlp(ffn));
            FeedForward::Dense(
                self.mlps(parts, config.intermediate_size, config.intermediate_size, config.mlp_bias)?
                    .remove(0),
            )
        };
        Ok(DecoderLayer { input_layernorm, attention, post_attention_layernorm, ffn })
    }

    fn attention(&mut self, names: Layer) -> Result<AttentionWeights> {
        let config = self.config;
        let (hidden, latent) = (config.hidden_size, config.kv_lora_rank);
        let (heads, query) = (config.num_attention_heads, config.qk_head_dim());
        let (nope, value) = (config.qk_nope_head_dim, config.v_head_dim);
        let first = if config.q_lora_rank.is_some() { Attention::QAProj } else { Attention::QProj };
        let first_rows = config.q_lora_rank.unwrap_or(heads * query);
        let kv_a_name = names.attention(Attention::KvAProjWithMqa);
        let sources = [
            self.checkpoint.matrix(&names.attention(first), [first_rows, hidden])?,
            self.checkpoint.matrix(&kv_a_name, [config.latent_width(), hidden])?,
        ];
        let rows = first_rows + config.latent_width();
        let format = self.common_format([&names.attention(first), &kv_a_name], &sources);
        let source = Source::whole(self.compute, format, &sources);
        let mut qkv_a = source.pack(rows, |row| match row.checked_sub(first_rows) {
            None if config.q_lora_rank.is_none() => Some((0, rotary_row(config, row, query, nope))),
            None => Some((0, row)),
            Some(row) => Some((1, rotary_row(config, row, config.latent_width(), latent))),
        })?;
        self.finished(&sources);
        if config.attention_bias {
            let mut bias = vec![0.0; first_rows];
            if config.q_lora_rank.is_some() {
                bias = self.vector(&names.attention_bias(first), first_rows)?;
            }
            let kv = self.vector(&names.attention_bias(Attention::KvAProjWithMqa), config.latent_width())?;
            bias.extend((0..kv.len()).map(|row| kv[rotary_row(config, row, config.latent_width(), latent)]));
            qkv_a = qkv_a.with_bias(&bias);
        }
        let q_b = match config.q_lora_rank {
            None => None,
            Some(rank) => {
                let name = names.attention(Attention::QBProj);
                let source = [self.checkpoint.matrix(&name, [heads * query, rank])?];
                let format = self.storage.of(&name, &source[0]);
                let locate = |row| Some((0, rotary_row(config, row, query, nope)));
                let q_b = Source::whole(self.compute, format, &source).pack(heads * query, locate)?;
                self.finished(&source);
                Some((self.vector(&names.attention(Attention::QALayernorm), rank)?, q_b))
            }
        };
        let kv_a_layernorm = self.vector(&names.attention(Attention::KvALayernorm), latent)?;
        let mut w = AttentionWeights {
            qkv_a,
            q_b,
            kv_a_layernorm,
            w_uk: Vec::with_capacity(heads),
            w_uk_transposed: Vec::with_capacity(heads),
            w_uv: Vec::with_capacity(heads),
            o_proj: self.matrix(&names.attention(Attention::OProj), [hidden, heads * value])?,
        };
        self.latent_to_heads(names, &mut w)?;
        if config.attention_bias {
            w.o_proj = w.o_proj.with_bias(&self.vector(&names.attention_bias(Attention::OProj), hidden)?);
        }
        Ok(w)
    }

    /// `W^UK` in both layouts and `W^UV`: from `kv_b_proj`, or from its two halves where a file has it
    /// split. The layout of `W^UK` that is not stored is made from the one that is.
    fn latent_to_heads(&mut self, names: Layer, w: &mut AttentionWeights) -> Result<()> {
        let (config, compute) = (self.config, self.compute);
        let (heads, latent) = (config.num_attention_heads, config.kv_lora_rank);
        let (nope, value) = (config.qk_nope_head_dim, config.v_head_dim);
        let (name, split) = (names.attention(Attention::KvBProj), names.k_b_proj());
        let rows = |source: &[Matrix<'_>], format, first: usize, count: usize| {
            Source::whole(compute, format, source).pack(count, |row| Some((0, first + row)))
        };
        if self.checkpoint.contains(&name) {
            let kv_b = [self.checkpoint.matrix(&name, [heads * (nope + value), latent])?];
            let stored = self.storage.of(&name, &kv_b[0]);
            for first in (0..heads).map(|head| head * (nope + value)) {
                w.w_uk.push(rows(&kv_b, self.per_head(stored), first, nope)?);
                let format = self.per_head(derived(stored));
                w.w_uk_transposed.push(transposed(compute, format, &kv_b[0], first..first + nope)?);
                w.w_uv.push(rows(&kv_b, self.per_head(stored), first + nope, value)?);
            }
            self.finished(&kv_b);
            return Ok(());
        }
        let k_b = [self.checkpoint.matrix(&split, [heads * latent, nope])?];
        let v_name = names.v_b_proj();
        let v_b = [self.checkpoint.matrix(&v_name, [heads * value, latent])?];
        let (k_stored, v_stored) = (self.storage.of(&split, &k_b[0]), self.storage.of(&v_name, &v_b[0]));
        for head in 0..heads {
            let first = head * latent;
            let format = self.per_head(derived(k_stored));
            w.w_uk.push(transposed(compute, format, &k_b[0], first..first + latent)?);
            w.w_uk_transposed.push(rows(&k_b, self.per_head(k_stored), first, latent)?);
            w.w_uv.push(rows(&v_b, self.per_head(v_stored), head * value, value)?);
        }
        self.finished(&k_b);
        self.finished(&v_b);
        Ok(())
    }

    /// Heads read their own columns of the activations, and int8 activations are cut every 32 columns:
    /// where heads are not whole runs, their matrices stay floats.
    fn per_head(&self, format: WeightFormat) -> WeightFormat {
        let config = self.config;
        let aligned = [config.qk_head_dim(), config.kv_lora_rank].iter().all(|cols| cols.is_multiple_of(32));
        if format.precision() == Precision::Int8 && !aligned { self.storage.floats } else { format }
    }

    /// One format for two matrices that are packed together: theirs, or that of floats if they differ.
    fn common_format(&self, names: [&str; 2], sources: &[Matrix<'_>; 2]) -> WeightFormat {
        let [first, second] = [0, 1].map(|index| self.storage.of(names[index], &sources[index]));
        if first == second { first } else { self.storage.floats }
    }

    fn moe(&mut self, names: Layer) -> Result<Moe> {
        let config = self.config;
        let (experts, hidden, width) =
            (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size);
        let source = [self.checkpoint.matrix(&names.router(), [experts, hidden])?];
        let gate = Source::whole(self.compute, WeightFormat::F32, &source);
        let gate = gate.pack(experts, |row| Some((0, row)))?;
        self.finished(&source);
        let bias = match config.model_type {
            ModelType::DeepseekV2 | ModelType::Deepseek => Vec::new(),
            ModelType::DeepseekV3 => self.vector(&names.e_score_correction_bias(), experts)?,
        };
        let mut all = Vec::with_capacity(experts + config.n_shared_experts);
        for expert in 0..experts {
            let parts = Ffn::ALL.map(|ffn| names.expert(expert, ffn));
            all.append(&mut self.mlps(parts, width, width, false)?);
        }
        if config.n_shared_experts > 0 {
            let parts = Ffn::ALL.map(|ffn| names.shared_experts(ffn));
            all.append(&mut self.mlps(parts, config.n_shared_experts * width, width, config.mlp_bias)?);
        }
        let shared = all.len() - experts;
        Ok(Moe { router: config.router(), gate, bias, experts: all, shared, width })
    }

    /// A SwiGLU of `whole` (gate, up and down by name), cut into some of at most `width` whose sum it is.
    /// Where `down` is stored in blocks they are cut between blocks.
    fn mlps(
        &mut self,
        [gate, up, down]: [String; 3],
        whole: usize,
        width: usize,
        bias: bool,
    ) -> Result<Vec<Mlp>> {
        let (compute, hidden) = (self.compute, self.config.hidden_size);
        let gate_up =
            [self.checkpoint.matrix(&gate, [whole, hidden])?, self.checkpoint.matrix(&up, [whole, hidden])?];
        let down_source = [self.checkpoint.matrix(&down, [hidden, whole])?];
        let gate_up_format = self.common_format([&gate, &up], &gate_up);
        let mut down_format = self.storage.of(&down, &down_source[0]);
        let block = match down_format {
            WeightFormat::Block(format) if whole > width => format.block_len(),
            _ => 1,
        };
        if block > width {
            down_format = self.storage.floats;
        }
        let step = if block > width { width } else { width / block * block };
        let biases = match bias {
            false => None,
            true => Some(
                [(&gate, whole), (&up, whole), (&down, hidden)]
                    .map(|(name, len)| self.vector(&names::bias_name(name), len)),
            ),
        };
        let biases = biases.map(|[gate, up, down]| Ok::<_, Error>([gate?, up?, down?])).transpose()?;
        let mut mlps = Vec::with_capacity(whole.div_ceil(step));
        for first in (0..whole).step_by(step) {
            let width = step.min(whole - first);
            let rows = 2 * width.next_multiple_of(PANEL);
            // Gate panel 0, up panel 0, gate panel 1, …
            let locate = |row: usize| {
                let (panel, lane) = (row / PANEL, row % PANEL);
                let within = panel / 2 * PANEL + lane;
                (within < width).then_some((panel % 2, first + within))
            };
            let mut gate_up = Source::whole(compute, gate_up_format, &gate_up).pack(rows, locate)?;
            let columns = first..first + width;
            let source = Source { compute, format: down_format, matrices: &down_source, columns };
            let mut down = source.pack(hidden, |row| Some((0, row)))?;
            if let Some([gate, up, down_bias]) = &biases {
                let at = |row| locate(row).map_or(0.0, |(source, row)| [gate, up][source][row]);
                gate_up = gate_up.with_bias(&(0..rows).map(at).collect::<Vec<_>>());
                if first == 0 {
                    down = down.with_bias(down_bias);
                }
            }
            mlps.push(Mlp { gate_up, down, width });
        }
        self.finished(&gate_up);
        self.finished(&down_source);
        Ok(mlps)
    }

    fn mtp_module(&mut self, layer: usize) -> Result<MtpModule> {
        let (names, hidden) = (Layer(layer), self.config.hidden_size);
        Ok(MtpModule {
            enorm: self.vector(&names.enorm(), hidden)?,
            hnorm: self.vector(&names.hnorm(), hidden)?,
            eh_proj: self.matrix(&names.eh_proj(), [hidden, 2 * hidden])?,
            layer: self.layer(layer)?,
            norm: self.vector(&names.shared_head_norm(), hidden)?,
        })
    }

    fn embedding(&mut self, shape: [usize; 2]) -> Result<Embedding> {
        let source = self.checkpoint.matrix(names::EMBED_TOKENS, shape)?;
        let format = self.storage.of(names::EMBED_TOKENS, &source);
        let embedding = embedding::read(self.compute, format, &source)?;
        self.finished(&[source]);
        Ok(embedding)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let values = self.checkpoint.vector(name, len)?;
        self.advance(self.checkpoint.find(name).map_or(0, |view| view.bytes.len()));
        Ok(values)
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<PackedMatrix> {
        let source = [self.checkpoint.matrix(name, shape)?];
        let format = self.storage.of(name, &source[0]);
        let packed = Source::whole(self.compute, format, &source).pack(shape[0], |row| Some((0, row)))?;
        self.finished(&source);
        Ok(packed)
    }

    /// The sources have been read: their pages may go.
    fn finished(&mut self, sources: &[Matrix<'_>]) {
        for source in sources {
            source.release();
            self.advance(source.view().bytes.len());
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.done += bytes as u64;
        (self.progress)(self.done.min(self.total), self.total);
    }
}

/// Where row `row` of a matrix is stored, whose rows come in slices of `slice` with the rotary
/// part from `rotary` on. Released checkpoints keep rotary pairs side by side, as the kernels
/// want them; with `rope_interleave: false` a pair is half the rotary part apart.
fn rotary_row(config: &Config, row: usize, slice: usize, rotary: usize) -> usize {
    let (start, within) = (row - row % slice, row % slice);
    if config.rope_interleave || within < rotary {
        return row;
    }
    let (pair, odd) = ((within - rotary) / 2, (within - rotary) % 2);
    start + rotary + pair + odd * (slice - rotary) / 2
}

/// How the layout of a matrix that is not stored is held: 8 bits lose nothing that coarser codes have left.
fn derived(stored: WeightFormat) -> WeightFormat {
    match stored {
        WeightFormat::Block(BlockFormat::Fp8) => WeightFormat::Bf16,
        WeightFormat::Block(_) => WeightFormat::Block(BlockFormat::Q8_0),
        floats => floats,
    }
}
