//! What every character is to DeepSeek-V3's pre-tokenizer, as a table.

use regex_syntax::hir::{Class, Hir, HirKind};

/// A letter or a mark: `[\p{L}\p{M}]`.
pub(super) const WORD: u8 = 1;
/// A letter: `\p{L}`.
pub(super) const LETTER: u8 = 1 << 1;
/// Punctuation or a symbol: `[\p{P}\p{S}]`.
pub(super) const SIGN: u8 = 1 << 2;
/// White space: `\s`.
pub(super) const SPACE: u8 = 1 << 3;
/// `[\r\n]`.
pub(super) const NEWLINE: u8 = 1 << 4;
/// A number: `\p{N}`. This flag and the next two stand alone: such a character ends what is before it.
pub(super) const NUMBER: u8 = 1 << 5;
/// Of the runs that the second step isolates.
pub(super) const RUN: u8 = 1 << 6;
/// A piece by itself.
pub(super) const ISOLATED: u8 = 1 << 7;
/// Where a segment for the third step ends.
pub(super) const STOP: u8 = NUMBER | RUN | ISOLATED;

/// Flags of every character.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    flags: Vec<u8>,
}

impl Classes {
    /// The table for the classes `isolated` (patterns that match one character) and the `run` of the second step.
    pub(super) fn new(isolated: &[String], run: &str) -> Option<Self> {
        let mut classes = Self { flags: vec![0; char::MAX as usize + 1] };
        classes.add(r"[\p{L}\p{M}]", |flags| flags | WORD)?;
        classes.add(r"\p{L}", |flags| flags | LETTER)?;
        classes.add(r"[\p{P}\p{S}]", |flags| flags | SIGN)?;
        classes.add(r"\s", |flags| flags | SPACE)?;
        classes.add(r"[\r\n]", |flags| flags | NEWLINE)?;
        classes.add(run, |_| RUN)?;
        classes.add(r"\p{N}", |_| NUMBER)?;
        for pattern in isolated {
            classes.add(pattern, |_| ISOLATED)?;
        }
        Some(classes)
    }

    fn add(&mut self, pattern: &str, change: impl Fn(u8) -> u8) -> Option<()> {
        for (first, last) in ranges(pattern)? {
            for flags in &mut self.flags[first as usize..=last as usize] {
                *flags = change(*flags);
            }
        }
        Some(())
    }

    /// The flags of the character at `at`, and its bytes; [`STOP`] and none at the end.
    #[inline]
    pub(super) fn at(&self, text: &str, at: usize) -> (u8, usize) {
        match text.as_bytes().get(at) {
            None => (STOP, 0),
            Some(&byte) if byte < 0x80 => (self.flags[byte as usize], 1),
            Some(_) => {
                let character = text[at..].chars().next().expect("`at` is before the end");
                (self.flags[character as usize], character.len_utf8())
            }
        }
    }
}

/// The characters that `pattern` matches, if every match of it is exactly one.
fn ranges(pattern: &str) -> Option<Vec<(char, char)>> {
    let parsed = regex_syntax::Parser::new().parse(pattern).ok()?;
    characters(&parsed)
}

fn characters(parsed: &Hir) -> Option<Vec<(char, char)>> {
    match parsed.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            Some(class.iter().map(|range| (range.start(), range.end())).collect())
        }
        HirKind::Literal(literal) => {
            let mut characters = std::str::from_utf8(&literal.0).ok()?.chars();
            let (first, rest) = (characters.next()?, characters.next());
            rest.is_none().then(|| vec![(first, first)])
        }
        HirKind::Capture(group) => characters(&group.sub),
        _ => None,
    }
}

/// Whether every match of `pattern` is exactly one character.
pub(super) fn is_one_character(pattern: &str) -> bool {
    ranges(pattern).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_one_character() {
        for (pattern, expected) in [
            (r"\p{N}", true),
            (r"\p{N}|[\u3400-\u9fff]|[-+*/<=>]", true),
            ("a", true),
            ("好", true),
            ("(a|好)", true),
            (r"\p{N}{1,3}", false),
            ("a+", false),
            ("ab", false),
            ("a|bc", false),
            ("^", false),
            ("(", false),
        ] {
            assert_eq!(is_one_character(pattern), expected, "{pattern}");
        }
    }
}
