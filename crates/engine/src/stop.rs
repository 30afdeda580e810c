//! Stop strings in a stream of text pieces.
//!
//! A stop string may be spread over many pieces, so text that could be the beginning of one is held back
//! until it is decided. The rule is that of a search in the whole text, so the cutting into pieces does not
//! matter: the match that *starts* first wins; of those the one that ends first; of those the first listed.
//!
//! ```text
//! for each character boundary s of the undecided text, in order:
//!     a stop string lies at s              -> match: the text before s is the end of the answer
//!     the text from s on begins one        -> hold it back, emit what is before s
//!     neither                              -> the character at s is safe
//! ```
//!
//! Because the earliest start wins, a match inside a possible longer one waits for the longer one to be
//! decided (`bc` in `abc…` with the stop strings `abcd` and `bc`); the end of the text decides it too.

/// What one piece of text led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextPiece {
    /// Text that is now safe to show; empty if all of it is held back.
    pub emit: String,
    /// The index of the stop string found, if one was. Nothing is emitted after it.
    pub stop: Option<usize>,
}

/// Finds stop strings in a stream.
#[derive(Debug, Clone)]
pub struct StopChecker {
    stops: Vec<String>,
    /// Text that waits for a decision: the longest suffix so far that could begin a stop string.
    held: String,
    found: bool,
}

impl StopChecker {
    /// A checker for these strings; empty ones never match.
    pub fn new(stops: &[String]) -> Self {
        StopChecker { stops: stops.to_vec(), held: String::new(), found: false }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> TextPiece {
        self.advance(piece, false)
    }

    /// The text has ended: releases what was held back, unless a stop string lies in it.
    pub fn finish(&mut self) -> TextPiece {
        self.advance("", true)
    }

    fn advance(&mut self, piece: &str, ended: bool) -> TextPiece {
        if self.found {
            return TextPiece::default();
        }
        self.held.push_str(piece);
        let mut safe = self.held.len();
        let mut stop = None;
        for (start, _) in self.held.char_indices() {
            let rest = &self.held[start..];
            stop = self.match_at_start_of(rest);
            let could_begin = || !ended && self.stops.iter().any(|stop| stop.starts_with(rest));
            if stop.is_some() || could_begin() {
                safe = start;
                break;
            }
        }
        let kept = self.held.split_off(safe);
        let emit = std::mem::replace(&mut self.held, kept);
        if stop.is_some() {
            self.found = true;
            self.held.clear();
        }
        TextPiece { emit, stop }
    }

    /// The shortest stop string that `text` starts with; the first listed of equals.
    fn match_at_start_of(&self, text: &str) -> Option<usize> {
        let matches = self.stops.iter().enumerate().filter(|(_, s)| !s.is_empty() && text.starts_with(*s));
        matches.min_by_key(|(index, s)| (s.len(), *index)).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// Feeds the pieces; `emits` is what each of them releases and, last, what `finish` does.
    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], emits: &[&str], found: Option<usize>) {
        let mut checker = StopChecker::new(&owned(stops));
        let mut out: Vec<TextPiece> = pieces.iter().map(|piece| checker.push(piece)).collect();
        out.push(checker.finish());
        assert_eq!(out.iter().map(|piece| piece.emit.as_str()).collect::<Vec<_>>(), emits);
        assert_eq!(out.iter().filter_map(|piece| piece.stop).collect::<Vec<_>>(), Vec::from_iter(found));
        assert_eq!(checker.held, "", "nothing waits after the end");
    }

    #[test]
    fn rows() {
        check(&[], &["a", "b"], &["a", "b", ""], None);
        check(&[""], &["a", "b"], &["a", "b", ""], None);
        check(&["END"], &["xEN", "D", "y"], &["x", "", "", ""], Some(0));
        check(&["END"], &["xENDy"], &["x", ""], Some(0));
        check(&["END"], &["xEN", "x"], &["x", "ENx", ""], None);
        check(&["END"], &["xEN"], &["x", "EN"], None);
        // The longest suffix that could begin one is held back, and no more.
        check(&["aab"], &["aaa", "a", "b"], &["a", "a", "", ""], Some(0));
        // The shorter of two at the same place; the first of two equal ones.
        check(&["abc", "ab"], &["xabc"], &["x", ""], Some(1));
        check(&["ab", "ab"], &["ab"], &["", ""], Some(0));
        // The earlier start wins, also when it ends later.
        check(&["bc", "abcd"], &["abc", "d"], &["", "", ""], Some(1));
        check(&["bc", "abcd"], &["abc", "x"], &["", "a", ""], Some(0));
        check(&["bc", "abcd"], &["abc"], &["", "a"], Some(0));
        // Characters of several bytes, two of which share the first byte.
        check(&["é"], &["aè", "é"], &["aè", "", ""], Some(0));
        check(&["。\n"], &["好。", "\n"], &["好", "", ""], Some(0));
        check(&["。\n"], &["好。", "吗"], &["好", "。吗", ""], None);
    }

    /// The definition: search in the whole text.
    fn search(stops: &[String], text: &str) -> (String, Option<usize>) {
        let all = stops.iter().enumerate().flat_map(|(index, stop)| {
            text.char_indices()
                .map(move |(start, _)| (start, stop, index))
                .filter(|&(start, stop, _)| text[start..].starts_with(stop.as_str()))
        });
        match all.min_by_key(|&(start, stop, index)| (start, stop.len(), index)) {
            Some((start, _, index)) => (text[..start].to_owned(), Some(index)),
            None => (text.to_owned(), None),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_chunking_equals_a_search_in_the_whole_text(
            stops in prop::collection::vec("[abé好]{1,4}", 0..4),
            pieces in prop::collection::vec("[abé好]{0,4}", 0..12),
        ) {
            let text = pieces.concat();
            let (expected, expected_stop) = search(&stops, &text);
            let mut checker = StopChecker::new(&stops);
            let (mut seen, mut emitted, mut found) = (String::new(), String::new(), None);
            for piece in &pieces {
                let out = checker.push(piece);
                seen.push_str(piece);
                emitted.push_str(&out.emit);
                found = found.or(out.stop);
                if found.is_none() {
                    // Held back is exactly the longest suffix that begins a stop string.
                    let begins = |suffix: &&str| stops.iter().any(|stop| stop.starts_with(suffix));
                    let longest = seen.char_indices().map(|(start, _)| &seen[start..]).find(begins);
                    prop_assert_eq!(checker.held.as_str(), longest.unwrap_or(""));
                    prop_assert_eq!(format!("{emitted}{}", checker.held), seen.clone());
                }
            }
            let out = checker.finish();
            emitted.push_str(&out.emit);
            found = found.or(out.stop);
            prop_assert_eq!((emitted, found), (expected, expected_stop));
            if found.is_some() {
                prop_assert_eq!(checker.push("more"), TextPiece::default());
            }
        }
    }
}
