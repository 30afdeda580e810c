//! One row of logits becomes one token.

use std::hash::{BuildHasher, Hasher, RandomState};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::candidates::{Candidates, Truncation};
use crate::error::{Error, Result};
use crate::logprob::greatest;
use crate::params::SamplingParams;
use crate::penalties::Penalties;
use crate::serving::Allowed;
use crate::softmax::{self, Scale};

/// The token chosen in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability under the model's raw distribution.
    pub logprob: f32,
    /// The most likely tokens of the raw distribution with their log-probabilities, best first, equal ones by
    /// ascending id; as many as [`SamplingParams::logprobs`] asks for. Impossible tokens are left out.
    pub top_logprobs: Vec<(u32, f32)>,
}

/// Chooses the tokens of one sequence.
///
/// The order of operations, which is Hugging Face's and, but for the place of min-p, vLLM's:
///
/// 1. `logprob` and `top_logprobs` are taken from the logits as the model gave them, before everything below
///    (as vLLM does by default; the API documents do not say).
/// 2. `logit_bias` is added.
/// 3. `repetition_penalty` for tokens of the prompt or the answer: positive logits are divided by it, others
///    multiplied (CTRL, arXiv 1909.05858, with the sign rule of Hugging Face).
/// 4. `frequency_penalty` × occurrences in the answer and, for tokens in the answer, `presence_penalty` are
///    subtracted (OpenAI's formula; the prompt does not count).
/// 5. `temperature` 0: the greatest logit, the lowest id of equal ones. Otherwise the logits are divided by
///    it.
/// 6. `top_k`: exactly that many of the greatest, lower ids first among equals.
/// 7. `top_p`: of those, the fewest of the greatest that reach this share of their probability (the one that
///    crosses it is kept).
/// 8. `min_p`: of those, the ones at least this probable relative to the best.
/// 9. One draw by probability. ChaCha8 keyed by the seed gives one 64-bit number per drawn token, of which
///    the upper 53 bits are the fraction of the total probability at which the candidates, in ascending order
///    of ids, are cut.
///
/// A logit of −inf marks a token as impossible and stays so. A step allocates nothing once the scratch space
/// has grown to its size, except the list of `top_logprobs` that it returns.
#[derive(Debug, Clone)]
pub struct Sampler {
    vocab_size: usize,
    seed: u64,
    rng: ChaCha8Rng,
    penalties: Penalties,
    truncation: Truncation,
    num_top_logprobs: usize,
    /// Logits after bias and penalties.
    adjusted: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for one sequence that begins with `prompt_ids`, over `vocab_size` logits.
    ///
    /// # Errors
    /// Those of [`SamplingParams::validate`]; [`Error::PromptToken`] for an id beyond the vocabulary.
    pub fn new(params: &SamplingParams, vocab_size: usize, prompt_ids: &[u32]) -> Result<Self> {
        params.validate(vocab_size)?;
        if let Some(position) = prompt_ids.iter().position(|&id| id as usize >= vocab_size) {
            return Err(Error::PromptToken { position, id: prompt_ids[position], vocab_size });
        }
        // Without a seed: the standard library keys its hash maps from the operating system's randomness.
        let seed = params.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Ok(Sampler {
            vocab_size,
            seed,
            rng: rng_from(seed),
            penalties: Penalties::new(params, prompt_ids),
            truncation: Truncation {
                temperature: params.temperature,
                top_k: params.top_k,
                top_p: params.top_p,
                min_p: params.min_p,
            },
            num_top_logprobs: params.logprobs.unwrap_or(0),
            adjusted: Vec::new(),
            candidates: Candidates::default(),
        })
    }

    /// The seed in use, given or drawn: with it the run can be repeated.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Chooses a token from `logits`, `[vocab_size]`, and remembers it for the penalties.
    ///
    /// # Errors
    /// [`Error::LogitsLength`], [`Error::NonFiniteLogits`] for NaN or +inf, [`Error::NoPossibleToken`] if all
    /// are −inf. After an error the sampler is as before the call.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Sampled> {
        self.sample_within(logits, None)
    }

    /// As [`Sampler::sample`], but only of the tokens that are `allowed`: the others' logits count as −inf
    /// from step 5 on. Log-probabilities stay those of the model.
    ///
    /// # Errors
    /// As [`Sampler::sample`]; [`Error::NoPossibleToken`] if none is allowed.
    pub(crate) fn sample_within(&mut self, logits: &[f32], allowed: Option<&Allowed>) -> Result<Sampled> {
        if logits.len() != self.vocab_size {
            return Err(Error::LogitsLength { expected: self.vocab_size, got: logits.len() });
        }
        let max = greatest(logits)?;
        let adjusted = if self.penalties.is_identity() && allowed.is_none() {
            logits
        } else {
            self.adjusted.clear();
            self.adjusted.extend_from_slice(logits);
            self.penalties.apply(&mut self.adjusted);
            if let Some(allowed) = allowed {
                let forbidden = |token: &(usize, &mut f32)| !allowed.contains(token.0 as u32);
                let forbidden = self.adjusted.iter_mut().enumerate().filter(forbidden);
                forbidden.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            }
            &self.adjusted
        };
        let best = softmax::max(adjusted);
        if best == f32::NEG_INFINITY {
            return Err(Error::NoPossibleToken { vocab_size: self.vocab_size });
        }
        let token = if self.truncation.temperature == 0.0 {
            // `best` is one of them, so there is a position.
            adjusted.iter().position(|&logit| logit == best).unwrap_or(0) as u32
        } else {
            self.candidates.select(adjusted, best, &self.truncation);
            self.candidates.draw(fraction(&mut self.rng))
        };
        self.penalties.record(token);
        // Relative to the maximum: added to one of 1e30, the logarithm would be lost.
        let log_sum = Scale::new(max, 1.0).total(logits).ln();
        let logprob = |logit: f32| (f64::from(logit) - f64::from(max) - log_sum) as f32;
        let mut top_logprobs = top_tokens(logits, self.num_top_logprobs);
        for (_, value) in &mut top_logprobs {
            *value = logprob(*value);
        }
        Ok(Sampled { token, logprob: logprob(logits[token as usize]), top_logprobs })
    }
}

/// The seed is the key as it stands, so that the stream depends on ChaCha8 alone.
fn rng_from(seed: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// A multiple of 2^-53 in [0, 1).
fn fraction(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The `count` greatest logits with their ids, best first, equal ones by ascending id, without −inf.
fn top_tokens(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(count);
    if count == 0 {
        return top;
    }
    let mut bound = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        // An equal one comes after those already there: its id is greater.
        if logit > bound {
            if top.len() == count {
                top.pop();
            }
            top.insert(top.partition_point(|&(_, other)| other >= logit), (id as u32, logit));
            if top.len() == count {
                bound = top[count - 1].1;
            }
        }
    }
    top
}

#[cfg(test)]
impl Sampler {
    /// The distribution from which the next token would be drawn, ids ascending.
    pub(crate) fn distribution(&mut self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut adjusted = logits.to_vec();
        self.penalties.apply(&mut adjusted);
        self.candidates.select(&adjusted, softmax::max(&adjusted), &self.truncation);
        self.candidates.distribution()
    }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
