//! From a checkpoint to packed weights: each matrix is converted once, panel by panel, on all
//! threads, and the file's pages are given back as soon as they are read.

use std::ops::Range;

use fathom_checkpoint::names::{self, Attention, Ffn, Layer};
use fathom_checkpoint::{Checkpoint, Matrix};
use fathom_kernels::Compute;
use fathom_kernels::gemm::{PANEL, PackedMatrix, WeightFormat};
use fathom_numeric::bf16;

use crate::config::ModelType;
use crate::manifest;
use crate::weights::{AttentionWeights, DecoderLayer, Embedding, FeedForward, Mlp, Moe, MtpModule, Weights};
use crate::{Config, Error, Result};

/// What to load, and how to store it.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How weights are stored in memory. The gate is always f32.
    pub format: WeightFormat,
    /// Load the MTP layers too.
    pub mtp: bool,
}

/// Told of bytes read so far and in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

pub(crate) fn weights(
    config: &Config,
    checkpoint: &Checkpoint,
    compute: &Compute,
    options: LoadOptions,
    progress: Progress<'_>,
) -> Result<Weights> {
    let total = manifest::check(config, checkpoint, options.mtp)?;
    checkpoint.read_sequentially();
    Loader { config, checkpoint, compute, format: options.format, progress, done: 0, total }
        .weights(options.mtp)
}

struct Loader<'a> {
    config: &'a Config,
    checkpoint: &'a Checkpoint,
    compute: &'a Compute,
    format: WeightFormat,
    progress: Progress<'a>,
    done: u64,
    total: u64,
}

impl<'a> Loader<'a> {
    fn weights(mut self, mtp: bool) -> Result<Weights> {
        let config = self.config;
        let shape = [config.vocab_size, config.hidden_size];
        // As transformers: a head in the file counts, even if the config says it is tied.
        let tied = config.tie_word_embeddings && !self.checkpoint.contains(names::LM_HEAD);
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
            FeedForward::Dense(self.mlps(parts, config.intermediate_size, 1, config.mlp_bias)?.remove(0))
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
        let sources = [
            self.checkpoint.matrix(&names.attention(first), [first_rows, hidden])?,
            self.checkpoint
                .matrix(&names.attention(Attention::KvAProjWithMqa), [config.latent_width(), hidden])?,
        ];
        let rows = first_rows + config.latent_width();
        let mut qkv_a = self.pack(&sources, [rows, hidden], |row| match row.checked_sub(first_rows) {
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
                let source =
                    [self.checkpoint.matrix(&names.attention(Attention::QBProj), [heads * query, rank])?];
                let q_b = self.pack(&source, [heads * query, rank], |row| {
                    Some((0, rotary_row(config, row, query, nope)))
                })?;
                self.finished(&source);
                Some((self.vector(&names.attention(Attention::QALayernorm), rank)?, q_b))
            }
        };
        let kv_a_layernorm = self.vector(&names.attention(Attention::KvALayernorm), latent)?;
        let kv_b =
            self.checkpoint.matrix(&names.attention(Attention::KvBProj), [heads * (nope + value), latent])?;
        let mut w = AttentionWeights {
            qkv_a,
            q_b,
            kv_a_layernorm,
            w_uk: Vec::with_capacity(heads),
            w_uk_transposed: Vec::with_capacity(heads),
            w_uv: Vec::with_capacity(heads),
            o_proj: self.matrix(&names.attention(Attention::OProj), [hidden, heads * value])?,
        };
        let mut rows = vec![0.0; (nope + value) * latent];
        for head in 0..heads {
            kv_b.rows_f32(head * (nope + value)..(head + 1) * (nope + value), &mut rows)?;
            let (uk, uv) = rows.split_at(nope * latent);
            let transposed: Vec<f32> =
                (0..latent).flat_map(|c| (0..nope).map(move |d| uk[d * latent + c])).collect();
            let pack = |shape, values| PackedMatrix::from_rows(self.compute, self.format, shape, values);
            w.w_uk.push(pack([nope, latent], uk));
            w.w_uk_transposed.push(pack([latent, nope], &transposed));
            w.w_uv.push(pack([value, latent], uv));
        }
        self.finished(&[kv_b]);
        if config.attention_bias {
            w.o_proj = w.o_proj.with_bias(&self.vector(&names.attention_bias(Attention::OProj), hidden)?);
        }
        Ok(w)
    }

    fn moe(&mut self, names: Layer) -> Result<Moe> {
        let config = self.config;
        let (experts, hidden, width) =
            (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size);
        let source = [self.checkpoint.matrix(&names.router(), [experts, hidden])?];
        let gate = pack(self.compute, WeightFormat::F32, &source, [experts, hidden], |row| Some((0, row)))?;
        self.finished(&source);
        let bias = match config.model_type {
            ModelType::DeepseekV2 => Vec::new(),
            ModelType::DeepseekV3 => self.vector(&names.e_score_correction_bias(), experts)?,
        };
        let mut all = Vec::with_capacity(experts + config.n_shared_experts);
        for expert in 0..experts {
            let parts = Ffn::ALL.map(|ffn| names.expert(expert, ffn));
            all.append(&mut self.mlps(parts, width, 1, false)?);
        }
        let shared = config.n_shared_experts;
        if shared > 0 {
            let parts = Ffn::ALL.map(|ffn| names.shared_experts(ffn));
            all.append(&mut self.mlps(parts, width, shared, config.mlp_bias)?);
        }
        Ok(Moe { router: config.router(), gate, bias, experts: all, shared })
    }

    /// A SwiGLU of `count · width` (gate, up and down by name), cut into `count` of `width` whose
    /// sum it is.
    fn mlps(
        &mut self,
        [gate, up, down]: [String; 3],
        width: usize,
        count: usize,
        bias: bool,
    ) -> Result<Vec<Mlp>> {
        let hidden = self.config.hidden_size;
        let whole = count * width;
        let gate_up =
            [self.checkpoint.matrix(&gate, [whole, hidden])?, self.checkpoint.matrix(&up, [whole, hidden])?];
        let down_source = self.checkpoint.matrix(&down, [hidden, whole])?;
        let biases = match bias {
            false => None,
            true => Some(
                [(&gate, whole), (&up, whole), (&down, hidden)]
                    .map(|(name, len)| self.vector(&names::bias_name(name), len)),
            ),
        };
        let biases = biases.map(|[gate, up, down]| Ok::<_, Error>([gate?, up?, down?])).transpose()?;
        let rows = 2 * width.next_multiple_of(PANEL);
        let mut mlps = Vec::with_capacity(count);
        for part in 0..count {
            // Gate panel 0, up panel 0, gate panel 1, …
            let locate = |row: usize| {
                let (panel, lane) = (row / PANEL, row % PANEL);
                let within = panel / 2 * PANEL + lane;
                (within < width).then_some((panel % 2, part * width + within))
            };
            let mut gate_up = self.pack(&gate_up, [rows, hidden], locate)?;
            let columns = part * width..(part + 1) * width;
            let mut down = pack_columns(self.compute, self.format, &down_source, columns)?;
            if let Some([gate, up, down_bias]) = &biases {
                let at = |row| locate(row).map_or(0.0, |(source, row)| [gate, up][source][row]);
                gate_up = gate_up.with_bias(&(0..rows).map(at).collect::<Vec<_>>());
                if part == 0 {
                    down = down.with_bias(down_bias);
                }
            }
            mlps.push(Mlp { gate_up, down, width });
        }
        self.finished(&gate_up);
        self.finished(&[down_source]);
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

    fn embedding(&mut self, [rows, cols]: [usize; 2]) -> Result<Embedding> {
        fn fill<T: Send>(
            threads: usize,
            source: &Matrix<'_>,
            out: &mut [T],
            convert: impl Fn(f32) -> T + Copy + Send + Sync,
        ) -> Result<()> {
            let cols = source.cols();
            let rows_each = source.rows().div_ceil(threads);
            std::thread::scope(|scope| {
                let part = |(index, out): (usize, &mut [T])| -> Result<()> {
                    let mut row = vec![0.0; cols];
                    for (offset, out) in out.chunks_exact_mut(cols).enumerate() {
                        let first = index * rows_each + offset;
                        source.rows_f32(first..first + 1, &mut row)?;
                        out.iter_mut().zip(&row).for_each(|(out, value)| *out = convert(*value));
                    }
                    Ok(())
                };
                let parts = out.chunks_mut(rows_each * cols).enumerate();
                let threads: Vec<_> = parts.map(|chunk| scope.spawn(move || part(chunk))).collect();
                threads.into_iter().try_for_each(|thread| thread.join().expect("decoding does not panic"))
            })
        }
        let source = self.checkpoint.matrix(names::EMBED_TOKENS, [rows, cols])?;
        let threads = self.compute.threads();
        let embedding = match self.format {
            WeightFormat::F32 => {
                let mut out = vec![0.0; rows * cols];
                fill(threads, &source, &mut out, |value| value)?;
                Embedding::F32(out)
            }
            WeightFormat::Bf16 => {
                let mut out = vec![bf16::ZERO; rows * cols];
                fill(threads, &source, &mut out, bf16::from_f32)?;
                Embedding::Bf16(out)
            }
        };
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
        let packed = self.pack(&source, shape, |row| Some((0, row)))?;
        self.finished(&source);
        Ok(packed)
    }

    fn pack(
        &self,
        sources: &[Matrix<'_>],
        shape: [usize; 2],
        locate: impl Fn(usize) -> Option<(usize, usize)> + Sync,
    ) -> Result<PackedMatrix> {
        pack(self.compute, self.format, sources, shape, locate)
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

/// Packs a matrix whose row `r` is row `locate(r)` = (source, row) of some sources, or zero.
fn pack(
    compute: &Compute,
    format: WeightFormat,
    sources: &[Matrix<'_>],
    [rows, cols]: [usize; 2],
    locate: impl Fn(usize) -> Option<(usize, usize)> + Sync,
) -> Result<PackedMatrix> {
    PackedMatrix::build(compute, format, [rows, cols], |panel, values| {
        for (lane, out) in values.chunks_exact_mut(cols).enumerate() {
            let row = panel * PANEL + lane;
            if let Some((source, row)) = (row < rows).then(|| locate(row)).flatten() {
                sources[source].rows_f32(row..row + 1, out)?;
            }
        }
        Ok(())
    })
}

/// Packs columns `columns` of a matrix.
fn pack_columns(
    compute: &Compute,
    format: WeightFormat,
    source: &Matrix<'_>,
    columns: Range<usize>,
) -> Result<PackedMatrix> {
    let rows = source.rows();
    if columns.len() == source.cols() {
        return pack(compute, format, std::slice::from_ref(source), [rows, columns.len()], |row| {
            Some((0, row))
        });
    }
    PackedMatrix::build(compute, format, [rows, columns.len()], |panel, values| {
        let mut whole = vec![0.0; source.cols()];
        for (lane, out) in values.chunks_exact_mut(columns.len()).enumerate() {
            let row = panel * PANEL + lane;
            if row < rows {
                source.rows_f32(row..row + 1, &mut whole)?;
                out.copy_from_slice(&whole[columns.clone()]);
            }
        }
        Ok(())
    })
}
