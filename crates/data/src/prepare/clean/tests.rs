//! Text that is written in one way, and text that is left out.

use std::borrow::Cow;

use proptest::prelude::*;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::normalize::is_composed;
use super::words::{Sort, sort_of};
use super::*;
use crate::prepare::config::{ControlCharacters, Filter, Newlines, Normalize, UnicodeForm};

fn normal(text: &str, how: &Normalize) -> String {
    normalize(Cow::Borrowed(text), how).into_owned()
}

#[test]
fn one_way_to_write_a_text() {
    let how = Normalize::default();
    for (text, expected) in [
        ("plain\ttext\n", "plain\ttext\n"),
        ("a\r\nb\rc\u{b}d\u{c}e\u{85}f\r\r\ng", "a\nb\nc\nd\ne\nf\n\ng"),
        ("e\u{301}\u{1100}\u{1161}\u{2126}", "é가Ω"),
        ("\u{feff}a\u{0}b\u{1b}[1mc\u{7f}\u{9b}d\u{ad}\u{200b}", "ab[1mcd\u{ad}\u{200b}"),
        ("«£ﾡ»ï", "«£ﾡ»ï"),
    ] {
        assert_eq!(normal(text, &how), expected, "{text:?}");
    }
    let keep = Normalize {
        unicode: UnicodeForm::Keep,
        control: ControlCharacters::Keep,
        newlines: Newlines::Keep,
        ..Normalize::default()
    };
    assert_eq!(normal("e\u{301}\u{0}\r\n", &keep), "e\u{301}\u{0}\r\n");
    let lines = Normalize { trim_lines: true, max_blank_lines: Some(1), ..Normalize::default() };
    assert_eq!(normal("a  \n\n \t\n\nb\u{3000}", &lines), "a\n\nb");
    assert!(
        matches!(normalize(Cow::Borrowed("好 é"), &how), Cow::Borrowed(_)),
        "nothing is copied for nothing"
    );
}

#[test]
fn characters_that_are_passed_over_are_composed() {
    for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|&c| is_composed(c)) {
        // In either order with a letter and a mark: it combines with nothing.
        let text = format!("{character}");
        assert_eq!(is_nfc_quick(text.chars()), IsNormalized::Yes, "{character:?}");
        assert_eq!(unicode_normalization::char::canonical_combining_class(character), 0, "{character:?}");
    }
}

proptest! {
    #[test]
    fn normal_text_is_nfc_and_stays(text in "[a-eé가-각\u{300}-\u{345}\u{1100}-\u{11ff}\r\n\u{0}-\u{9f}一丁\u{2000}\u{2126}]{0,30}") {
        let how = Normalize::default();
        let once = normal(&text, &how);
        prop_assert_eq!(&normal(&once, &how), &once);
        prop_assert_eq!(once.nfc().collect::<String>(), once.clone());
        prop_assert!(once.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
    }

    #[test]
    fn runs_of_words_are_hashes_of_their_words(words in prop::collection::vec(0_u8..4, 0..20), length in 1_usize..5) {
        let text: Vec<String> = words.iter().map(|word| format!("w{word}")).collect();
        let scanned = scan(&text.join(" -- "));
        let mut hashes = Vec::new();
        scanned.runs(length, |hash| hashes.push(hash));
        let runs: Vec<&[u8]> = words.windows(length).collect();
        prop_assert_eq!(hashes.len(), runs.len());
        for (a, first) in runs.iter().enumerate() {
            for (b, second) in runs.iter().enumerate() {
                prop_assert_eq!(hashes[a] == hashes[b], first == second);
            }
        }
    }
}

fn scan(text: &str) -> Words {
    let mut words = Words::default();
    words.scan(text);
    words
}

#[test]
fn words_of_alphabets_and_of_han() {
    assert_eq!(words_of("The CAT, the cat!").len(), 4);
    assert_eq!(words_of("The cat"), words_of("tHE\n…cAT"));
    assert_eq!(words_of("床前明月光，x2"), words_of("床 前 明 月 光 X2"));
    assert_ne!(words_of("ab c"), words_of("a bc"));
    assert_eq!(words_of("Ünïcode ÜNÏCODE").iter().collect::<std::collections::HashSet<_>>().len(), 1);
    let counted = scan("a1 22 好 # … ... .....");
    assert_eq!((counted.hashes.len(), counted.alphabetic, counted.letters), (3, 2, 2));
    assert_eq!((counted.word_chars, counted.symbols, counted.chars), (5, 4, 21));
}

#[test]
fn what_is_known_without_tables_is_what_tables_say() {
    for character in '\0'..=char::MAX {
        let letter = matches!(sort_of(character), Sort::Letter | Sort::Alone);
        let known = (letter, sort_of(character) == Sort::Digit);
        let looked_up = (character.is_alphabetic(), character.is_numeric() && !character.is_alphabetic());
        // The blocks of Han and kana also have signs, which are words of their own like the rest of their block.
        if sort_of(character) != Sort::Alone {
            assert_eq!(known, looked_up, "{character:?}");
        }
    }
}

/// A rule, how it is set, a text that keeps it, and one that does not.
type Row = (&'static str, fn(&mut Filter), &'static str, &'static str);

#[test]
fn every_rule_of_a_filter() {
    let long = "word ".repeat(60);
    let rows: &[Row] = &[
        ("min_chars", |f| f.min_chars = 3, "abc", "ab"),
        ("max_chars", |f| f.max_chars = Some(3), "abc", "abcd"),
        ("min_words", |f| f.min_words = Some(2), "a b", "ab"),
        ("max_words", |f| f.max_words = Some(2), "a b", "a b c"),
        ("min_mean_word_length", |f| f.min_mean_word_length = Some(3.0), "the cat", "a cat"),
        ("max_mean_word_length", |f| f.max_mean_word_length = Some(10.0), "word", "wordwordword"),
        ("min_mean_line_length", |f| f.min_mean_line_length = Some(3.0), "abc\n\nabc", "abc\nab"),
        ("max_line_length", |f| f.max_line_length = Some(5), "abcde\nabc", "abcdef"),
        ("max_symbol_word_ratio", |f| f.max_symbol_word_ratio = Some(0.5), "a b #", "a #"),
        ("min_letter_share", |f| f.min_letter_share = Some(0.5), "ab1!", "a1!?"),
        ("min_alphabetic_word_share", |f| f.min_alphabetic_word_share = Some(0.6), "a b 1", "a b 1 2"),
        ("max_bullet_line_share", |f| f.max_bullet_line_share = Some(0.5), "- a\nb", "- a\n• b\nc"),
        ("max_ellipsis_line_share", |f| f.max_ellipsis_line_share = Some(0.5), "a...\nb", "a…\nb...\nc"),
        ("max_duplicate_line_share", |f| f.max_duplicate_line_share = Some(0.3), "ab\nb\ncd", "ab\nab\nc"),
        (
            "max_duplicate_paragraph_share",
            |f| f.max_duplicate_paragraph_share = Some(0.25),
            "abc\n\nabd\n\nefg",
            "abc\n\nabc\n\ne",
        ),
        ("min_stop_words", |f| f.min_stop_words = Some(2), "The cat and", "the the cat"),
        ("min_punctuated_line_share", |f| f.min_punctuated_line_share = Some(0.5), "a.\nb", "a.\nb\nc"),
        ("forbidden", |f| f.forbidden = vec!["Lorem Ipsum".to_owned()], "lorem", "a LOREM IPSUM b"),
    ];
    for (rule, set, kept, left_out) in rows {
        let mut filter = Filter::default();
        assert_eq!(Judge::new(&filter).broken_rule(left_out, &scan(left_out)), None, "{rule}: by default");
        set(&mut filter);
        let judge = Judge::new(&filter);
        assert_eq!(judge.broken_rule(kept, &scan(kept)), None, "{rule}");
        assert_eq!(judge.broken_rule(left_out, &scan(left_out)), Some(*rule));
    }
    let judge = Judge::new(&Filter::default());
    assert_eq!(judge.broken_rule("", &scan("")), Some("min_chars"));
    assert_eq!(judge.broken_rule(&long, &scan(&long)), None);
}
