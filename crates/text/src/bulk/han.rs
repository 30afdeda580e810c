//! Runs of Han characters, merged from characters instead of bytes.
//!
//! Byte-level BPE begins with three bytes for each Han character. Where every entry of the vocabulary is made by an earlier
//! merge than those that use it (and what is no more than a character by no later one), and none ends or begins inside such a character and goes beyond it, bytes of
//! different characters never meet: the merges within characters can be made ahead, and what is left are merges of whole
//! characters in the same order. DeepSeek-V3's vocabulary has thirteen entries that do go beyond (`船` and two bytes of the
//! next character); runs with two characters side by side that may be one of them are merged from bytes.

use std::collections::HashSet;

use serde_json::Value;

use super::merges::{Merges, Scratch};
use crate::byte_level::byte_of;

/// The characters whose first byte is one of [`LEADS`].
const FIRST: u32 = 0x4000;
const END: u32 = 0xa000;
const LEADS: std::ops::RangeInclusive<u8> = 0xe4..=0xe9;

/// What each character is by itself.
#[derive(Clone, Debug)]
pub(super) struct Han {
    /// Up to three ids, the unused ones [`NONE`].
    ids: Vec<[u32; 3]>,
    /// Whether it can be on a side of a border within an entry: [`BEFORE`], [`AFTER`].
    borders: Vec<u8>,
}

const BEFORE: u8 = 1;
const AFTER: u8 = 2;
/// With more entries that cross a border than this, characters are nothing that the vocabulary keeps to.
const CROSSING_MAX: usize = 256;

const NONE: u32 = u32::MAX;

impl Han {
    /// `None` if too many of the vocabulary's entries do not keep to characters, or its merges not to their order.
    pub(super) fn new(model: &Value, merges: &Merges) -> Option<Self> {
        let pairs = model["merges"].as_array()?;
        let (mut made, mut used) = (HashSet::new(), HashSet::new());
        let mut crossing = Vec::new();
        for pair in pairs {
            let (left, right) = (pair[0].as_str()?, pair[1].as_str()?);
            // An entry of one symbol is a byte.
            if [left, right].iter().any(|part| part.chars().nth(1).is_some() && !made.contains(*part)) {
                return None;
            }
            let entry = format!("{left}{right}");
            let bytes = entry.chars().map(byte_of).collect::<Option<Vec<u8>>>()?;
            if crosses_a_character(&bytes) {
                crossing.push(bytes);
            }
            // Made in a second way when it has a use already, it could come later in its character than that use.
            if used.contains(&entry) || crossing.len() > CROSSING_MAX {
                return None;
            }
            used.extend(
                [left, right].into_iter().filter(|part| part.chars().nth(3).is_none()).map(String::from),
            );
            made.insert(entry);
        }
        let mut scratch = Scratch::default();
        let of_character = |code| {
            let mut bytes = [0; 3];
            char::from_u32(code).expect("none of them is a surrogate").encode_utf8(&mut bytes);
            let mut ids = Vec::new();
            merges.apply_bytes(&bytes, &mut scratch, &mut ids);
            let borders = crossing.iter().fold(0, |borders, entry| borders | borders_of(entry, &bytes));
            (std::array::from_fn(|at| ids.get(at).copied().unwrap_or(NONE)), borders)
        };
        let (ids, borders) = (FIRST..END).map(of_character).unzip();
        Some(Self { ids, borders })
    }

    /// Whether the word begins like a run of such characters too long to come again: to remember it would only push out
    /// others.
    #[inline]
    pub(super) fn is_long(word: &[u8]) -> bool {
        word.len() > 9 && LEADS.contains(&word[0])
    }

    /// Appends the ids of a word of such characters only; `false` if it is none, or may hold an entry that crosses a border.
    pub(super) fn apply(
        &self,
        word: &[u8],
        merges: &Merges,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) -> bool {
        let (characters, []) = word.as_chunks::<3>() else { return false };
        let mut before = 0;
        for character in characters {
            if !LEADS.contains(&character[0]) {
                return false;
            }
            let borders = self.borders[place_of(character)];
            if before & BEFORE != 0 && borders & AFTER != 0 {
                return false;
            }
            before = borders;
        }
        scratch.ids.clear();
        for character in characters {
            match self.ids[place_of(character)] {
                [id, NONE, _] => scratch.ids.push(id),
                // Its parts merge with nothing else.
                parts => {
                    merges.merge_ids(scratch, out);
                    scratch.ids.clear();
                    out.extend(parts.iter().filter(|&&id| id != NONE));
                }
            }
        }
        merges.merge_ids(scratch, out);
        true
    }
}

/// Where the tables have the character.
#[inline]
fn place_of(&[a, b, c]: &[u8; 3]) -> usize {
    let code = u32::from(a & 0xf) << 12 | u32::from(b & 0x3f) << 6 | u32::from(c & 0x3f);
    (code - FIRST) as usize
}

/// On which sides of the first border within an entry that has one the character can be.
fn borders_of(entry: &[u8], character: &[u8; 3]) -> u8 {
    let border = entry.iter().skip(1).position(|byte| LEADS.contains(byte)).map_or(entry.len(), |at| at + 1);
    let (before, after) = entry.split_at(border);
    let (before, after) = (&before[before.len().saturating_sub(3)..], &after[..after.len().min(3)]);
    let (is_before, is_after) = (character.ends_with(before), character.starts_with(after));
    (if is_before { BEFORE } else { 0 }) | (if is_after { AFTER } else { 0 })
}

/// Whether an entry is neither whole characters nor a part of one, and could be met in a run of Han characters.
fn crosses_a_character(entry: &[u8]) -> bool {
    let is_lead = |byte: &u8| !(0x80..0xc0).contains(byte);
    if entry.iter().any(|byte| is_lead(byte) && !LEADS.contains(byte)) {
        return false;
    }
    let leads = entry.iter().filter(|byte| is_lead(byte)).count();
    let part = leads == 0 || (leads == 1 && is_lead(&entry[0]));
    !part && std::str::from_utf8(entry).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_keep_to_characters() {
        for (entry, expected) in [
            ("好".as_bytes(), false),
            ("好人".as_bytes(), false),
            (b"\xe5\xa5", false),
            (b"\xa5\xbd", false),
            (b"\xe5\xa5\xbd\xe4", true),
            (b"\xbd\xe4", true),
            (b"\xbd\xe4\xba\xba", true),
            (b" \xe4", false),
            (b"\xe3\x81\x99\xe3\x81", false),
        ] {
            assert_eq!(crosses_a_character(entry), expected, "{entry:x?}");
        }
    }

    #[test]
    fn characters_beside_a_border() {
        let borders = |entry: &[u8], character: &str| {
            borders_of(entry, character.as_bytes().try_into().expect("three bytes"))
        };
        // 船 and what begins with e8 88; what ends with b1, and 乐.
        for (entry, character, expected) in [
            (&b"\xe8\x88\xb9\xe8\x88"[..], "船", BEFORE | AFTER),
            (b"\xe8\x88\xb9\xe8\x88", "舫", AFTER),
            (b"\xe8\x88\xb9\xe8\x88", "人", 0),
            (b"\xb1\xe4\xb9\x90", "欱", BEFORE),
            (b"\xb1\xe4\xb9\x90", "乐", AFTER),
            (b"\xe4\xb9\x90\xe4\xb9\x90\xe4", "乐", BEFORE | AFTER),
        ] {
            assert_eq!(borders(entry, character), expected, "{entry:x?} {character}");
        }
    }
}
