//! One request under way: everything of it that the scheduler does not need to know.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fathom_model::Sequence;
use fathom_text::{StreamDecoder, Tokenizer};

use super::constraint::{Allowed, Constraint};
use super::request::{Finished, Sink, Update};
use crate::assemble::{Detokenize, TextAssembler};
use crate::completion::TokenLogprobs;
use crate::error::Result;
use crate::finish::{FinishReason, FinishRule};
use crate::sampler::Sampler;

impl Detokenize for StreamDecoder<Arc<Tokenizer>> {
    fn push(&mut self, id: u32) -> String {
        StreamDecoder::push(self, id)
    }

    fn finish(&mut self) -> String {
        StreamDecoder::finish(self.clone())
    }
}

/// A request under way.
pub(super) struct Active {
    pub(super) id: u64,
    pub(super) sampler: Sampler,
    pub(super) rule: FinishRule,
    pub(super) assembler: TextAssembler<StreamDecoder<Arc<Tokenizer>>>,
    pub(super) sink: Sink,
    /// Away while its mask is computed.
    pub(super) constraint: Option<Constraint>,
    /// What may come next, if there is a constraint.
    pub(super) allowed: Option<Allowed>,
    /// The cache's view of it.
    pub(super) sequence: Sequence,
    /// The MTP module's view, while its rows are complete.
    pub(super) mtp: Option<Sequence>,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) times: Times,
    pub(super) prompt_tokens: usize,
    pub(super) cached_tokens: usize,
    pub(super) completion_tokens: usize,
}

/// When what happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) submitted: Instant,
    pub(super) started: Option<Instant>,
    pub(super) first_token: Option<Instant>,
}

/// What became of a request in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Run,
    /// It is over.
    End(FinishReason),
    /// Nobody listens any more.
    Gone,
}

impl Active {
    /// Chooses the next token from its logits `[vocab_size]` and tells it.
    pub(super) fn choose(&mut self, logits: &[f32]) -> Result<(u32, Next)> {
        if let (Some(constraint), None) = (&mut self.constraint, &self.allowed) {
            self.allowed = Some(constraint.allowed()?);
        }
        let sampled = self.sampler.sample_within(logits, self.allowed.take().as_ref())?;
        let token = sampled.token;
        self.completion_tokens += 1;
        self.times.first_token.get_or_insert_with(Instant::now);
        let mut end = self.rule.check(token, self.completion_tokens);
        let mut text = String::new();
        if end != Some(FinishReason::Stop) {
            if let Some(constraint) = &mut self.constraint {
                constraint.consume(token)?;
                if constraint.is_complete() {
                    end = Some(FinishReason::Stop);
                }
            }
            let piece = self.assembler.push(token);
            text = piece.emit;
            if piece.stop.is_some() {
                end = Some(FinishReason::Stop);
            }
        }
        let token_logprobs =
            TokenLogprobs { token_id: token, logprob: sampled.logprob, top: sampled.top_logprobs };
        let told = (self.sink)(Update::Token { token: token_logprobs, text });
        let next = match (told, end) {
            (ControlFlow::Break(()), _) => Next::Gone,
            (_, Some(reason)) => Next::End(reason),
            _ => Next::Run,
        };
        Ok((token, next))
    }

    /// The request runs from now on.
    pub(super) fn start(&mut self, cached_tokens: usize) -> Next {
        if self.times.started.is_some() {
            return Next::Run;
        }
        self.times.started = Some(Instant::now());
        self.cached_tokens = cached_tokens;
        match (self.sink)(Update::Started { cached_tokens }) {
            ControlFlow::Continue(()) => Next::Run,
            ControlFlow::Break(()) => Next::Gone,
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Tells the end.
    pub(super) fn finish(mut self, finish_reason: FinishReason, error: Option<String>) {
        let rest = match finish_reason {
            FinishReason::Stop | FinishReason::Length => self.assembler.finish().emit,
            _ => String::new(),
        };
        let stop = self.assembler.stopped();
        let finish_reason = if stop.is_some() { FinishReason::Stop } else { finish_reason };
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to - from,
            _ => Duration::ZERO,
        };
        let (times, now) = (self.times, Some(Instant::now()));
        let finished = Finished {
            text: rest,
            finish_reason,
            error,
            stop,
            seed: self.sampler.seed(),
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            queued: between(Some(times.submitted), times.started.or(now)),
            prefill: between(times.started, times.first_token.or(now)),
            decode: between(times.first_token, now),
        };
        // It is over: whether anybody wants more changes nothing.
        let _ = (self.sink)(Update::Finished(finished));
    }
}
