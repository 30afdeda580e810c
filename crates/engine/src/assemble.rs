//! Token ids become text that is safe to show.

use crate::stop::{StopChecker, TextPiece};

/// A streaming detokenizer: token ids in, whole characters out.
pub trait Detokenize {
    /// Takes the next token; returns the text that is certain now, often empty in the middle of a character.
    fn push(&mut self, id: u32) -> String;

    /// There are no more tokens: returns what is left, with U+FFFD for a character that was never completed.
    fn finish(&mut self) -> String;
}

/// Joins a detokenizer and the stop strings of a request.
///
/// Feed it every token of the answer except an end token, then call [`finish`](Self::finish) once, also when
/// the answer was cut short: it releases text that was held back because it could have begun a stop string.
#[derive(Debug)]
pub struct TextAssembler<D> {
    detokenizer: D,
    stops: StopChecker,
    stopped: Option<usize>,
}

impl<D: Detokenize> TextAssembler<D> {
    /// An assembler for one answer; `stops` as in [`SamplingParams::stop`](crate::SamplingParams::stop).
    pub fn new(detokenizer: D, stops: &[String]) -> Self {
        TextAssembler { detokenizer, stops: StopChecker::new(stops), stopped: None }
    }

    /// Takes the next token of the answer. After a stop string all further tokens are ignored.
    pub fn push(&mut self, id: u32) -> TextPiece {
        if self.stopped.is_some() {
            return TextPiece::default();
        }
        let text = self.detokenizer.push(id);
        let piece = self.stops.push(&text);
        self.stopped = piece.stop;
        piece
    }

    /// Ends the answer and releases the rest of its text. This too can find a stop string: one completed by
    /// the detokenizer's rest, or one that waited for a longer, earlier one to be decided.
    pub fn finish(&mut self) -> TextPiece {
        if self.stopped.is_some() {
            return TextPiece::default();
        }
        let rest = self.detokenizer.finish();
        let mut piece = self.stops.push(&rest);
        if piece.stop.is_none() {
            let last = self.stops.finish();
            piece.emit.push_str(&last.emit);
            piece.stop = last.stop;
        }
        self.stopped = piece.stop;
        piece
    }

    /// The index of the stop string that ended the answer, if one did.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each token is one byte; characters come out when they are complete.
    #[derive(Default)]
    struct Bytes(Vec<u8>);

    impl Detokenize for Bytes {
        fn push(&mut self, id: u32) -> String {
            self.0.push(u8::try_from(id).unwrap());
            match String::from_utf8(std::mem::take(&mut self.0)) {
                Ok(text) => text,
                Err(err) => {
                    self.0 = err.into_bytes();
                    String::new()
                }
            }
        }

        fn finish(&mut self) -> String {
            String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
        }
    }

    #[track_caller]
    fn check(stops: &[&str], bytes: &[u8], expected: &str, expected_stop: Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut assembler = TextAssembler::new(Bytes::default(), &stops);
        let mut text = String::new();
        let mut found = None;
        for &byte in bytes {
            let piece = assembler.push(u32::from(byte));
            text.push_str(&piece.emit);
            found = found.or(piece.stop);
        }
        let last = assembler.finish();
        text.push_str(&last.emit);
        assert_eq!((text.as_str(), found.or(last.stop)), (expected, expected_stop));
        assert_eq!(assembler.stopped(), expected_stop);
        assert_eq!(assembler.finish().stop, None, "a stop is reported once");
    }

    #[test]
    fn rows() {
        check(&[], "héllo 好".as_bytes(), "héllo 好", None);
        check(&["lo"], "héllo 好".as_bytes(), "hél", Some(0));
        check(&["x", "好"], "héllo 好!".as_bytes(), "héllo ", Some(1));
        // What was held back is released at the end, before the rest of the detokenizer.
        check(&["lox"], b"hello", "hello", None);
        check(&["lox"], b"hello\xe5\xa5", "hello\u{fffd}", None);
        check(&["\u{fffd}"], b"hello\xe5\xa5", "hello", Some(0));
        check(&["bcd", "c"], b"abc", "ab", Some(1));
        check(&["a"], b"", "", None);
    }
}
