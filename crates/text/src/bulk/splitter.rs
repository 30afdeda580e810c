//! DeepSeek-V3's pre-tokenizer without a regex engine.
//!
//! The patterns' meaning, alternative by alternative, for the one set of patterns that `tokenizer.json` spells out;
//! characters that are isolated before them may be of any class. Whatever else a file says is for the regex engine.

use serde_json::Value;

use super::classes::{
    Classes, ISOLATED, LETTER, NEWLINE, NUMBER, RUN, SIGN, SPACE, STOP, WORD, is_one_character,
};
use crate::pre_tokenizer::PreTokenizer;

/// Cuts text into the words that byte-level BPE merges within.
#[derive(Clone, Debug)]
pub(crate) struct Splitter {
    classes: Classes,
}

impl Splitter {
    /// The splitter that does what the `pre_tokenizer` of a `tokenizer.json` says: any number of isolated characters,
    /// then DeepSeek-V3's steps. `None` if it says anything else.
    pub(crate) fn of_json(pre_tokenizer: &Value) -> Option<Self> {
        let steps = pre_tokenizer["pretokenizers"].as_array()?;
        let own = PreTokenizer::find("deepseek-v3").expect("one of the known names").to_json();
        let rest = steps.len().checked_sub(own["pretokenizers"].as_array()?.len())?;
        let mut tail = pre_tokenizer.clone();
        tail["pretokenizers"] = steps[rest..].into();
        if PreTokenizer::of_json(&tail)?.name != "deepseek-v3" {
            return None;
        }
        let mut isolated = Vec::new();
        for step in &steps[..rest] {
            let isolates =
                step["type"] == "Split" && step["behavior"] == "Isolated" && step["invert"] == false;
            let pattern = step["pattern"]["Regex"].as_str().filter(|pattern| is_one_character(pattern))?;
            isolated.push(isolates.then(|| pattern.to_owned())?);
        }
        let run = own["pretokenizers"][1]["pattern"]["Regex"].as_str()?.trim_end_matches('+');
        Some(Self { classes: Classes::new(&isolated, run)? })
    }

    /// Calls `word` with every word of `text` in order; joined they are the text.
    pub(crate) fn split<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        let mut at = 0;
        while at < text.len() {
            let (flags, bytes) = self.classes.at(text, at);
            let end = match flags {
                ISOLATED => at + bytes,
                NUMBER => self.numbers(text, at),
                RUN => self.run(text, at, RUN),
                _ => {
                    at = self.words(text, at, &mut word);
                    continue;
                }
            };
            word(&text[at..end]);
            at = end;
        }
    }

    /// `\p{N}{1,3}`.
    fn numbers(&self, text: &str, mut at: usize) -> usize {
        for _ in 0..3 {
            let (flags, bytes) = self.classes.at(text, at);
            if flags != NUMBER {
                break;
            }
            at += bytes;
        }
        at
    }

    /// The third step on the segment from `at`; returns its end. What no alternative matches is a word of its own, as
    /// long as that lasts.
    fn words<'t>(&self, text: &'t str, mut at: usize, word: &mut impl FnMut(&'t str)) -> usize {
        let mut gap = at;
        loop {
            let (flags, bytes) = self.classes.at(text, at);
            if flags & STOP != 0 {
                if gap < at {
                    word(&text[gap..at]);
                }
                return at;
            }
            let Some(end) = self.match_at(text, at, flags, bytes) else {
                at += bytes;
                continue;
            };
            if gap < at {
                word(&text[gap..at]);
            }
            word(&text[at..end]);
            (at, gap) = (end, end);
        }
    }

    /// The end of the match of the third step's pattern that begins at `at`.
    #[inline]
    fn match_at(&self, text: &str, at: usize, flags: u8, bytes: usize) -> Option<usize> {
        let (byte, next) = (text.as_bytes()[at], at + bytes);
        // [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+
        if byte.is_ascii_punctuation() {
            let end = self.ascii_letters(text, next);
            if end > next {
                return Some(end);
            }
        }
        // [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
        if flags & WORD != 0 {
            return Some(self.run(text, next, WORD));
        }
        let following = self.classes.at(text, next).0;
        if flags & (NEWLINE | LETTER | SIGN) == 0 && following & WORD != 0 {
            return Some(self.run(text, next, WORD));
        }
        //  ?[\p{P}\p{S}]+[\r\n]*
        if flags & SIGN != 0 || (byte == b' ' && following & SIGN != 0) {
            let end = self.run(text, next, SIGN);
            return Some(self.run(text, end, NEWLINE));
        }
        (flags & SPACE != 0).then(|| self.white_space(text, at))
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+` where there is white space.
    fn white_space(&self, text: &str, start: usize) -> usize {
        let (mut at, mut last, mut newline) = (start, start, None);
        loop {
            let (flags, bytes) = self.classes.at(text, at);
            if flags & SPACE == 0 {
                let at_end = flags & STOP != 0;
                return match newline {
                    Some(end) => end,
                    None if at_end || last == start => at,
                    None => last,
                };
            }
            last = at;
            at += bytes;
            if flags & NEWLINE != 0 {
                newline = Some(at);
            }
        }
    }

    fn ascii_letters(&self, text: &str, mut at: usize) -> usize {
        while text.as_bytes().get(at).is_some_and(u8::is_ascii_alphabetic)
            && self.classes.at(text, at).0 & STOP == 0
        {
            at += 1;
        }
        at
    }

    /// The end of the characters from `at` that have the flag.
    #[inline]
    fn run(&self, text: &str, mut at: usize, flag: u8) -> usize {
        loop {
            let (flags, bytes) = self.classes.at(text, at);
            // At the end `bytes` is 0, and STOP has every flag that stands alone.
            if flags & flag == 0 || bytes == 0 {
                return at;
            }
            at += bytes;
        }
    }
}
