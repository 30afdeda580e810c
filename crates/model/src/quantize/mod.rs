//! A checkpoint becomes another whose matrices are in blocks: a directory of safetensors in our own scheme
//! (`docs/formats/quantized-safetensors.md`), or a GGUF file.
//!
//! A [`Plan`] says which matrix gets which format; norms, biases and the gates of MoE layers stay as they are.
//! Tensors stream through one after the other, some thousand rows at a time, encoded on all threads, and the
//! source's pages are given back behind them: memory grows neither with the model nor with a layer. A matrix
//! that is stored as it shall be is copied, not rounded again.

mod directory;
mod gguf;
mod scheme;

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use fathom_checkpoint::{Checkpoint, Plan};
use fathom_kernels::Compute;
use fathom_kernels::encode;
use fathom_numeric::blocks::BlockFormat;

use crate::export::{OfCheckpoint, Weights as _};
use crate::manifest::{self, Part, TensorSpec};
use crate::{Config, Importance, Result};
pub use directory::DirectoryOptions;
pub use scheme::{MIXES, mix};

/// Told of bytes of the result so far and in all; `Break` stops the writing, and nothing stays.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// What is quantized, and how.
#[derive(Clone, Copy, Debug)]
pub struct Quantizer<'a> {
    /// The source's.
    pub config: &'a Config,
    /// The source, as [`Config::open_checkpoint`] opens it.
    pub checkpoint: &'a Checkpoint,
    /// Threads and ISA; the bytes depend on neither.
    pub compute: &'a Compute,
    /// Which matrix gets which format; what no rule matches stays as it is stored.
    pub plan: &'a Plan,
    /// Which columns matter; all alike if `None`.
    pub importance: Option<&'a Importance>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Weights first.
    pub files: Vec<PathBuf>,
    /// Weights and bytes of every part of the model that has any, in the order of [`Part`].
    pub parts: Vec<PartSize>,
    /// Matrices whose rows no block divides, which are stored as F16 (GGUF only).
    pub unfitting: usize,
}

/// Size of a part of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartSize {
    /// Which.
    pub part: Part,
    /// Numbers in it.
    pub weights: u64,
    /// Bytes they take.
    pub bytes: u64,
}

impl PartSize {
    /// Bits that a weight takes.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights as f64
    }
}

impl Report {
    /// Weights and bytes of the whole model.
    pub fn total(&self) -> (u64, u64) {
        self.parts.iter().fold((0, 0), |(weights, bytes), part| (weights + part.weights, bytes + part.bytes))
    }

    /// Bits per weight of the whole model, scales counted.
    pub fn bits_per_weight(&self) -> f64 {
        let (weights, bytes) = self.total();
        bytes as f64 * 8.0 / weights as f64
    }
}

/// Numbers that are held at a time.
const CHUNK: usize = 1 << 20;

impl Quantizer<'_> {
    /// Whether the source has its MTP layers: many copies have lost them.
    fn has_mtp(&self) -> bool {
        let first = fathom_checkpoint::names::Layer(self.config.num_hidden_layers);
        self.config.num_nextn_predict_layers > 0 && self.checkpoint.contains(&first.eh_proj())
    }

    /// What the result has: the source's tensors without copies of others, `kv_b_proj` joined.
    fn tensors(&self) -> Result<Vec<TensorSpec>> {
        let mtp = self.has_mtp();
        manifest::check(self.config, self.checkpoint, mtp)?;
        let wanted = |spec: &TensorSpec| match (spec.part, spec.optional) {
            (Part::Mtp, optional) => mtp && !optional,
            (_, true) => self.checkpoint.contains(&spec.name),
            (_, false) => true,
        };
        Ok(manifest::tensors(self.config).into_iter().filter(wanted).collect())
    }

    fn importance_of(&self, name: &str, cols: usize) -> Option<&[f32]> {
        self.importance.and_then(|importance| importance.of(name, cols))
    }

    /// Rows `rows` of the stored matrix `name` `[_, cols]` as they stand there, if that is in blocks of `format`.
    fn copy_blocks(
        &self,
        name: &str,
        format: BlockFormat,
        cols: usize,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool> {
        let Some(view) = self.checkpoint.find(name) else { return Ok(false) };
        let matrix = self.checkpoint.matrix(name, [view.shape.iter().rev().skip(1).product(), cols])?;
        let is_fp8 = format == BlockFormat::Fp8 && matrix.has_fp8_rows();
        if matrix.block_format() != Some(format) && !is_fp8 {
            return Ok(false);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(format.row_bytes(cols))) {
            if is_fp8 {
                matrix.fp8_row(row, out)?;
            } else {
                out.copy_from_slice(matrix.row_blocks(row)?);
            }
        }
        Ok(true)
    }

    /// Encodes rows `rows` of the weight `name`, decoded and encoded in one go on every thread.
    fn encode_rows(
        &self,
        spec: &TensorSpec,
        format: BlockFormat,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<()> {
        let &[all, cols] = &spec.shape[..] else { unreachable!("only matrices are encoded") };
        let importance = self.importance_of(&spec.name, cols);
        if self.checkpoint.contains(&spec.name) {
            let matrix = self.checkpoint.matrix(&spec.name, [all, cols])?;
            return encode::rows(self.compute, format, cols, importance, out, |row, values| {
                let row = rows.start + row;
                Ok(matrix.rows_f32(row..row + 1, values)?)
            });
        }
        let mut values = vec![0.0; rows.len() * cols];
        OfCheckpoint::new(self.checkpoint, self.config).rows(&spec.name, rows, &mut values)?;
        self.encode_values(format, cols, importance, &values, out);
        Ok(())
    }

    fn encode_values(
        &self,
        format: BlockFormat,
        cols: usize,
        importance: Option<&[f32]>,
        values: &[f32],
        out: &mut [u8],
    ) {
        let fetch = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(&values[row * cols..][..cols]);
            Ok::<(), std::convert::Infallible>(())
        };
        match encode::rows(self.compute, format, cols, importance, out, fetch) {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    /// Gives back the pages that a weight was read from.
    fn release(&self, name: &str) {
        let halves = ["k_b_proj", "v_b_proj"].map(|half| name.replace("kv_b_proj", half));
        for name in [name].into_iter().chain(halves.iter().map(String::as_str)) {
            if let Some(view) = self.checkpoint.find(name) {
                view.release();
            }
        }
    }
}

/// Sizes by part of (part, weights, bytes).
fn sizes(tensors: impl Iterator<Item = (Part, u64, u64)>) -> Vec<PartSize> {
    let mut parts: Vec<PartSize> = Vec::new();
    for (part, weights, bytes) in tensors {
        match parts.iter_mut().find(|size| size.part == part) {
            Some(size) => (size.weights, size.bytes) = (size.weights + weights, size.bytes + bytes),
            None => parts.push(PartSize { part, weights, bytes }),
        }
    }
    parts.sort_by_key(|size| size.part);
    parts
}
