//! Rows of the latent cache, in blocks that a sequence need not own side by side.

use std::ops::Range;

use fathom_numeric::round;

use crate::math::per_isa;
use crate::memory::AlignedBuffer;
use crate::shared::SharedSlice;
use crate::{Compute, Isa};

/// Tokens of one cache block.
pub const BLOCK_TOKENS: usize = 64;

/// How cached numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// 4 bytes per number.
    F32,
    /// 2 bytes per number.
    Bf16,
}

impl CacheFormat {
    /// Bytes of one cached number.
    pub const fn bytes(self) -> usize {
        match self {
            CacheFormat::F32 => 4,
            CacheFormat::Bf16 => 2,
        }
    }
}

/// One layer's cache: `[blocks, 64 tokens, width]`, `width = kv_lora_rank + qk_rope_head_dim`.
#[derive(Debug)]
pub struct LatentRows {
    width: usize,
    rows: Stored,
}

#[derive(Debug)]
enum Stored {
    F32(AlignedBuffer<f32>),
    Bf16(AlignedBuffer<u16>),
}

impl LatentRows {
    /// Room for `blocks` blocks of rows of `width` numbers; memory is taken from the operating
    /// system when a block is first written. `None` if it promises no such amount.
    pub fn new(format: CacheFormat, blocks: usize, width: usize) -> Option<Self> {
        let len = blocks.checked_mul(BLOCK_TOKENS)?.checked_mul(width)?;
        let rows = match format {
            CacheFormat::F32 => Stored::F32(AlignedBuffer::try_zeroed(len)?),
            CacheFormat::Bf16 => Stored::Bf16(AlignedBuffer::try_zeroed(len)?),
        };
        Some(Self { width, rows })
    }

    /// Stores `values [width]` as token `position` of the sequence whose blocks are `block_table`.
    ///
    /// # Panics
    /// If the position has no block or `values` is not one row.
    pub fn write(&mut self, block_table: &[u32], position: usize, values: &[f32]) {
        assert_eq!(values.len(), self.width);
        let first = row_start(block_table, position, self.width);
        match &mut self.rows {
            Stored::F32(rows) => rows.as_mut_slice()[first..first + values.len()].copy_from_slice(values),
            Stored::Bf16(rows) => {
                let rows = &mut rows.as_mut_slice()[first..first + values.len()];
                rows.iter_mut().zip(values).for_each(|(row, &value)| *row = round::to_bf16_bits(value));
            }
        }
    }

    /// The rows of one sequence.
    pub fn sequence<'a>(&'a self, block_table: &'a [u32]) -> CachedRows<'a> {
        CachedRows { layer: self, block_table }
    }
}

fn row_start(block_table: &[u32], position: usize, width: usize) -> usize {
    (block_table[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS) * width
}

/// One sequence's rows of one layer's cache.
#[derive(Clone, Copy, Debug)]
pub struct CachedRows<'a> {
    layer: &'a LatentRows,
    block_table: &'a [u32],
}

impl CachedRows<'_> {
    /// Numbers per row.
    pub fn width(&self) -> usize {
        self.layer.width
    }

    /// Tokens that have a block.
    pub fn capacity(&self) -> usize {
        self.block_table.len() * BLOCK_TOKENS
    }

    /// Copies columns `cols` of tokens `tokens` to `out [tokens, cols]`, as f32, on all threads.
    ///
    /// # Panics
    /// If a token has no block or `out` is too small.
    pub fn read(&self, compute: &Compute, tokens: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        let width = cols.len();
        assert!(out.len() >= tokens.len() * width);
        let out = SharedSlice::new(out);
        compute.pool.run(tokens.len().div_ceil(BLOCK_TOKENS), |unit, _| {
            let first = tokens.start + unit * BLOCK_TOKENS;
            let part = first..tokens.end.min(first + BLOCK_TOKENS);
            // SAFETY: every token belongs to one unit.
            let out = unsafe { out.range_mut((first - tokens.start) * width, part.len() * width) };
            self.read_here(compute.isa, part, cols.clone(), out);
        });
    }

    /// The same on the calling thread.
    pub(super) fn read_here(&self, isa: Isa, tokens: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        let out = out.chunks_exact_mut(cols.len()).take(tokens.len());
        assert_eq!(out.len(), tokens.len());
        for (token, out) in tokens.zip(out) {
            let first = row_start(self.block_table, token, self.layer.width);
            let row = first + cols.start..first + cols.end;
            match &self.layer.rows {
                Stored::F32(rows) => out.copy_from_slice(&rows.as_slice()[row]),
                Stored::Bf16(rows) => {
                    widen(isa, &rows.as_slice()[row], out);
                }
            }
        }
    }
}

per_isa! {
    fn widen(row: &[u16], out: &mut [f32]) {
        out.iter_mut().zip(row).for_each(|(out, &bits)| *out = round::from_bf16_bits(bits));
    }
}
