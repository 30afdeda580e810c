//! A text as the model will see it.

use fathom_text::{Result, Tokenizer};

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
