//! One way to write a text.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::prepare::config::{ControlCharacters, Newlines, Normalize, UnicodeForm};

/// `text` as the configuration wants it; the same text where it is so already.
pub(crate) fn normalize<'a>(text: Cow<'a, str>, how: &Normalize) -> Cow<'a, str> {
    let text = characters(text, how);
    let text = match how.unicode {
        UnicodeForm::Nfc => compose(text),
        UnicodeForm::Keep => text,
    };
    if how.trim_lines || how.max_blank_lines.is_some() { Cow::Owned(lines(&text, how)) } else { text }
}

/// Line ends and control characters.
fn characters<'a>(text: Cow<'a, str>, how: &Normalize) -> Cow<'a, str> {
    let (unix, remove) = (how.newlines == Newlines::Unix, how.control == ControlCharacters::Remove);
    let changes = |character: char| unix && is_line_end(character) || remove && is_removed(character);
    // No such character is above ASCII but after these first bytes.
    let suspicious =
        |byte: u8| (byte < b' ' && byte != b'\n' && byte != b'\t') || matches!(byte, 0x7f | 0xc2 | 0xef);
    if !text.bytes().any(suspicious) || !text.chars().any(changes) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        if unix && is_line_end(character) {
            if character == '\r' {
                rest.next_if_eq(&'\n');
            }
            out.push('\n');
        } else if !(remove && is_removed(character)) {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// What ends a line beside `\n`: carriage return, vertical tab, form feed, next line.
fn is_line_end(character: char) -> bool {
    matches!(character, '\r' | '\u{b}' | '\u{c}' | '\u{85}')
}

fn is_removed(character: char) -> bool {
    let layout = matches!(character, '\n' | '\t' | '\r' | '\u{b}' | '\u{c}' | '\u{85}');
    character.is_control() && !layout || matches!(character, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Canonical composition.
fn compose(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.is_ascii() || text.chars().all(is_composed) {
        return text;
    }
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text,
        _ => Cow::Owned(text.nfc().collect()),
    }
}

/// Characters that NFC surely leaves alone wherever they stand: most of what is written, without a look into the tables.
pub(super) fn is_composed(character: char) -> bool {
    matches!(u32::from(character),
        0..=0x2ff | 0x2010..=0x2027 | 0x3000..=0x3029 | 0x3041..=0x3096 | 0x309b..=0x30ff | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff | 0xac00..=0xd7a3 | 0xff00..=0xffef)
}

/// Ends of lines and empty lines.
fn lines(text: &str, how: &Normalize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = 0;
    for line in text.split_inclusive('\n') {
        let (content, end) = match line.strip_suffix('\n') {
            Some(content) => (content, "\n"),
            None => (line, ""),
        };
        blank = if content.trim().is_empty() { blank + 1 } else { 0 };
        if how.max_blank_lines.is_some_and(|most| blank > most) {
            continue;
        }
        out.push_str(if how.trim_lines { content.trim_end() } else { content });
        out.push_str(end);
    }
    out
}
