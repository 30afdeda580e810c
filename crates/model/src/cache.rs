//! The latent cache: blocks of tokens, lent to sequences.
//!
//! Per token and layer one row of `kv_lora_rank + qk_rope_head_dim` numbers: the normed latent
//! `c^KV` and the rotated shared key `k^R` (V2 §2.1.4), and nothing else, in one of four formats
//! ([`CacheFormat`]). A sequence owns blocks of 64 tokens in any order; a block is the same for all
//! layers.

use fathom_kernels::attention::{BLOCK_TOKENS, CacheFormat, LatentRows};

use crate::{Config, Error, Result};

/// Room for the latents of some thousands of tokens, of every layer.
#[derive(Debug)]
pub struct LatentCache {
    /// Main layers, then MTP layers.
    pub(crate) layers: Vec<LatentRows>,
    free: Vec<u32>,
}

/// One sequence's place in the cache.
#[derive(Debug, Default)]
pub struct Sequence {
    pub(crate) block_table: Vec<u32>,
    pub(crate) len: usize,
}

impl Sequence {
    /// A sequence whose first `len` tokens lie in `blocks` already, of a cache whose blocks the caller lends
    /// ([`Model::new_block_cache`](crate::Model::new_block_cache)).
    pub fn over(blocks: Vec<u32>, len: usize) -> Self {
        assert!(len <= blocks.len() * BLOCK_TOKENS, "every token lies in a block");
        Self { block_table: blocks, len }
    }

    /// The blocks in order; the last may be partly empty.
    pub fn blocks(&self) -> &[u32] {
        &self.block_table
    }

    /// Lends it one more block.
    pub fn push_block(&mut self, block: u32) {
        self.block_table.push(block);
    }

    /// Forgets the tokens from `len` on and keeps the blocks.
    pub fn rewind(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is in the cache yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl LatentCache {
    /// Room for `tokens` tokens in blocks of 64; the memory is taken when it is first written.
    ///
    /// # Errors
    /// [`Error::CacheTooLarge`] if the operating system does not promise the memory.
    pub fn new(config: &Config, format: CacheFormat, tokens: usize) -> Result<Self> {
        let bytes = (tokens as u64).saturating_mul(Self::bytes_per_token(config, format) as u64);
        let too_large = || Error::CacheTooLarge { tokens, bytes };
        let blocks = u32::try_from(tokens.div_ceil(BLOCK_TOKENS)).map_err(|_| too_large())?;
        let row = [config.kv_lora_rank, config.qk_rope_head_dim];
        let layer = || LatentRows::new(format, blocks as usize, row).ok_or_else(too_large);
        let layers = (0..config.layers_with_mtp()).map(|_| layer()).collect::<Result<_>>()?;
        Ok(Self { layers, free: (0..blocks).rev().collect() })
    }

    /// Every block in the hands of the caller: from now on it knows which are in use.
    pub(crate) fn lent_by_the_caller(mut self) -> Self {
        self.free = Vec::new();
        self
    }

    /// Bytes of one block over all layers, MTP layers included.
    pub fn block_bytes(&self) -> usize {
        self.layers.iter().map(LatentRows::block_bytes).sum()
    }

    /// Appends the bytes of a block, layer after layer, to `out`.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn copy_block(&self, block: u32, out: &mut Vec<u8>) {
        self.layers.iter().for_each(|layer| out.extend_from_slice(layer.block(block)));
    }

    /// Fills a block with bytes that [`LatentCache::copy_block`] gave, of a cache of the same format and
    /// model.
    ///
    /// # Panics
    /// If there is no such block or `bytes` are not [`LatentCache::block_bytes`] many.
    pub fn fill_block(&mut self, block: u32, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.block_bytes());
        let mut rest = bytes;
        for layer in &mut self.layers {
            let (own, after) = rest.split_at(layer.block_bytes());
            layer.fill_block(block, own);
            rest = after;
        }
    }

    /// Makes block `to` hold what `from` holds.
    ///
    /// # Panics
    /// If there are no such blocks.
    pub fn duplicate_block(&mut self, from: u32, to: u32) {
        for layer in &mut self.layers {
            let bytes = layer.block(from).to_vec();
            layer.fill_block(to, &bytes);
        }
    }

    /// How latents are stored.
    pub fn format(&self) -> Option<CacheFormat> {
        self.layers.first().map(LatentRows::format)
    }

    /// Bytes per token over all main layers, scales included.
    pub fn bytes_per_token(config: &Config, format: CacheFormat) -> usize {
        config.num_hidden_layers * format.row_bytes(config.kv_lora_rank, config.qk_rope_head_dim)
    }

    /// Tokens that could still be given a block.
    pub fn free_tokens(&self) -> usize {
        self.free.len() * BLOCK_TOKENS
    }

    /// Makes sure that `sequence` has blocks for `more` tokens beyond those it holds.
    ///
    /// # Errors
    /// [`Error::CacheFull`]; the sequence is unchanged then.
    pub fn reserve(&mut self, sequence: &mut Sequence, more: usize) -> Result<()> {
        let blocks = (sequence.len + more).div_ceil(BLOCK_TOKENS).saturating_sub(sequence.block_table.len());
        if blocks > self.free.len() {
            let slack = sequence.block_table.len() * BLOCK_TOKENS - sequence.len;
            return Err(Error::CacheFull { wanted: more, available: slack + self.free_tokens() });
        }
        sequence.block_table.extend(self.free.drain(self.free.len() - blocks..));
        Ok(())
    }

    /// Forgets the tokens from `len` on and takes back the blocks that held only them.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        sequence.len = sequence.len.min(len);
        let kept = sequence.len.div_ceil(BLOCK_TOKENS);
        self.free.extend(sequence.block_table.drain(kept..));
    }

    /// Takes all of a sequence's blocks back.
    pub fn release(&mut self, mut sequence: Sequence) {
        self.truncate(&mut sequence, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_lent_and_taken_back() {
        let config = crate::presets::find("v2-lite").expect("shipped");
        let mut cache =
            LatentCache::new(&config, CacheFormat::Bf16, 4 * BLOCK_TOKENS).expect("a small cache");
        let huge = LatentCache::new(&config, CacheFormat::Bf16, usize::MAX / 2);
        assert!(matches!(huge, Err(Error::CacheTooLarge { .. })));
        let (mut a, mut b) = (Sequence::default(), Sequence::default());
        cache.reserve(&mut a, 65).expect("room");
        a.len = 65;
        cache.reserve(&mut b, 128).expect("room");
        b.len = 128;
        assert!(a.block_table.iter().all(|block| !b.block_table.contains(block)));
        cache.reserve(&mut a, 63).expect("the second block has room");
        match cache.reserve(&mut a, 64) {
            Err(Error::CacheFull { wanted: 64, available: 63 }) => {}
            other => panic!("{other:?}"),
        }
        cache.truncate(&mut b, 64);
        cache.reserve(&mut a, 64).expect("b gave a block back");
        cache.release(a);
        cache.release(b);
        assert_eq!(cache.free_tokens(), 4 * BLOCK_TOKENS);
    }
}
