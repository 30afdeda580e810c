//! What to measure.

use std::fmt;
use std::str::FromStr;

use fathom_kernels::attention::{BLOCK_TOKENS, CacheFormat};
use fathom_model::{Config, LatentCache};
use serde::Serialize;

use crate::{Error, Result};

/// Counts in rising order, each once: `512,2048` on a command line, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counts(Vec<usize>);

impl Counts {
    /// The counts.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<usize>> for Counts {
    fn from(mut counts: Vec<usize>) -> Self {
        counts.sort_unstable();
        counts.dedup();
        Self(counts)
    }
}

impl FromStr for Counts {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim() == "none" {
            return Ok(Self::default());
        }
        let bad = |reason| Error::BadCounts { text: text.to_owned(), reason };
        let count = |item: &str| match item.trim() {
            "" => Err(bad("an item is empty")),
            item => item.parse().map_err(|_| bad("an item is no whole number")),
        };
        Ok(text.split(',').map(count).collect::<Result<Vec<usize>>>()?.into())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("none"),
            counts => f.write_str(&counts.iter().map(usize::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

/// Prefills, decodes, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Lengths of prompts; each runs alone and in every batch size.
    pub prompt_tokens: Counts,
    /// Tokens each sequence decodes per repeat; 0 to measure no decode.
    pub decode_tokens: usize,
    /// Tokens already in the cache when decoding begins.
    pub contexts: Counts,
    /// Sequences side by side.
    pub batches: Counts,
    /// Timed repeats of every case.
    pub repeats: usize,
    /// Of the random tokens.
    pub seed: u64,
    /// Decoding is also told for a model of so many layers like the measured ones.
    pub of_layers: Option<usize>,
}

impl Plan {
    /// Every (prompt length, batch size) of prefill.
    pub fn prefills(&self) -> Vec<(usize, usize)> {
        let batches = Counts::from([vec![1], self.batches.0.clone()].concat());
        self.prompt_tokens
            .iter()
            .flat_map(|prompt| batches.iter().map(move |batch| (prompt, batch)))
            .collect()
    }

    /// The batch sizes that are decoded, each in every context.
    pub fn decode_batches(&self) -> Vec<usize> {
        if self.decode_tokens == 0 || self.contexts.is_empty() {
            return Vec::new();
        }
        self.batches.0.clone()
    }

    /// Checks the plan against the model.
    ///
    /// # Errors
    /// If a count is 0, nothing is to be measured, or a case leaves the model's context.
    pub fn check(&self, config: &Config) -> Result<()> {
        let positive = [
            ("the number of repeats (--repeats)", self.repeats == 0),
            ("the number of layers (--of-layers)", self.of_layers == Some(0)),
            ("a batch size (--batch)", self.batches.iter().any(|batch| batch == 0)),
            ("a prompt length (--prompt-tokens)", self.prompt_tokens.iter().any(|prompt| prompt == 0)),
        ];
        if let Some((what, _)) = positive.into_iter().find(|(_, zero)| *zero) {
            return Err(Error::Zero { what });
        }
        if self.prefills().is_empty() && self.decode_batches().is_empty() {
            return Err(Error::NothingToMeasure);
        }
        let context = config.max_position_embeddings;
        match self.cases().find(|(_, tokens, _)| *tokens > context) {
            Some((what, wanted, _)) => Err(Error::ContextTooLong { what, wanted, context }),
            None => Ok(()),
        }
    }

    /// Checks that every case's latents fit `available` bytes of memory.
    ///
    /// # Errors
    /// [`Error::CacheTooLarge`].
    pub fn check_memory(&self, config: &Config, format: CacheFormat, available: u64) -> Result<()> {
        let per_token = LatentCache::bytes_per_token(config, format) as u128;
        let bytes = |tokens, batch| (tokens as u128).saturating_mul(batch as u128).saturating_mul(per_token);
        let sizes = self.cases().map(|(what, tokens, batch)| (what, bytes(tokens, batch)));
        match sizes.into_iter().find(|(_, wanted)| *wanted > u128::from(available)) {
            Some((what, wanted)) => Err(Error::CacheTooLarge { what, wanted, available }),
            None => Ok(()),
        }
    }

    /// Tokens the cache must hold for the largest case, in whole blocks per sequence.
    pub(crate) fn cache_tokens(&self) -> usize {
        let blocks = |(_, tokens, batch): (String, usize, usize)| tokens.div_ceil(BLOCK_TOKENS) * batch;
        BLOCK_TOKENS * self.cases().map(blocks).max().unwrap_or(0)
    }

    /// Name, tokens per sequence at the end, sequences.
    fn cases(&self) -> impl Iterator<Item = (String, usize, usize)> {
        let prefills = self.prefills().into_iter().map(|(prompt, batch)| {
            (format!("a prompt of {prompt} tokens in a batch of {batch}"), prompt, batch)
        });
        let decodes = self.decode_batches().into_iter().flat_map(move |batch| {
            self.contexts.iter().map(move |context| {
                let new = self.decode_tokens;
                let what = format!("decoding {new} tokens after {context} in a batch of {batch}");
                (what, context.saturating_add(new), batch)
            })
        });
        prefills.chain(decodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            prompt_tokens: vec![8, 4].into(),
            decode_tokens: 2,
            contexts: vec![0, 16].into(),
            batches: vec![4, 2].into(),
            repeats: 3,
            seed: 1,
            of_layers: None,
        }
    }

    #[test]
    fn counts_are_read_sorted_and_written() {
        let read = |text: &str| text.parse::<Counts>().map_err(|error| error.to_string());
        assert_eq!(read("2048, 512,512"), Ok(vec![512, 2048].into()));
        assert_eq!(read("0").map(|counts| counts.to_string()), Ok("0".to_owned()));
        assert_eq!(read("none"), Ok(Counts::default()));
        assert_eq!(read("3,1").map(|counts| counts.to_string()), Ok("1,3".to_owned()));
        for bad in ["", "1,", ",1", "1,,2", "a", "-1", "1.5", "1e3", "99999999999999999999999"] {
            let error = read(bad).expect_err(bad);
            assert!(error.contains(&format!("{bad:?}")) && error.contains("512,2048"), "{error}");
        }
    }

    #[test]
    fn prefills_always_run_alone_too() {
        assert_eq!(plan().prefills(), [(4, 1), (4, 2), (4, 4), (8, 1), (8, 2), (8, 4)]);
        assert_eq!(plan().decode_batches(), [2, 4]);
        assert_eq!(plan().cache_tokens(), 4 * 64);
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Plan), available: Option<u64>, expected: &str) {
        let mut config = fathom_model::presets::find("v2-lite").expect("shipped");
        config.max_position_embeddings = 64;
        let mut plan = plan();
        change(&mut plan);
        let memory = || plan.check_memory(&config, CacheFormat::Bf16, available.unwrap_or(u64::MAX));
        let message = match plan.check(&config).and_then(|()| memory()) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(expected) && message.is_empty() == expected.is_empty(), "{message:?}");
    }

    #[test]
    fn plans_that_cannot_run_say_why() {
        check(|_| {}, None, "");
        check(|plan| plan.repeats = 0, None, "--repeats");
        check(|plan| plan.batches = vec![0, 1].into(), None, "--batch");
        check(|plan| plan.prompt_tokens = vec![0].into(), None, "--prompt-tokens");
        check(|plan| plan.prompt_tokens = vec![65].into(), None, "a prompt of 65 tokens");
        check(|plan| plan.contexts = vec![62].into(), None, "");
        check(|plan| plan.contexts = vec![63].into(), None, "needs 65 tokens, the model's context holds 64");
        check(|plan| plan.contexts = vec![usize::MAX].into(), None, "max_position_embeddings");
        check(|plan| plan.batches = vec![usize::MAX].into(), Some(1 << 40), "latent cache");
        check(|plan| plan.decode_tokens = 0, None, "");
        check(|plan| plan.prompt_tokens = Counts::default(), None, "");
        let nothing = |plan: &mut Plan| (plan.prompt_tokens, plan.decode_tokens) = (Counts::default(), 0);
        check(nothing, None, "nothing to measure");
    }
}
