//! Ids to text, one at a time.
//!
//! A token of byte-level BPE is a string of bytes, not of characters: one character may be spread over
//! tokens. The decoder therefore keeps the bytes that do not yet end a character (at most three) and
//! returns the rest, so a push costs what its own token costs, however long the text is.
//!
//! A byte sequence that can no longer become a character turns into U+FFFD as soon as that is certain; an
//! unfinished one at the end does so in [`StreamDecoder::finish`]. The cuts are those of
//! `String::from_utf8_lossy`, which is what [`Tokenizer::decode`] uses: the pieces, concatenated, are equal
//! to its text.

use std::ops::Deref;

use crate::byte_level::extend_with_token;
use crate::tokenizer::Tokenizer;

/// Decodes a stream of ids. `T` is `&Tokenizer` or `Arc<Tokenizer>`.
#[derive(Clone, Debug)]
pub struct StreamDecoder<T> {
    tokenizer: T,
    skip_special_tokens: bool,
    /// The beginning of a character, valid so far.
    pending: Vec<u8>,
}

impl<T: Deref<Target = Tokenizer>> StreamDecoder<T> {
    /// Starts a text; with `skip_special_tokens`, tokens marked special leave no trace.
    pub fn new(tokenizer: T, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, pending: Vec::new() }
    }

    /// Takes the next id and returns the text that is now certain, perhaps none. Ids outside the
    /// vocabulary (models pad their embedding) are no text.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special_tokens && self.tokenizer.is_special(id) {
            return String::new();
        }
        if let Some(token) = self.tokenizer.vocabulary_entry(id) {
            extend_with_token(&mut self.pending, &token);
        }
        self.take_certain()
    }

    /// The ids are over: returns what the unfinished character, if any, is replaced by.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    fn take_certain(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, tail) = rest.split_at(error.valid_up_to());
            text.push_str(std::str::from_utf8(valid).expect("valid_up_to marks the end of valid UTF-8"));
            match error.error_len() {
                Some(len) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &tail[len..];
                }
                None => {
                    rest = tail;
                    break;
                }
            }
        }
        let certain = self.pending.len() - rest.len();
        self.pending.drain(..certain);
        text
    }
}
