//! `[normalize]` and `[filter]`.

use serde::{Deserialize, Serialize};

/// How text is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Normalize {
    /// Which of the ways to write a character is taken.
    pub unicode: UnicodeForm,
    /// Characters that say nothing: C0 and C1 but tab and line ends, U+FEFF, U+FFFE and U+FFFF.
    pub control: ControlCharacters,
    /// How lines end.
    pub newlines: Newlines,
    /// Whether white space at the end of lines is left out.
    pub trim_lines: bool,
    /// More empty lines in a row become so many.
    pub max_blank_lines: Option<usize>,
}

/// Unicode normalization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnicodeForm {
    /// Composed: é is one character (Unicode Standard Annex 15).
    #[default]
    Nfc,
    /// As it is.
    Keep,
}

/// What happens to control characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlCharacters {
    /// They are left out.
    #[default]
    Remove,
    /// They stay.
    Keep,
}

/// What happens to line ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Newlines {
    /// `\r\n` and `\r` become `\n`.
    #[default]
    Unix,
    /// They stay.
    Keep,
}

/// Bounds that documents must keep. Words are runs of letters and digits, or single Han, kana and Hangul characters. The
/// names and values in the comments are those of C4 (Raffel et al., arXiv 1910.10683 §2.2) and Gopher (Rae et al., arXiv
/// 2112.11446 §A.1.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Characters at least.
    pub min_chars: u64,
    /// Characters at most.
    pub max_chars: Option<u64>,
    /// Words at least (Gopher: 50).
    pub min_words: Option<u64>,
    /// Words at most (Gopher: 100,000).
    pub max_words: Option<u64>,
    /// Characters per word at least (Gopher: 3; for alphabets).
    pub min_mean_word_length: Option<f64>,
    /// Characters per word at most (Gopher: 10).
    pub max_mean_word_length: Option<f64>,
    /// Characters per line at least, empty lines not counted.
    pub min_mean_line_length: Option<f64>,
    /// Characters in the longest line at most (code: 1,000).
    pub max_line_length: Option<u64>,
    /// `#` and `…` per word at most (Gopher: 0.1).
    pub max_symbol_word_ratio: Option<f64>,
    /// Share of characters that are letters, at least (Han, kana and Hangul are).
    pub min_letter_share: Option<f64>,
    /// Share of words with a letter, at least (Gopher: 0.8).
    pub min_alphabetic_word_share: Option<f64>,
    /// Share of lines that begin with a bullet, at most (Gopher: 0.9).
    pub max_bullet_line_share: Option<f64>,
    /// Share of lines that end with an ellipsis, at most (Gopher: 0.3).
    pub max_ellipsis_line_share: Option<f64>,
    /// Share of characters in lines that were there before, at most (Gopher: 0.2).
    pub max_duplicate_line_share: Option<f64>,
    /// Share of characters in paragraphs that were there before, at most (Gopher: 0.2).
    pub max_duplicate_paragraph_share: Option<f64>,
    /// Of "the, be, to, of, and, that, have, with", how many must occur (Gopher: 2; English).
    pub min_stop_words: Option<u64>,
    /// Share of lines that end with punctuation, at least (C4 keeps only such lines).
    pub min_punctuated_line_share: Option<f64>,
    /// Documents with any of these, in whatever case, are left out (C4: "lorem ipsum", "{").
    pub forbidden: Vec<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            min_chars: 1,
            max_chars: None,
            min_words: None,
            max_words: None,
            min_mean_word_length: None,
            max_mean_word_length: None,
            min_mean_line_length: None,
            max_line_length: None,
            max_symbol_word_ratio: None,
            min_letter_share: None,
            min_alphabetic_word_share: None,
            max_bullet_line_share: None,
            max_ellipsis_line_share: None,
            max_duplicate_line_share: None,
            max_duplicate_paragraph_share: None,
            min_stop_words: None,
            min_punctuated_line_share: None,
            forbidden: Vec::new(),
        }
    }
}
