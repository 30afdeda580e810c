//! The random tokens that are run, and running them.

use fathom_model::{ForwardOptions, LatentCache, LogitRows, Model, Observer, Segment, Sequence, Workspace};

use crate::{Plan, Result};

/// Rows of one forward pass at most: longer prompts and wider batches run in several, as a server
/// would run them, so that working memory stays bounded.
const PASS_ROWS: usize = 8192;

/// A model with the memory to run it.
pub(crate) struct Bench<'a> {
    pub(crate) model: &'a Model,
    pub(crate) plan: &'a Plan,
    pub(crate) cache: LatentCache,
    workspace: Workspace,
    tokens: RandomTokens,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(model: &'a Model, plan: &'a Plan) -> Result<Self> {
        Ok(Self {
            model,
            plan,
            cache: model.new_cache(plan.cache_tokens())?,
            workspace: Workspace::default(),
            tokens: RandomTokens { state: plan.seed, vocab: model.config().vocab_size as u64 },
        })
    }

    /// Random tokens for each of `batch` sequences.
    pub(crate) fn prompts(&mut self, batch: usize, len: usize) -> Vec<Vec<u32>> {
        (0..batch).map(|_| (0..len).map(|_| self.tokens.next()).collect()).collect()
    }

    /// Appends each prompt to its sequence, in as few passes as [`PASS_ROWS`] allows; logits of
    /// the last tokens. All prompts have the same length.
    pub(crate) fn prefill(&mut self, sequences: &mut [Sequence], prompts: &[Vec<u32>]) -> Result<()> {
        let len = prompts.first().map_or(0, Vec::len);
        let (chunk, width) = (len.clamp(1, PASS_ROWS), (PASS_ROWS / len.max(1)).max(1));
        for (sequences, prompts) in sequences.chunks_mut(width).zip(prompts.chunks(width)) {
            for first in (0..len).step_by(chunk) {
                let end = len.min(first + chunk);
                let logits = if end == len { LogitRows::Last } else { LogitRows::None };
                self.pass(sequences, prompts.iter().map(|prompt| &prompt[first..end]), logits, None)?;
            }
        }
        Ok(())
    }

    /// One decode step: token `step` of each prompt.
    pub(crate) fn step(
        &mut self,
        sequences: &mut [Sequence],
        prompts: &[Vec<u32>],
        step: usize,
        observer: Observer<'_>,
    ) -> Result<()> {
        let tokens = prompts.iter().map(|prompt| &prompt[step..=step]);
        self.pass(sequences, tokens, LogitRows::Last, Some(observer))
    }

    fn pass<'t>(
        &mut self,
        sequences: &mut [Sequence],
        tokens: impl Iterator<Item = &'t [u32]>,
        logits: LogitRows,
        observer: Option<Observer<'_>>,
    ) -> Result<()> {
        let mut segments: Vec<Segment<'_>> = sequences
            .iter_mut()
            .zip(tokens)
            .map(|(sequence, tokens)| Segment { sequence, tokens, logits })
            .collect();
        let options = ForwardOptions { observer, ..ForwardOptions::default() };
        self.model.forward(&mut self.workspace, &mut self.cache, &mut segments, options)?;
        Ok(())
    }

    /// Takes every sequence back to `len` tokens.
    pub(crate) fn truncate(&mut self, sequences: &mut [Sequence], len: usize) {
        sequences.iter_mut().for_each(|sequence| self.cache.truncate(sequence, len));
    }
}

/// SplitMix64: any seed gives a good stream, and it is the same for ever.
struct RandomTokens {
    state: u64,
    vocab: u64,
}

impl RandomTokens {
    fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % self.vocab) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_depend_on_the_seed_alone_and_stay_in_the_vocabulary() {
        let draw = |seed| {
            let mut tokens = RandomTokens { state: seed, vocab: 10 };
            (0..1000).map(|_| tokens.next()).collect::<Vec<u32>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for token in 0..10 {
            let count = draw(3).iter().filter(|&&drawn| drawn == token).count();
            assert!((60..140).contains(&count), "token {token}: {count} of 1000");
        }
    }
}
