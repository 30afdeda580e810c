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
