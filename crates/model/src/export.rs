//! Writing a model as a GGUF file that llama.cpp loads: which tensors it has, what each is made of, and the
//! rows streamed through.
//!
//! The caller chooses how each tensor is stored and provides the rows of weights by their Hugging Face names
//! ([`Weights`]; [`OfCheckpoint`] is a checkpoint's own). Memory holds one chunk of rows, or one head of
//! `kv_b_proj`, at a time.

use std::ops::Range;
use std::path::Path;

use fathom_checkpoint::gguf::{GgufWriter, Value, gguf_name};
use fathom_checkpoint::names::{Attention, Layer};
use fathom_checkpoint::{Checkpoint, Dtype, TensorPlan};
use fathom_numeric::blocks::BlockFormat;

use crate::manifest::{self, Part, TensorSpec};
use crate::{Config, Error, Result};

/// One tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor {
    /// Name, type and shape in the file.
    pub plan: TensorPlan,
    /// What it is made of.
    pub source: Source,
}

/// What a GGUF tensor is made of, by Hugging Face names.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// This weight, as it is.
    Weight(String),
    /// These weights, one after the other.
    Stack(Vec<String>),
    /// Of `kv_b_proj`, per head the transposed rows of the key: `[heads, kv_lora_rank, qk_nope]`.
    Keys(String),
    /// Of `kv_b_proj`, per head the rows of the value: `[heads, v, kv_lora_rank]`.
    Values(String),
}

/// What may be chosen of a GGUF file.
pub struct Layout<'a> {
    /// Write the MTP layers too.
    pub mtp: bool,
    /// The type of a matrix, by its Hugging Face name (of a stack: of its first expert; of the halves of
    /// `kv_b_proj`: [`Layer::k_b_proj`], [`Layer::v_b_proj`]) and columns. Vectors and gates are always F32.
    pub dtype: &'a dyn Fn(&str, usize) -> Dtype,
}

/// The tensors of `config` in the order of the data flow, in the MLA-split layout.
///
/// # Errors
/// [`Error::NotInGguf`] if llama.cpp would run it as another model.
pub fn gguf_tensors(config: &Config, layout: &Layout<'_>) -> Result<Vec<GgufTensor>> {
    // For its refusals: some tensors that it speaks of have no name in GGUF.
    crate::config::gguf::metadata(config, layout.mtp)?;
    let mut tensors: Vec<GgufTensor> = Vec::new();
    for spec in manifest::tensors(config) {
        // Copies of other tensors cost space and say nothing.
        if spec.part == Part::Mtp && (spec.optional || !layout.mtp)
            || spec.optional && config.tie_word_embeddings
        {
            continue;
        }
        if spec.name.ends_with("self_attn.kv_b_proj.weight") {
            tensors.extend(split_kv_b(config, layout, spec.name));
            continue;
        }
        let Some((name, expert)) = gguf_name(&spec.name) else {
            return Err(Error::NotInGguf {
                field: "a tensor",
                got: spec.name,
                expected: "those it has names for",
            });
        };
        match (expert, tensors.iter_mut().rfind(|tensor| tensor.plan.name == name)) {
            (Some(_), Some(GgufTensor { plan, source: Source::Stack(weights) })) => {
                plan.shape[0] += 1;
                weights.push(spec.name);
            }
            (Some(_), _) => {
                let dtype = dtype_of(layout, &spec);
                let shape = [&[1], &spec.shape[..]].concat();
                tensors.push(GgufTensor {
                    plan: TensorPlan::new(name, dtype, shape),
                    source: Source::Stack(vec![spec.name]),
                });
            }
            (None, _) => tensors.push(GgufTensor {
                plan: TensorPlan::new(name, dtype_of(layout, &spec), spec.shape.clone()),
                source: Source::Weight(spec.name),
            }),
        }
    }
    Ok(tensors)
}

fn dtype_of(layout: &Layout<'_>, spec: &TensorSpec) -> Dtype {
    match spec.shape[..] {
        [_, columns] if !spec.name.ends_with("mlp.gate.weight") => (layout.dtype)(&spec.name, columns),
        _ => Dtype::F32,
    }
}

fn split_kv_b(config: &Config, layout: &Layout<'_>, name: String) -> [GgufTensor; 2] {
    let layer =
        name.trim_start_matches("model.layers.").split('.').next().and_then(|layer| layer.parse().ok());
    let layer = Layer(layer.expect("manifest.rs made the name of a layer's number"));
    debug_assert_eq!(layer.attention(Attention::KvBProj), name);
    let (heads, latent, nope) = (config.num_attention_heads, config.kv_lora_rank, config.qk_nope_head_dim);
    [
        (layer.k_b_proj(), [heads, latent, nope], Source::Keys(name.clone())),
        (layer.v_b_proj(), [heads, config.v_head_dim, latent], Source::Values(name)),
    ]
    .map(|(own, shape, source)| {
        let dtype = (layout.dtype)(&own, shape[2]);
        let (name, _) = gguf_name(&own).expect("both halves have names");
        GgufTensor { plan: TensorPlan::new(name, dtype, shape), source }
    })
}

/// Where rows come from, and how they become blocks.
pub trait Weights {
    /// Rows `rows` of the weight `name`, as numbers `[rows.len(), columns]`; a vector is one row.
    ///
    /// # Errors
    /// Whatever reading them can.
    fn rows(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// Writes rows `rows` of `name`, a weight or a half of `kv_b_proj`, to `out` if they are stored in blocks of
    /// `format` already; says whether they are. By default none are.
    ///
    /// # Errors
    /// Whatever reading them can.
    fn blocks(
        &mut self,
        name: &str,
        format: BlockFormat,
        columns: usize,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool> {
        let _ = (name, format, columns, rows, out);
        Ok(false)
    }

    /// Encodes rows `[rows, columns]` of a tensor in blocks. `name` is of the weight, or one of its halves.
    fn encode(&mut self, name: &str, format: BlockFormat, columns: usize, rows: &[f32], out: &mut [u8]) {
        let _ = name;
        let row_bytes = format.row_bytes(columns);
        for (row, out) in rows.chunks_exact(columns).zip(out.chunks_exact_mut(row_bytes)) {
            format.encode(row, None, out);
        }
    }
}

/// The weights of an open checkpoint, directory or GGUF.
#[derive(Debug)]
pub struct OfCheckpoint<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
}

impl<'a> OfCheckpoint<'a> {
    /// Of `checkpoint`, whose configuration is `config`.
    pub fn new(checkpoint: &'a Checkpoint, config: &'a Config) -> Self {
        Self { checkpoint, config }
    }

    /// `kv_b_proj` from its halves, which is all that an MLA-split GGUF file has of it.
    fn joined_kv_b(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let config = self.config;
        let (heads, latent) = (config.num_attention_heads, config.kv_lora_rank);
        let (nope, value) = (config.qk_nope_head_dim, config.v_head_dim);
        let half = |own: &str| name.replace("kv_b_proj", own);
        let keys = self.checkpoint.matrix(&half("k_b_proj"), [heads * latent, nope])?;
        let values = self.checkpoint.matrix(&half("v_b_proj"), [heads * value, latent])?;
        let mut head = vec![0.0; latent * nope];
        let mut held = None;
        for (row, out) in rows.zip(out.chunks_exact_mut(latent)) {
            let (at, within) = (row / (nope + value), row % (nope + value));
            if within >= nope {
                let row = at * value + within - nope;
                values.rows_f32(row..row + 1, out)?;
                continue;
            }
            if held != Some(at) {
                keys.rows_f32(at * latent..(at + 1) * latent, &mut head)?;
                held = Some(at);
            }
            out.iter_mut().zip(head.chunks_exact(nope)).for_each(|(out, row)| *out = row[within]);
        }
        Ok(())
    }
}

impl Weights for OfCheckpoint<'_> {
    fn rows(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        if !self.checkpoint.contains(name) && name.ends_with("self_attn.kv_b_proj.weight") {
            return self.joined_kv_b(name, rows, out);
        }
        let view = self.checkpoint.tensor(name)?;
        if let [len] = *view.shape {
            out.copy_from_slice(&self.checkpoint.vector(name, len)?);
            return Ok(());
        }
        // Bytes of blocks in safetensors have another width than the matrix; the caller knows that one.
        let columns = out.len() / rows.len().max(1);
        let matrix = self.checkpoint.matrix(name, [view.shape[0], columns])?;
        Ok(matrix.rows_f32(rows, out)?)
    }
}

/// Numbers that are held at a time.
const CHUNK: usize = 1 << 20;

/// Writes `tensors` and `metadata` to `path`. `progress` is told the bytes written so far and in all.
///
/// # Errors
/// What the weights say, no space, or I/O; nothing is left at `path` then that was not there before.
pub fn write_gguf(
    path: &Path,
    config: &Config,
    metadata: &[(String, Value)],
    tensors: &[GgufTensor],
    weights: &mut dyn Weights,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let plan: Vec<TensorPlan> = tensors.iter().map(|tensor| tensor.plan.clone()).collect();
    let total = plan.iter().filter_map(TensorPlan::byte_len).sum();
    let writer = GgufWriter::create(path, metadata, plan)?;
    let mut export =
        Export { config, writer, weights, numbers: Vec::new(), blocks: Vec::new(), done: 0, total };
    for tensor in tensors {
        export.tensor(tensor, progress)?;
    }
    Ok(export.writer.finish()?)
}

struct Export<'a> {
    config: &'a Config,
    writer: GgufWriter,
    weights: &'a mut dyn Weights,
    /// Rows on their way.
    numbers: Vec<f32>,
    /// The same as blocks.
    blocks: Vec<u8>,
    done: u64,
    total: u64,
}

impl Export<'_> {
    fn tensor(&mut self, tensor: &GgufTensor, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        self.writer.begin(&tensor.plan.name)?;
        let (dtype, shape) = (tensor.plan.dtype, &tensor.plan.shape);
        let columns = shape.last().copied().unwrap_or(1);
        let rows = shape.get(shape.len().wrapping_sub(2)).copied().unwrap_or(1);
        match &tensor.source {
            Source::Weight(name) => self.weight(name, dtype, [rows, columns])?,
            Source::Stack(names) => {
                for name in names {
                    self.weight(name, dtype, [rows, columns])?;
                }
            }
            Source::Keys(kv_b) => self.keys(kv_b, dtype)?,
            Source::Values(kv_b) => self.values(kv_b, dtype)?,
        }
        self.done += tensor.plan.byte_len().unwrap_or(0);
        progress(self.done, self.total);
        Ok(())
    }

    fn weight(&mut self, name: &str, dtype: Dtype, [rows, columns]: [usize; 2]) -> Result<()> {
        let step = (CHUNK / columns).max(1);
        for start in (0..rows).step_by(step) {
            let range = start..(start + step).min(rows);
            if self.copied(name, dtype, range.clone(), columns)? {
                continue;
            }
            self.numbers.resize(range.len() * columns, 0.0);
            self.weights.rows(name, range, &mut self.numbers)?;
            self.put(name, dtype, columns)?;
        }
        Ok(())
    }

    fn keys(&mut self, kv_b: &str, dtype: Dtype) -> Result<()> {
        let (nope, value) = (self.config.qk_nope_head_dim, self.config.v_head_dim);
        let (latent, own) = (self.config.kv_lora_rank, kv_b.replace("kv_b_proj", "k_b_proj"));
        if self.copied(&own, dtype, 0..self.config.num_attention_heads * latent, nope)? {
            return Ok(());
        }
        let mut stored = vec![0.0; nope * latent];
        for head in 0..self.config.num_attention_heads {
            let first = head * (nope + value);
            self.weights.rows(kv_b, first..first + nope, &mut stored)?;
            self.numbers.clear();
            for column in 0..latent {
                self.numbers.extend(stored.chunks_exact(latent).map(|row| row[column]));
            }
            self.put(&own, dtype, nope)?;
        }
        Ok(())
    }

    fn values(&mut self, kv_b: &str, dtype: Dtype) -> Result<()> {
        let (nope, value) = (self.config.qk_nope_head_dim, self.config.v_head_dim);
        let (latent, own) = (self.config.kv_lora_rank, kv_b.replace("kv_b_proj", "v_b_proj"));
        if self.copied(&own, dtype, 0..self.config.num_attention_heads * value, latent)? {
            return Ok(());
        }
        for head in 0..self.config.num_attention_heads {
            let first = head * (nope + value) + nope;
            self.numbers.resize(value * latent, 0.0);
            self.weights.rows(kv_b, first..first + value, &mut self.numbers)?;
            self.put(&own, dtype, latent)?;
        }
        Ok(())
    }

    /// Writes the rows in `numbers`.
    fn put(&mut self, name: &str, dtype: Dtype, columns: usize) -> Result<()> {
        let Dtype::Block(format) = dtype else { return Ok(self.writer.write_f32(&self.numbers)?) };
        self.blocks.resize(self.numbers.len() / columns * format.row_bytes(columns), 0);
        self.weights.encode(name, format, columns, &self.numbers, &mut self.blocks);
        Ok(self.writer.write(&self.blocks)?)
    }

    /// Writes rows that are stored as they are to be written, and says whether they are.
    fn copied(&mut self, name: &str, dtype: Dtype, rows: Range<usize>, columns: usize) -> Result<bool> {
        let Dtype::Block(format) = dtype else { return Ok(false) };
        self.blocks.resize(rows.len() * format.row_bytes(columns), 0);
        let stored = self.weights.blocks(name, format, columns, rows, &mut self.blocks)?;
        if stored {
            self.writer.write(&self.blocks)?;
        }
        Ok(stored)
    }
}

/// `general.file_type` of llama.cpp for a file most of whose bytes are of `dtype`; it only informs.
pub fn file_type(tensors: &[GgufTensor]) -> u32 {
    let codes = [
        (Dtype::F16, 1),
        (Dtype::Block(BlockFormat::Q4_0), 2),
        (Dtype::Block(BlockFormat::Q4_1), 3),
        (Dtype::Block(BlockFormat::Q8_0), 7),
        (Dtype::Block(BlockFormat::Q5_0), 8),
        (Dtype::Block(BlockFormat::Q5_1), 9),
        (Dtype::Block(BlockFormat::Q4K), 15),
        (Dtype::Block(BlockFormat::Q5K), 17),
        (Dtype::Block(BlockFormat::Q6K), 18),
        (Dtype::Block(BlockFormat::Iq4Nl), 25),
        (Dtype::Block(BlockFormat::Iq4Xs), 30),
        (Dtype::BF16, 32),
    ];
    let bytes_of = |dtype: Dtype| -> u64 {
        let same = tensors.iter().filter(|tensor| tensor.plan.dtype == dtype);
        same.filter_map(|tensor| tensor.plan.byte_len()).sum()
    };
    let (most, code) = codes.iter().map(|&(dtype, code)| (bytes_of(dtype), code)).max().unwrap_or((0, 0));
    if most > bytes_of(Dtype::F32) { code } else { 0 }
}
