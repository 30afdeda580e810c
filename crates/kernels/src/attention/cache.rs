//! Rows of the latent cache, in blocks that a sequence need not own side by side.

use std::ops::Range;

use super::format::{self, Block, CacheFormat, Layout};
use crate::gemm::Rows;
use crate::memory::AlignedBuffer;
use crate::rmsnorm::normalize;
use crate::shared::SharedSlice;
use crate::{Compute, Isa};

/// Tokens of one cache block.
pub const BLOCK_TOKENS: usize = 64;

/// One layer's cache: blocks of 64 rows of `kv_lora_rank + qk_rope_head_dim` numbers.
#[derive(Debug)]
pub struct LatentRows {
    layout: Layout,
    /// `[blocks, layout.block_bytes]`
    bytes: AlignedBuffer<u8>,
}

/// RMSNorm of the latent on its way into the cache.
#[derive(Clone, Copy, Debug)]
pub struct LatentNorm<'a> {
    /// `kv_a_layernorm`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

impl LatentRows {
    /// Room for `blocks` blocks of rows of `latent + rope` numbers; memory is taken from the
    /// operating system when a block is first written. `None` if it promises no such amount.
    pub fn new(format: CacheFormat, blocks: usize, [latent, rope]: [usize; 2]) -> Option<Self> {
        let numbers = latent.checked_add(rope)?.checked_mul(BLOCK_TOKENS * size_of::<f32>())?;
        numbers.checked_mul(blocks)?;
        let layout = Layout::new(format, latent, rope);
        let bytes = AlignedBuffer::try_zeroed(blocks.checked_mul(layout.block_bytes)?)?.spread();
        Some(Self { layout, bytes })
    }

    /// How the rows are stored.
    pub fn format(&self) -> CacheFormat {
        self.layout.format
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.layout.block_bytes
    }

    /// The bytes of a block.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&self, block: u32) -> &[u8] {
        &self.bytes.as_slice()[block as usize * self.layout.block_bytes..][..self.layout.block_bytes]
    }

    /// Replaces a block by bytes that [`LatentRows::block`] gave.
    ///
    /// # Panics
    /// If there is no such block or the length is another.
    pub fn fill_block(&mut self, block: u32, bytes: &[u8]) {
        let block_bytes = self.layout.block_bytes;
        self.bytes.as_mut_slice()[block as usize * block_bytes..][..block_bytes].copy_from_slice(bytes);
    }

    /// Stores rows `[latent, rope]` as tokens `first ..` of the sequence whose blocks are
    /// `block_table`, each latent normalised on the way.
    ///
    /// # Panics
    /// If a position has no block, two of the positions' blocks are the same, or a length does not
    /// fit.
    pub fn store(
        &mut self,
        compute: &Compute,
        block_table: &[u32],
        first: usize,
        rows: Rows<'_>,
        norm: LatentNorm<'_>,
    ) {
        let (layout, end) = (self.layout, first + rows.rows());
        assert!(rows.cols == layout.width() && norm.weight.len() == layout.latent);
        let touched = &block_table[first / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS)];
        let distinct = |(i, block): (usize, &u32)| !touched[..i].contains(block);
        assert!(touched.iter().enumerate().all(distinct), "a sequence owns each of its blocks once");
        let bytes = SharedSlice::new(self.bytes.as_mut_slice());
        compute.pool.run(touched.len(), |unit, scratch| {
            // SAFETY: the blocks are distinct, and each is one unit.
            let block =
                unsafe { bytes.range_mut(touched[unit] as usize * layout.block_bytes, layout.block_bytes) };
            let start = (first / BLOCK_TOKENS + unit) * BLOCK_TOKENS;
            let [row] = scratch.floats([layout.width()]);
            for position in start.max(first)..end.min(start + BLOCK_TOKENS) {
                let values = &rows.values[(position - first) * rows.stride..][..layout.width()];
                let (latent, rotary) = values.split_at(layout.latent);
                normalize(compute.isa, latent, norm.weight, norm.eps, &mut row[..layout.latent]);
                row[layout.latent..].copy_from_slice(rotary);
                format::encode(compute.isa, layout, block, position - start, row);
            }
        });
    }

    /// Stores `values [latent + rope]` as they are as token `position` of the sequence whose
    /// blocks are `block_table`.
    ///
    /// # Panics
    /// If the position has no block or `values` is not one row.
    pub fn write(&mut self, block_table: &[u32], position: usize, values: &[f32]) {
        assert_eq!(values.len(), self.layout.width());
        let first = block_table[position / BLOCK_TOKENS] as usize * self.layout.block_bytes;
        let block = &mut self.bytes.as_mut_slice()[first..first + self.layout.block_bytes];
        format::encode(Isa::Scalar, self.layout, block, position % BLOCK_TOKENS, values);
    }

    /// The rows of one sequence.
    pub fn sequence<'a>(&'a self, block_table: &'a [u32]) -> CachedRows<'a> {
        CachedRows { layer: self, block_table }
    }
}

/// One sequence's rows of one layer's cache.
#[derive(Clone, Copy, Debug)]
pub struct CachedRows<'a> {
    layer: &'a LatentRows,
    block_table: &'a [u32],
}

impl<'a> CachedRows<'a> {
    /// Numbers per row.
    pub fn width(&self) -> usize {
        self.layer.layout.width()
    }

    /// Tokens that have a block.
    pub fn capacity(&self) -> usize {
        self.block_table.len() * BLOCK_TOKENS
    }

    pub(super) fn layout(&self) -> Layout {
        self.layer.layout
    }

    /// Whether both are the same sequence of the same layer.
    pub(super) fn same(&self, other: &Self) -> bool {
        std::ptr::eq(self.layer, other.layer) && std::ptr::eq(self.block_table, other.block_table)
    }

    /// Block `index` of the sequence.
    pub(super) fn block(&self, index: usize) -> Block<'a> {
        let layout = self.layer.layout;
        let first = self.block_table[index] as usize * layout.block_bytes;
        Block::new(layout, &self.layer.bytes.as_slice()[first..first + layout.block_bytes])
    }

    /// Copies columns `cols` of tokens `tokens` to `out [tokens, cols]`, as f32, on all threads.
    ///
    /// # Panics
    /// If a token has no block or `out` is too small.
    pub fn read(&self, compute: &Compute, tokens: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        let width = cols.len();
        assert!(cols.end <= self.width() && out.len() >= tokens.len() * width);
        let out = SharedSlice::new(out);
        compute.pool.run(tokens.len().div_ceil(BLOCK_TOKENS), |unit, _| {
            let first = tokens.start + unit * BLOCK_TOKENS;
            let mut token = first;
            let end = tokens.end.min(first + BLOCK_TOKENS);
            while token < end {
                let within = token % BLOCK_TOKENS;
                let count = (BLOCK_TOKENS - within).min(end - token);
                // SAFETY: every token belongs to one unit.
                let out = unsafe { out.range_mut((token - tokens.start) * width, count * width) };
                let block = self.block(token / BLOCK_TOKENS);
                format::decode(compute.isa, block, within..within + count, cols.clone(), out, width);
                token += count;
            }
        });
    }
}
