//! A text as the model will see it.

use fathom_text::{Result, Tokenizer};

use crate::windows::Window;

/// Tokens of a text, and how many bytes it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The token that begins every window, if the tokenizer begins sequences with one. It is never scored.
    pub bos: Option<u32>,
    /// The text's tokens, without bos.
    pub tokens: Vec<u32>,
    /// The text's length in UTF-8 bytes.
    pub bytes: usize,
}

impl Document {
    /// Encodes `text`. Control tokens written out in it count as such.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Self> {
        let begins = tokenizer.encode("", true)?.first().copied();
        let bos = begins.filter(|&first| Some(first) == tokenizer.bos_token_id());
        Ok(Self { bos, tokens: tokenizer.encode(text, false)?, bytes: text.len() })
    }
}

/// One window as the model sees it: input `i` predicts target `i`.
pub(crate) struct Fed<'a> {
    /// The tokens of the window one place to the left, behind bos.
    pub(crate) inputs: Vec<u32>,
    pub(crate) targets: &'a [u32],
    /// How many of the first are not scored.
    pub(crate) context_only: usize,
}

impl Document {
    pub(crate) fn fed(&self, window: &Window) -> Fed<'_> {
        let before = &self.tokens[window.tokens.start..window.tokens.end - 1];
        let inputs: Vec<u32> = self.bos.into_iter().chain(before.iter().copied()).collect();
        let targets = &self.tokens[window.tokens.end - inputs.len()..window.tokens.end];
        let context_only = inputs.len() - (window.tokens.end - window.scored_from);
        Fed { inputs, targets, context_only }
    }
}
