//! One sequence at a time: a prompt goes in, tokens and text come out, and the cache stays for the next turn.

use std::ops::ControlFlow;
use std::time::Instant;

use fathom_model::{Config, ForwardOptions, LatentCache, LogitRows, Model, Segment, Sequence, Workspace};
use fathom_text::{StreamDecoder, Tokenizer};

use crate::assemble::{Detokenize, TextAssembler};
use crate::completion::{Completion, Event, Timings, TokenLogprobs};
use crate::error::{Error, Result};
use crate::finish::{FinishReason, FinishRule};
use crate::params::SamplingParams;
use crate::sampler::{Sampled, Sampler};
use crate::stop::TextPiece;

/// Prompt tokens per forward pass: enough rows to keep the matrix units busy, few enough that a caller can
/// interrupt and that scratch space stays small.
pub const PREFILL_CHUNK: usize = 512;

/// Tokens that the first cache has room for, if the context is not shorter.
const CAPACITY_MIN: usize = 1024;

/// Told of everything on the way; [`ControlFlow::Break`] ends the answer as [`FinishReason::Cancelled`].
pub type OnEvent<'a> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>;

/// Generates answers, one after the other, keeping the latents of the last prompt and answer: a prompt that
/// begins like them runs only the rest.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model,
    tokenizer: Option<&'m Tokenizer>,
    eos_token_ids: Vec<u32>,
    context: usize,
    workspace: Workspace,
    cache: LatentCache,
    capacity: usize,
    sequence: Sequence,
    /// The tokens whose latents are in the cache.
    cached: Vec<u32>,
}

impl<'m> Session<'m> {
    /// A session with an empty cache. Without a tokenizer there are only ids. `context` bounds prompt and
    /// answer together; `None` is all that the model knows.
    ///
    /// # Errors
    /// [`Error::Context`] if `context` is 0 or more than the model's.
    pub fn new(
        model: &'m Model,
        tokenizer: Option<&'m Tokenizer>,
        eos_token_ids: Vec<u32>,
        context: Option<usize>,
    ) -> Result<Self> {
        let context = context_limit(model.config(), context)?;
        Ok(Session {
            model,
            tokenizer,
            eos_token_ids,
            context,
            workspace: Workspace::default(),
            cache: model.new_cache(0)?,
            capacity: 0,
            sequence: Sequence::default(),
            cached: Vec::new(),
        })
    }

    /// The most tokens that prompt and answer can have together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Answers `prompt`.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::StopWithoutTokenizer`], everything that
    /// [`Sampler`] refuses, and the model's errors. The session can be used again after any of them.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        params: &SamplingParams,
        on_event: OnEvent<'_>,
    ) -> Result<Completion> {
        let mut sampler = Sampler::new(params, self.model.config().vocab_size, prompt)?;
        check_prompt(self.model.config(), Some(self.context), prompt)?;
        if self.tokenizer.is_none() && !params.stop.is_empty() {
            return Err(Error::StopWithoutTokenizer);
        }
        let rule = FinishRule::new(params, &self.eos_token_ids, self.context - prompt.len());
        self.make_room(prompt.len() + rule.tokens_max())?;
        let reused = self.reuse(prompt);

        let mut answer = Answer::new(self.tokenizer, &params.stop);
        let mut timings = Timings::default();
        let run = Run { prompt, sampler: &mut sampler, rule: &rule, timings: &mut timings };
        let reason = self.run(run, &mut answer, on_event)?;
        let finish_reason = answer.end(reason, on_event);
        Ok(Completion {
            stop: answer.stopped(),
            text: answer.assembler.map(|_| answer.text),
            tokens: answer.tokens,
            finish_reason,
            seed: sampler.seed(),
            prompt_tokens: prompt.len(),
            cached_tokens: reused,
            timings,
        })
    }

    /// Makes the cache hold `tokens`. A larger one begins empty; doubling keeps that rare.
    fn make_room(&mut self, tokens: usize) -> Result<()> {
        if tokens > self.capacity {
            let capacity = tokens.max(2 * self.capacity).max(CAPACITY_MIN).min(self.context);
            self.cache = self.model.new_cache(capacity)?;
            self.capacity = capacity;
            self.sequence = Sequence::default();
            self.cached.clear();
        }
        Ok(())
    }

    /// Keeps what the cache and `prompt` have in common, but for the last token, whose logits are needed.
    fn reuse(&mut self, prompt: &[u32]) -> usize {
        let same = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let kept = same.min(prompt.len() - 1);
        self.cache.truncate(&mut self.sequence, kept);
        self.cached.truncate(kept);
        kept
    }

    /// Runs what is not cached of the prompt in pieces, then one token after the other.
    fn run(&mut self, run: Run<'_>, answer: &mut Answer<'m>, on_event: OnEvent<'_>) -> Result<FinishReason> {
        let Run { prompt, sampler, rule, timings } = run;
        let total = prompt.len();
        let started = Instant::now();
        let mut rest = &prompt[self.cached.len()..];
        while rest.len() > PREFILL_CHUNK {
            if on_event(Event::Prefill { done: total - rest.len(), total }).is_break() {
                return Ok(FinishReason::Cancelled);
            }
            let (chunk, after) = rest.split_at(PREFILL_CHUNK);
            self.forward(chunk, LogitRows::None)?;
            rest = after;
        }
        if on_event(Event::Prefill { done: total - rest.len(), total }).is_break() {
            return Ok(FinishReason::Cancelled);
        }
        let mut logits = self.forward(rest, LogitRows::Last)?;
        timings.prefill = started.elapsed();
        if on_event(Event::Prefill { done: total, total }).is_break() {
            return Ok(FinishReason::Cancelled);
        }
        let decoding = Instant::now();
        let reason = loop {
            let sampled = sampler.sample(logits)?;
            let token = sampled.token;
            let end = rule.check(token, answer.tokens.len() + 1);
            let flow = answer.push(sampled, end == Some(FinishReason::Stop), on_event);
            if answer.stopped().is_some() {
                break FinishReason::Stop;
            }
            if let Some(reason) = end {
                break reason;
            }
            if flow.is_break() {
                break FinishReason::Cancelled;
            }
            logits = self.forward(&[token], LogitRows::Last)?;
        };
        timings.decode = decoding.elapsed();
        Ok(reason)
    }

    /// Runs the next tokens of the sequence; returns the logits asked for.
    fn forward(&mut self, tokens: &[u32], logits: LogitRows) -> Result<&[f32]> {
        let segment = Segment { sequence: &mut self.sequence, tokens, logits };
        let options = ForwardOptions::default();
        let logits = self.model.forward(&mut self.workspace, &mut self.cache, &mut [segment], options)?;
        self.cached.extend_from_slice(tokens);
        Ok(logits)
    }
}

fn context_limit(config: &Config, asked: Option<usize>) -> Result<usize> {
    let model = config.max_position_embeddings;
    match asked {
        Some(asked) if asked == 0 || asked > model => Err(Error::Context { asked, model }),
        asked => Ok(asked.unwrap_or(model)),
    }
}

/// What [`Session::generate`] demands of a prompt, for callers that want to know before they load the model:
/// at least one token, room for one more in `context` (the model's own if `None`), none outside the vocabulary.
///
/// # Errors
/// [`Error::Context`], [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::PromptToken`].
pub fn check_prompt(config: &Config, context: Option<usize>, prompt: &[u32]) -> Result<()> {
    let context = context_limit(config, context)?;
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    if prompt.len() >= context {
        let model = config.max_position_embeddings;
        return Err(Error::PromptTooLong { prompt: prompt.len(), context, model });
    }
    let vocab_size = config.vocab_size;
    match prompt.iter().position(|&id| id as usize >= vocab_size) {
        Some(position) => Err(Error::PromptToken { position, id: prompt[position], vocab_size }),
        None => Ok(()),
    }
}

/// What one answer needs besides the session.
struct Run<'a> {
    prompt: &'a [u32],
    sampler: &'a mut Sampler,
    rule: &'a FinishRule,
    timings: &'a mut Timings,
}

/// The answer so far.
struct Answer<'m> {
    assembler: Option<TextAssembler<StreamDecoder<&'m Tokenizer>>>,
    text: String,
    tokens: Vec<TokenLogprobs>,
}

impl<'m> Answer<'m> {
    fn new(tokenizer: Option<&'m Tokenizer>, stops: &[String]) -> Self {
        let assembler =
            tokenizer.map(|tokenizer| TextAssembler::new(StreamDecoder::new(tokenizer, true), stops));
        Answer { assembler, text: String::new(), tokens: Vec::new() }
    }

    /// Takes a token; an end token is reported and is no text.
    fn push(&mut self, sampled: Sampled, is_end: bool, on_event: OnEvent<'_>) -> ControlFlow<()> {
        let token =
            TokenLogprobs { token_id: sampled.token, logprob: sampled.logprob, top: sampled.top_logprobs };
        let flow = on_event(Event::Token(&token));
        let id = token.token_id;
        self.tokens.push(token);
        match &mut self.assembler {
            Some(assembler) if !is_end => {
                let piece = assembler.push(id);
                if self.show(piece, on_event).is_break() { ControlFlow::Break(()) } else { flow }
            }
            _ => flow,
        }
    }

    /// Releases the text that was held back; a stop string may lie in it.
    fn end(&mut self, reason: FinishReason, on_event: OnEvent<'_>) -> FinishReason {
        let Some(assembler) = &mut self.assembler else { return reason };
        let piece = assembler.finish();
        let stopped = piece.stop.is_some();
        // The answer is over: whether the caller wants more changes nothing.
        let _ = self.show(piece, on_event);
        if stopped { FinishReason::Stop } else { reason }
    }

    fn show(&mut self, piece: TextPiece, on_event: OnEvent<'_>) -> ControlFlow<()> {
        if piece.emit.is_empty() {
            return ControlFlow::Continue(());
        }
        self.text.push_str(&piece.emit);
        on_event(Event::Text(&piece.emit))
    }

    fn stopped(&self) -> Option<usize> {
        self.assembler.as_ref().and_then(TextAssembler::stopped)
    }
}

impl Detokenize for StreamDecoder<&Tokenizer> {
    fn push(&mut self, id: u32) -> String {
        StreamDecoder::push(self, id)
    }

    fn finish(&mut self) -> String {
        StreamDecoder::finish(self.clone())
    }
}
