//! Runs of Han characters, merged from characters instead of bytes.
//!
//! Byte-level BPE begins with three bytes for each Han character. Where no entry of the vocabulary ends or begins inside
//! such a character and goes beyond it, and every entry is made by an earlier merge than those that use it, bytes of
//! different characters never meet: the merges within characters can be made ahead, and what is left are merges of whole
//! characters in the same order.

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
}

const NONE: u32 = u32::MAX;

impl Han {
    /// `None` if the vocabulary's entries do not keep to characters, or its merges not to their order.
    pub(super) fn new(model: &Value, merges: &Merges) -> Option<Self> {
        let pairs = model["merges"].as_array()?;
        let mut made = std::collections::HashSet::new();
        for pair in pairs {
            let (left, right) = (pair[0].as_str()?, pair[1].as_str()?);
            // An entry of one symbol is a byte.
            if [left, right].iter().any(|part| part.chars().nth(1).is_some() && !made.contains(*part)) {
                return None;
            }
            let entry = format!("{left}{right}");
            if crosses_a_character(&entry.chars().map(byte_of).collect::<Option<Vec<u8>>>()?) {
                return None;
            }
            made.insert(entry);
        }
        let mut scratch = Scratch::default();
        let ids = (FIRST..END).map(|code| {
            let character = char::from_u32(code).expect("none of them is a surrogate");
            let mut ids = Vec::new();
            merges.apply_bytes(character.encode_utf8(&mut [0; 3]).as_bytes(), &mut scratch, &mut ids);
            std::array::from_fn(|at| ids.get(at).copied().unwrap_or(NONE))
        });
        Some(Self { ids: ids.collect() })
    }

    /// Appends the ids of a word of such characters only; `false` if it is none.
    pub(super) fn apply(
        &self,
        word: &[u8],
        merges: &Merges,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) -> bool {
        let characters = word.as_chunks::<3>();
        if !characters.1.is_empty() || !characters.0.iter().all(|[lead, ..]| LEADS.contains(lead)) {
            return false;
        }
        scratch.ids.clear();
        for &[a, b, c] in characters.0 {
            let code = u32::from(a & 0xf) << 12 | u32::from(b & 0x3f) << 6 | u32::from(c & 0x3f);
            match self.ids[(code - FIRST) as usize] {
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
}
