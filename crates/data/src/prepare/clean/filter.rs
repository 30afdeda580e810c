//! Documents that are left out for what they are.

use std::collections::HashSet;

use twox_hash::XxHash3_128;

use super::words::{Words, words_of};
use crate::prepare::config::Filter;

/// The rules of a filter, made ready.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    filter: Filter,
    stop_words: HashSet<u64>,
    /// In small letters.
    forbidden: Vec<String>,
    /// Whether a rule looks at lines.
    looks_at_lines: bool,
}

/// What the rules about lines look at.
#[derive(Default)]
struct LineCounts {
    lines: u64,
    chars: u64,
    longest: u64,
    bullets: u64,
    ellipses: u64,
    punctuated: u64,
    duplicate_chars: u64,
}

const STOP_WORDS: &str = "the be to of and that have with";

impl Judge {
    pub(crate) fn new(filter: &Filter) -> Self {
        let looks_at_lines = [
            filter.min_mean_line_length,
            filter.max_bullet_line_share,
            filter.max_ellipsis_line_share,
            filter.max_duplicate_line_share,
            filter.min_punctuated_line_share,
        ];
        Self {
            stop_words: words_of(STOP_WORDS).into_iter().collect(),
            forbidden: filter.forbidden.iter().map(|text| text.to_lowercase()).collect(),
            looks_at_lines: looks_at_lines.iter().any(Option::is_some) || filter.max_line_length.is_some(),
            filter: filter.clone(),
        }
    }

    /// The first rule that `text` breaks, by its field in the configuration.
    pub(crate) fn broken_rule(&self, text: &str, words: &Words) -> Option<&'static str> {
        self.broken_by_words(words)
            .or_else(|| self.looks_at_lines.then(|| self.broken_by_lines(text)).flatten())
            .or_else(|| self.broken_by_repetition(text, words))
            .or_else(|| self.broken_by_content(text, words))
    }

    fn broken_by_words(&self, words: &Words) -> Option<&'static str> {
        let rules = &self.filter;
        let count = words.hashes.len() as u64;
        let mean = share(words.word_chars, count);
        first_broken([
            ("min_chars", words.chars < rules.min_chars),
            ("max_chars", rules.max_chars.is_some_and(|most| words.chars > most)),
            ("min_words", rules.min_words.is_some_and(|least| count < least)),
            ("max_words", rules.max_words.is_some_and(|most| count > most)),
            ("min_mean_word_length", rules.min_mean_word_length.is_some_and(|least| mean < least)),
            ("max_mean_word_length", rules.max_mean_word_length.is_some_and(|most| mean > most)),
            (
                "max_symbol_word_ratio",
                rules.max_symbol_word_ratio.is_some_and(|most| share(words.symbols, count) > most),
            ),
            (
                "min_letter_share",
                rules.min_letter_share.is_some_and(|least| share(words.letters, words.chars) < least),
            ),
            (
                "min_alphabetic_word_share",
                rules.min_alphabetic_word_share.is_some_and(|least| share(words.alphabetic, count) < least),
            ),
        ])
    }

    fn broken_by_lines(&self, text: &str) -> Option<&'static str> {
        let rules = &self.filter;
        let counts = LineCounts::of(text);
        let of_lines = |count| share(count, counts.lines);
        first_broken([
            (
                "min_mean_line_length",
                rules.min_mean_line_length.is_some_and(|least| share(counts.chars, counts.lines) < least),
            ),
            ("max_line_length", rules.max_line_length.is_some_and(|most| counts.longest > most)),
            (
                "max_bullet_line_share",
                rules.max_bullet_line_share.is_some_and(|most| of_lines(counts.bullets) > most),
            ),
            (
                "max_ellipsis_line_share",
                rules.max_ellipsis_line_share.is_some_and(|most| of_lines(counts.ellipses) > most),
            ),
            (
                "min_punctuated_line_share",
                rules.min_punctuated_line_share.is_some_and(|least| of_lines(counts.punctuated) < least),
            ),
            (
                "max_duplicate_line_share",
                rules
                    .max_duplicate_line_share
                    .is_some_and(|most| share(counts.duplicate_chars, counts.chars) > most),
            ),
        ])
    }

    fn broken_by_repetition(&self, text: &str, words: &Words) -> Option<&'static str> {
        let most = self.filter.max_duplicate_paragraph_share?;
        let mut seen = HashSet::new();
        let repeated = text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty());
        let repeated = repeated.filter(|paragraph| !seen.insert(XxHash3_128::oneshot(paragraph.as_bytes())));
        let chars: u64 = repeated.map(|paragraph| paragraph.chars().count() as u64).sum();
        (share(chars, words.chars) > most).then_some("max_duplicate_paragraph_share")
    }

    fn broken_by_content(&self, text: &str, words: &Words) -> Option<&'static str> {
        if let Some(least) = self.filter.min_stop_words {
            let found: HashSet<u64> =
                words.hashes.iter().copied().filter(|hash| self.stop_words.contains(hash)).collect();
            if (found.len() as u64) < least {
                return Some("min_stop_words");
            }
        }
        if self.forbidden.is_empty() {
            return None;
        }
        let small = text.to_lowercase();
        self.forbidden.iter().any(|forbidden| small.contains(forbidden)).then_some("forbidden")
    }
}

impl LineCounts {
    fn of(text: &str) -> Self {
        let (mut counts, mut seen) = (Self::default(), HashSet::new());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let chars = line.chars().count() as u64;
            counts.lines += 1;
            counts.chars += chars;
            counts.longest = counts.longest.max(chars);
            counts.bullets += u64::from(line.starts_with(['•', '-', '*', '‣', '●', '○', '▪', '·']));
            counts.ellipses += u64::from(line.ends_with('…') || line.ends_with("..."));
            let closed = line.trim_end_matches(['"', '\'', '”', '’', '」', '』', ')', '）']);
            counts.punctuated +=
                u64::from(closed.ends_with(['.', '!', '?', '。', '！', '？', '…', ':', '：', ';', '；']));
            if !seen.insert(XxHash3_128::oneshot(line.as_bytes())) {
                counts.duplicate_chars += chars;
            }
        }
        counts
    }
}

fn first_broken<const N: usize>(rules: [(&'static str, bool); N]) -> Option<&'static str> {
    rules.into_iter().find(|(_, broken)| *broken).map(|(rule, _)| rule)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
