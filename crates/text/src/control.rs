//! Marks on the words of strangers, so that a control token written in a message stays plain text.
//!
//! A chat template joins the texts of a conversation with control tokens, and in the joined text nobody can
//! tell a template's `<｜User｜>` from one that a message contained. So every text is marked before it is
//! rendered and the marks are taken out afterwards:
//!
//! - before each control token's text stands a private-use character that names the token ([`NAMES`]). The text
//!   itself stays, because templates look for some of it (`content.split('</think>')`);
//! - a text whose end could be the beginning of a control token, or whose beginning the end of one, has an
//!   [`EDGE`] there: `<thi` and `nk>` in two messages must not become one token;
//! - a character of a stranger's that looks like a mark stands behind an [`ESCAPE`].
//!
//! A template that takes a text apart leaves marks without their token. They are dropped; a mark never
//! becomes visible and never counts for another token than the one it names.

use std::collections::HashMap;

/// The first of the characters that name a token.
const NAMES: u32 = 0xF0000;
const NAMES_COUNT: usize = 0xFFFE;
const EDGE: char = '\u{100000}';
const ESCAPE: char = '\u{100001}';

/// The texts of control tokens, ready to be found.
#[derive(Clone, Debug, Default)]
pub(crate) struct ControlTokens {
    texts: Vec<String>,
    by_text: HashMap<String, usize>,
    /// The lengths that occur, longest first.
    lengths: Vec<usize>,
    /// Which bytes a token can begin with.
    first: Vec<bool>,
    /// The texts and the texts backwards, sorted.
    forward: Vec<Vec<u8>>,
    backward: Vec<Vec<u8>>,
}

/// One occurrence of a control token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Occurrence {
    pub(crate) start: usize,
    pub(crate) end: usize,
    token: usize,
}

/// A text without its marks, and what they said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unmarked {
    pub(crate) text: String,
    /// Where a stranger wrote the text of a token, and of which.
    plain: Vec<(usize, usize)>,
    /// Where a stranger's text begins or ends.
    edges: Vec<usize>,
}

impl ControlTokens {
    pub(crate) fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut tokens = Self { first: vec![false; 256], ..Self::default() };
        for text in texts {
            let Some(&first) = text.as_bytes().first() else { continue };
            if tokens.by_text.contains_key(&text) {
                continue;
            }
            tokens.first[usize::from(first)] = true;
            tokens.lengths.push(text.len());
            tokens.forward.push(text.bytes().collect());
            tokens.backward.push(text.bytes().rev().collect());
            tokens.by_text.insert(text.clone(), tokens.texts.len());
            tokens.texts.push(text);
        }
        tokens.lengths.sort_unstable_by(|a, b| b.cmp(a));
        tokens.lengths.dedup();
        tokens.forward.sort_unstable();
        tokens.backward.sort_unstable();
        tokens
    }

    /// All occurrences, from the left, the longest first, without overlap: as a tokenizer finds them.
    pub(crate) fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Occurrence> + 'a {
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < text.len() {
                if let Some(token) = self.at(text, at) {
                    let start = at;
                    at += self.texts[token].len();
                    return Some(Occurrence { start, end: at, token });
                }
                at += 1;
            }
            None
        })
    }

    /// The longest token that begins at a byte of `text`.
    fn at(&self, text: &str, at: usize) -> Option<usize> {
        if !self.first[usize::from(text.as_bytes()[at])] {
            return None;
        }
        self.lengths.iter().find_map(|&len| self.by_text.get(text.get(at..at + len)?)).copied()
    }

    /// `text` with marks; those of its edges only if `edges`.
    pub(crate) fn mark(&self, text: &str, edges: bool) -> String {
        let mut out = String::with_capacity(text.len() + 8);
        if edges && self.begins_with_an_end(text) {
            out.push(EDGE);
        }
        let mut at = 0;
        for occurrence in self.find(text) {
            escape(&text[at..occurrence.start], &mut out);
            out.push(name(occurrence.token));
            out.push_str(&text[occurrence.start..occurrence.end]);
            at = occurrence.end;
        }
        escape(&text[at..], &mut out);
        if edges && self.ends_with_a_beginning(text) {
            out.push(EDGE);
        }
        out
    }

    /// Whether some token ends as `text` begins, and is longer.
    fn begins_with_an_end(&self, text: &str) -> bool {
        let longest = self.lengths.first().copied().unwrap_or(0);
        (1..longest.min(text.len() + 1)).any(|len| {
            let backwards: Vec<u8> = text.as_bytes()[..len].iter().rev().copied().collect();
            continues(&self.backward, &backwards)
        })
    }

    /// Whether some token begins as `text` ends, and is longer.
    fn ends_with_a_beginning(&self, text: &str) -> bool {
        let longest = self.lengths.first().copied().unwrap_or(0);
        (1..longest.min(text.len() + 1)).any(|len| {
            let end = &text.as_bytes()[text.len() - len..];
            self.first[usize::from(end[0])] && continues(&self.forward, end)
        })
    }

    /// Takes the marks out.
    pub(crate) fn unmark(&self, marked: &str) -> Unmarked {
        let mut out = Unmarked { text: String::with_capacity(marked.len()), ..Unmarked::default() };
        let mut chars = marked.chars();
        while let Some(c) = chars.next() {
            match c {
                ESCAPE => out.text.extend(chars.next()),
                EDGE => out.edges.push(out.text.len()),
                c if is_name(c) => {
                    let named = (c as u32 - NAMES) as usize;
                    // Names are used again if a vocabulary has more tokens than there are names.
                    let rest = chars.as_str();
                    let token = self.find_at_start(rest).filter(|token| token % NAMES_COUNT == named);
                    if let Some(token) = token {
                        out.plain.push((out.text.len(), token));
                        out.text.push_str(&self.texts[token]);
                        chars = rest[self.texts[token].len()..].chars();
                    }
                }
                c => out.text.push(c),
            }
        }
        out
    }

    fn find_at_start(&self, text: &str) -> Option<usize> {
        if text.is_empty() { None } else { self.at(text, 0) }
    }

    /// The control tokens that the template wrote, and those that are words of a stranger.
    pub(crate) fn sort(&self, unmarked: &Unmarked) -> (Vec<Occurrence>, Vec<Occurrence>) {
        let mut plain = unmarked.plain.iter().copied().peekable();
        let mut edges = unmarked.edges.iter().copied().peekable();
        self.find(&unmarked.text).partition(|found| {
            while plain.next_if(|&(start, _)| start < found.start).is_some() {}
            while edges.next_if(|&edge| edge <= found.start).is_some() {}
            let strangers = plain.peek().is_some_and(|&(start, _)| start < found.end);
            let torn = edges.peek().is_some_and(|&edge| edge < found.end);
            !strangers && !torn
        })
    }
}

fn name(token: usize) -> char {
    let offset = u32::try_from(token % NAMES_COUNT).unwrap_or(0);
    char::from_u32(NAMES + offset).expect("the plane has no surrogates")
}

fn is_name(c: char) -> bool {
    (NAMES..NAMES + NAMES_COUNT as u32).contains(&(c as u32))
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if c == EDGE || c == ESCAPE || is_name(c) {
            out.push(ESCAPE);
        }
        out.push(c);
    }
}

/// Whether one of the sorted texts begins with `start` and goes on.
fn continues(sorted: &[Vec<u8>], start: &[u8]) -> bool {
    let at = sorted.partition_point(|text| text.as_slice() <= start);
    sorted.get(at).is_some_and(|text| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens() -> ControlTokens {
        ControlTokens::new(["<think>", "</think>", "<｜User｜>", "<a>"].map(String::from))
    }

    /// Texts of (template's, stranger's) pieces in turn, and which tokens are found as whose.
    #[track_caller]
    fn check(pieces: &[(&str, &str)], control: &[&str], plain: &[&str]) {
        let tokens = tokens();
        let marked: String =
            pieces.iter().map(|(ours, theirs)| format!("{ours}{}", tokens.mark(theirs, true))).collect();
        let unmarked = tokens.unmark(&marked);
        let joined: String = pieces.iter().map(|(ours, theirs)| format!("{ours}{theirs}")).collect();
        assert_eq!(unmarked.text, joined);
        let (found_control, found_plain) = tokens.sort(&unmarked);
        let texts = |found: &[Occurrence]| -> Vec<String> {
            found.iter().map(|found| joined[found.start..found.end].to_owned()).collect()
        };
        assert_eq!(texts(&found_control), control, "{joined}");
        assert_eq!(texts(&found_plain), plain, "{joined}");
    }

    #[test]
    fn whose_token_is_it() {
        check(&[("<｜User｜>", "hi"), ("<think>", "")], &["<｜User｜>", "<think>"], &[]);
        check(&[("<｜User｜>", "<｜User｜>"), ("<think>", "")], &["<｜User｜>", "<think>"], &["<｜User｜>"]);
        check(&[("", "<<think>>")], &[], &["<think>"]);
        check(&[("", "<thi"), ("", "nk>")], &[], &["<think>"]);
        check(&[("", "<thi"), ("nk>", "")], &[], &["<think>"]);
        check(&[("<thi", "nk>")], &[], &["<think>"]);
        check(&[("", "<t"), ("", "hin"), ("", "k>")], &[], &["<think>"]);
        check(&[("", "a <"), ("<think>", "> b")], &["<think>"], &[]);
        check(&[("", "<a>"), ("<a>", "<a>")], &["<a>"], &["<a>", "<a>"]);
        check(&[("", "\u{f0000}<think>\u{100000}\u{100001}"), ("<a>", "\u{f0003}")], &["<a>"], &["<think>"]);
        check(&[("", "\u{100001}"), ("<a>", "")], &["<a>"], &[]);
    }

    #[test]
    fn a_mark_counts_for_its_own_token_only() {
        let tokens = tokens();
        let left = tokens.mark("why</think>b", true).split("</think>").next().unwrap().to_owned();
        let unmarked = tokens.unmark(&format!("{left}<｜User｜>"));
        assert_eq!(unmarked.text, "why<｜User｜>");
        assert_eq!(tokens.sort(&unmarked).0.len(), 1);
    }

    #[test]
    fn ordinary_text_has_no_marks() {
        let tokens = tokens();
        for text in ["", "a < b > c", "é日本", "x<y>z", "\u{e000}"] {
            assert_eq!(tokens.mark(text, true), text);
        }
    }

    proptest! {
        #[test]
        fn no_token_of_a_stranger_is_a_control_token(
            texts in prop::collection::vec(
                prop::collection::vec(
                    prop::sample::select(vec![
                        "<", "think", ">", "/", "<think>", "<a>", "｜", "User", "\u{f0000}", "\u{f0001}",
                        "\u{100000}", "\u{100001}", " ", "é",
                    ]),
                    0..6,
                ).prop_map(|parts| parts.concat()),
                0..6,
            ),
        ) {
            let tokens = tokens();
            let marked: String = texts.iter().map(|text| tokens.mark(text, true)).collect();
            let unmarked = tokens.unmark(&marked);
            prop_assert_eq!(&unmarked.text, &texts.concat());
            prop_assert_eq!(tokens.sort(&unmarked).0, vec![]);
        }
    }
}
