//! The alphabet of byte-level BPE: 256 printable characters that stand for the 256 bytes.
//!
//! GPT-2's table (`bytes_to_unicode`): a byte that is a printable Latin-1 character stands for itself;
//! the 68 others are given U+0100, U+0101, … in order. Vocabularies are written in this alphabet, so a
//! space is `Ġ` and a token may be half a character.

/// The bytes that cannot stand for themselves, in order.
const SHIFTED: [u8; 68] = {
    let mut shifted = [0; 68];
    let (mut byte, mut n) = (0u8, 0);
    while n < shifted.len() {
        if !prints_as_itself(byte as u32) {
            shifted[n] = byte;
            n += 1;
        }
        byte = byte.wrapping_add(1);
    }
    shifted
};

/// The byte for which `symbol` stands, `None` if it is not of the alphabet.
pub(crate) fn byte_of(symbol: char) -> Option<u8> {
    match symbol as u32 {
        code if prints_as_itself(code) => Some(code as u8),
        code => SHIFTED.get(code.checked_sub(0x100)? as usize).copied(),
    }
}

/// The symbol that stands for `byte`.
pub(crate) fn symbol_of(byte: u8) -> char {
    match SHIFTED.iter().position(|&shifted| shifted == byte) {
        Some(place) => char::from_u32(0x100 + place as u32).expect("letters of Latin Extended"),
        None => byte as char,
    }
}

const fn prints_as_itself(code: u32) -> bool {
    matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// Appends the bytes of a vocabulary entry. An entry with any character outside the alphabet is literal
/// text (an added token such as `<｜User｜>`), as in the `tokenizers` crate's `ByteLevel` decoder.
pub(crate) fn extend_with_token(bytes: &mut Vec<u8>, token: &str) {
    let start = bytes.len();
    for symbol in token.chars() {
        match byte_of(symbol) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection_onto_bytes() {
        let mut bytes: Vec<u8> = ('\0'..'\u{400}').filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), 256);
        assert!((0..=255).all(|byte| byte_of(symbol_of(byte)) == Some(byte)));
        for (symbol, byte) in [('Ġ', b' '), ('Ċ', b'\n'), ('ĉ', b'\t'), ('a', b'a'), ('Ń', 0xad)] {
            assert_eq!(byte_of(symbol), Some(byte), "{symbol}");
        }
    }

    #[test]
    fn tokens_outside_the_alphabet_are_literal() {
        for (token, want) in [("Ġhi", " hi"), ("<｜User｜>", "<｜User｜>"), ("Ġ｜", "Ġ｜")] {
            let mut bytes = vec![];
            extend_with_token(&mut bytes, token);
            assert_eq!(bytes, want.as_bytes(), "{token}");
        }
    }
}
