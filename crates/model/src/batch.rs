//! What one forward pass works on: rows of tokens, cut into spans of consecutive positions.

use std::ops::Range;

use fathom_kernels::rope::{Rope, Turns};

use crate::cache::{LatentCache, Sequence};
use crate::{Config, Error, Result};

/// Which tokens of a segment get logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// All of them: scoring.
    All,
    /// The last: generation.
    Last,
    /// None: an inner chunk of a prompt.
    None,
}

/// The next tokens of one sequence.
#[derive(Debug)]
pub struct Segment<'a> {
    /// Its place in the cache; grows by `tokens`.
    pub sequence: &'a mut Sequence,
    /// Token ids, at least one.
    pub tokens: &'a [u32],
    /// Which of them get logits.
    pub logits: LogitRows,
}

/// Rows `rows` of the batch are the positions from `first` on of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) rows: Range<usize>,
    pub(crate) first: usize,
    pub(crate) block_table: &'a [u32],
}

/// Spans, and the rotation of every row.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) spans: Vec<Span<'a>>,
    pub(crate) turns: Turns,
    rows: usize,
}

impl<'a> Batch<'a> {
    /// From (first position, tokens, block table) of every sequence.
    pub(crate) fn new(rope: &Rope, parts: impl Iterator<Item = (usize, usize, &'a [u32])>) -> Self {
        let (mut spans, mut positions) = (Vec::new(), Vec::new());
        for (first, tokens, block_table) in parts {
            let rows = positions.len()..positions.len() + tokens;
            positions.extend(first..first + tokens);
            spans.push(Span { rows, first, block_table });
        }
        Batch { spans, turns: rope.turns(&positions), rows: positions.len() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
}

/// Checks the segments and gives every new token a place in the cache.
pub(crate) fn admit(config: &Config, cache: &mut LatentCache, segments: &mut [Segment<'_>]) -> Result<()> {
    for segment in segments.iter_mut() {
        let wanted = segment.sequence.len + segment.tokens.len();
        if wanted > config.max_position_embeddings {
            return Err(Error::ContextTooLong { wanted, context: config.max_position_embeddings });
        }
        check_tokens(config, segment.tokens, segment.sequence.len)?;
    }
    segments.iter_mut().try_for_each(|segment| cache.reserve(segment.sequence, segment.tokens.len()))
}

/// At least one token, from position `first` on, and all of them in the vocabulary.
pub(crate) fn check_tokens(config: &Config, tokens: &[u32], first: usize) -> Result<()> {
    if tokens.is_empty() {
        return Err(Error::NoTokens);
    }
    let vocab_size = config.vocab_size;
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        Some(index) => {
            Err(Error::TokenOutOfRange { token: tokens[index], position: first + index, vocab_size })
        }
        None => Ok(()),
    }
}

/// Rows of the batch that get logits, in order, from the rows of every segment and its wish.
pub(crate) fn logit_rows(segments: impl Iterator<Item = (usize, LogitRows)>) -> Vec<usize> {
    let mut rows = Vec::new();
    let mut first = 0;
    for (tokens, wanted) in segments {
        let end = first + tokens;
        match wanted {
            LogitRows::All => rows.extend(first..end),
            LogitRows::Last => rows.push(end - 1),
            LogitRows::None => {}
        }
        first = end;
    }
    rows
}
