//! Perplexity and bits per byte of a text.

use std::ops::ControlFlow;

use fathom_engine::logprob;
use fathom_model::{Config, ForwardOptions, LatentCache, LogitRows, Model, Segment, Sequence, Workspace};

use crate::document::{Document, Fed};
use crate::error::{Error, Result};
use crate::windows::{self, Window, windows};

/// Numbers of logits that exist at a time: 64 MB.
const LOGITS_MAX: usize = 1 << 24;
/// Rows per forward pass: enough for the matrix units, and the bound where the vocabulary is small.
const ROWS_MAX: usize = 512;

/// How the text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windowing {
    /// Tokens that the model sees at a time, bos included: 2 to its context.
    pub window: usize,
    /// Tokens by which the window moves: 1 to the window. The window itself is fastest; less gives every token more context.
    pub stride: usize,
}

impl Windowing {
    /// Tokens by which the window really moves: one token of it at least, bos or another, is never scored, so
    /// that a stride of the whole window is one less.
    pub fn stride_in_force(self) -> usize {
        windows::stride_in_force(self.window, self.stride)
    }

    /// What [`perplexity`] demands, for callers that want to know before they load the model.
    ///
    /// # Errors
    /// A window the model does not have, a stride that is 0 or beyond the window, too few tokens, a token outside the vocabulary.
    pub fn check(self, config: &Config, document: &Document) -> Result<()> {
        let (context, vocab_size) = (config.max_position_embeddings, config.vocab_size);
        if self.window < 2 || self.window > context {
            return Err(Error::Window { window: self.window, context });
        }
        if self.stride == 0 || self.stride > self.window {
            return Err(Error::Stride { stride: self.stride, window: self.window });
        }
        let (tokens, needed) = (document.tokens.len(), 1 + usize::from(document.bos.is_none()));
        if tokens < needed {
            return Err(Error::TooShort { tokens, needed });
        }
        let outside = |token: &u32| *token as usize >= vocab_size;
        match document.tokens.iter().position(outside) {
            Some(position) => Err(Error::Token { position, token: document.tokens[position], vocab_size }),
            None => Ok(()),
        }
    }
}

/// The sum over a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Tokens scored. Without bos the first has nothing before it and is not.
    pub tokens: usize,
    /// Negative log-likelihood of them all, in nats.
    pub nll: f64,
    /// Bytes of the text.
    pub bytes: usize,
    /// Whether the whole text was scored; not if the caller cancelled.
    pub complete: bool,
}

impl Score {
    /// e^(nll / tokens).
    pub fn perplexity(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }

    /// nll / ln 2 / bytes, which texts of any tokenizer have in common; `None` unless complete.
    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.complete && self.bytes > 0).then(|| self.nll / std::f64::consts::LN_2 / self.bytes as f64)
    }
}

/// Told of the score so far and of the tokens to score in all; [`ControlFlow::Break`] ends it there.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Score, usize) -> ControlFlow<()>;

/// Scores `document`.
///
/// # Errors
/// Those of [`Windowing::check`]; the model's; logits that are not finite.
pub fn perplexity(
    model: &Model,
    document: &Document,
    windowing: Windowing,
    on_progress: OnProgress<'_>,
) -> Result<Score> {
    let Windowing { window, stride } = windowing;
    windowing.check(model.config(), document)?;
    let mut scorer = Scorer {
        model,
        document,
        workspace: Workspace::default(),
        cache: model.new_cache(window.min(document.tokens.len() + 1))?,
        rows: rows_per_pass(model.config()),
        score: Score { tokens: 0, nll: 0.0, bytes: document.bytes, complete: false },
    };
    let total = document.tokens.len() - usize::from(document.bos.is_none());
    for window in windows(document.tokens.len(), document.bos.is_some(), window, stride) {
        if scorer.window(&window, total, on_progress)?.is_break() {
            return Ok(scorer.score);
        }
    }
    Ok(Score { complete: true, ..scorer.score })
}

/// Rows of one pass whose logits are all wanted.
pub(crate) fn rows_per_pass(config: &Config) -> usize {
    (LOGITS_MAX / config.vocab_size).clamp(1, ROWS_MAX)
}

struct Scorer<'a> {
    model: &'a Model,
    document: &'a Document,
    workspace: Workspace,
    cache: LatentCache,
    /// Rows per forward pass.
    rows: usize,
    score: Score,
}

impl Scorer<'_> {
    /// Runs one window in pieces through the cache and adds what it scores.
    fn window(
        &mut self,
        window: &Window,
        total: usize,
        on_progress: OnProgress<'_>,
    ) -> Result<ControlFlow<()>> {
        let Fed { inputs, targets, context_only } = self.document.fed(window);
        let mut sequence = Sequence::default();
        let mut done = 0;
        let mut flow = ControlFlow::Continue(());
        while done < inputs.len() && flow.is_continue() {
            let scored = done >= context_only;
            let end = if scored { inputs.len() } else { context_only }.min(done + self.rows);
            let logits = if scored { LogitRows::All } else { LogitRows::None };
            let segment = Segment { sequence: &mut sequence, tokens: &inputs[done..end], logits };
            let options = ForwardOptions::default();
            let logits = self.model.forward(&mut self.workspace, &mut self.cache, &mut [segment], options)?;
            for (row, &target) in logits.chunks_exact(self.model.config().vocab_size).zip(&targets[done..end])
            {
                self.score.nll -= logprob(row, target)?;
                self.score.tokens += 1;
            }
            done = end;
            flow = on_progress(&self.score, total);
        }
        self.cache.release(sequence);
        Ok(flow)
    }
}
