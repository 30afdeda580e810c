//! Answers to many prompts at a time.

use std::ops::ControlFlow;

use fathom_engine::{Sampler, SamplingParams};
use fathom_model::{ForwardOptions, LogitRows, Model, Segment, Sequence, Workspace};

use crate::{Error, Result};

/// How prompts are answered.
#[derive(Clone, Debug)]
pub struct Answering<'a> {
    /// How tokens are chosen; prompt number `i` takes `seed + i`, so that answers do not depend on `width`.
    pub params: &'a SamplingParams,
    /// Tokens that end an answer.
    pub eos_token_ids: &'a [u32],
    /// Prompts answered at a time.
    pub width: usize,
    /// Tokens of prompt and answer together.
    pub context: usize,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its tokens, without the one that ended it.
    pub ids: Vec<u32>,
    /// Whether it came to its end.
    pub finished: bool,
}

/// One that is being written.
struct Writing {
    prompt: usize,
    sequence: Sequence,
    sampler: Sampler,
    next: Vec<u32>,
}

/// Answers `prompts`, in their order. `progress` is told how many are done after every step; a `Break` ends the work and
/// leaves the answers that are not finished as they are.
///
/// # Errors
/// An empty prompt or one that fills the context, by number; what the model or the sampler refuses.
pub fn answers(
    model: &Model,
    prompts: &[Vec<u32>],
    how: &Answering<'_>,
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Answer>> {
    for (number, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() || prompt.len() >= how.context {
            return Err(Error::Prompt { number, tokens: prompt.len(), context: how.context });
        }
    }
    let width = how.width.clamp(1, prompts.len().max(1));
    let mut cache = model.new_cache(width * how.context)?;
    let mut workspace = Workspace::default();
    let mut answers = vec![Answer::default(); prompts.len()];
    let (mut writing, mut begun, mut done) = (Vec::new(), 0, 0);
    while done < prompts.len() && progress(done).is_continue() {
        while writing.len() < width && begun < prompts.len() {
            writing.push(begin(model, prompts, begun, how.params)?);
            begun += 1;
        }
        let mut segments: Vec<Segment<'_>> = writing.iter_mut().map(segment).collect();
        let logits = model.forward(&mut workspace, &mut cache, &mut segments, ForwardOptions::default())?;
        let rows = logits.chunks_exact(model.config().vocab_size);
        let mut left = Vec::with_capacity(writing.len());
        for (mut one, logits) in writing.into_iter().zip(rows) {
            let token = one.sampler.sample(logits)?.token;
            let answer = &mut answers[one.prompt];
            answer.finished = how.eos_token_ids.contains(&token);
            if !answer.finished {
                answer.ids.push(token);
            }
            let full = prompts[one.prompt].len() + answer.ids.len() >= how.context
                || how.params.max_tokens.is_some_and(|most| answer.ids.len() >= most);
            if answer.finished || full {
                cache.release(one.sequence);
                done += 1;
            } else {
                one.next = vec![token];
                left.push(one);
            }
        }
        writing = left;
    }
    Ok(answers)
}

fn begin(model: &Model, prompts: &[Vec<u32>], prompt: usize, params: &SamplingParams) -> Result<Writing> {
    let seed = params.seed.unwrap_or(0).wrapping_add(prompt as u64);
    let params = SamplingParams { seed: Some(seed), ..params.clone() };
    let sampler = Sampler::new(&params, model.config().vocab_size, &prompts[prompt])?;
    Ok(Writing { prompt, sequence: Sequence::default(), sampler, next: prompts[prompt].clone() })
}

fn segment(one: &mut Writing) -> Segment<'_> {
    Segment { sequence: &mut one.sequence, tokens: &one.next, logits: LogitRows::Last }
}
