//! A text as a row of hashed words: what shingles, n-grams and filters are made of.

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The words of a text and what was counted on the way.
///
/// A word is a run of letters and digits, case folded, or a single character of a script that is written without spaces
/// (Han, kana, Hangul). Everything else only separates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// One hash for each word.
    pub(crate) hashes: Vec<u64>,
    /// Characters of the text.
    pub(crate) chars: u64,
    /// Characters in words.
    pub(crate) word_chars: u64,
    /// Letters.
    pub(crate) letters: u64,
    /// Words with a letter.
    pub(crate) alphabetic: u64,
    /// `#`, `…` and `...`.
    pub(crate) symbols: u64,
}

/// What a character is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Letter,
    Digit,
    Alone,
    Other,
}

impl Words {
    /// Reads `text`; what was there before is forgotten.
    pub(crate) fn scan(&mut self, text: &str) {
        self.hashes.clear();
        *self = Self { hashes: std::mem::take(&mut self.hashes), ..Self::default() };
        let (mut hash, mut letters, mut length) = (0_u64, 0_u64, 0_u64);
        let mut dots = 0;
        for character in text.chars() {
            self.chars += 1;
            let sort = sort_of(character);
            if matches!(sort, Sort::Letter | Sort::Digit) {
                hash = (hash ^ fold(character)).wrapping_mul(MULTIPLIER).rotate_left(23);
                letters += u64::from(sort == Sort::Letter);
                length += 1;
                continue;
            }
            if length > 0 {
                self.end_word(hash, letters, length);
                (hash, letters, length) = (0, 0, 0);
            }
            if sort == Sort::Alone {
                self.end_word(u64::from(character).wrapping_mul(MULTIPLIER), 1, 1);
            }
            dots = if character == '.' { dots + 1 } else { 0 };
            self.symbols += u64::from(dots == 3 || matches!(character, '#' | '…'));
        }
        if length > 0 {
            self.end_word(hash, letters, length);
        }
    }

    fn end_word(&mut self, hash: u64, letters: u64, length: u64) {
        self.hashes.push(scramble(hash));
        self.word_chars += length;
        self.letters += letters;
        self.alphabetic += u64::from(letters > 0);
    }

    /// Calls `take` with the hash of every `length` words in a row, in order.
    pub(crate) fn runs(&self, length: usize, mut take: impl FnMut(u64)) {
        if self.hashes.len() < length || length == 0 {
            return;
        }
        // A polynomial of the words' hashes, of which the first coefficient leaves and the next one comes.
        let leaving = (1..length).fold(1_u64, |power, _| power.wrapping_mul(MULTIPLIER));
        let (first, rest) = self.hashes.split_at(length);
        let mut sum = first.iter().fold(0_u64, |sum, &word| sum.wrapping_mul(MULTIPLIER).wrapping_add(word));
        take(scramble(sum));
        for (&old, &new) in self.hashes.iter().zip(rest) {
            sum = sum.wrapping_sub(old.wrapping_mul(leaving)).wrapping_mul(MULTIPLIER).wrapping_add(new);
            take(scramble(sum));
        }
    }
}

/// The hashes of the words of `text`.
pub(crate) fn words_of(text: &str) -> Vec<u64> {
    let mut words = Words::default();
    words.scan(text);
    words.hashes
}

pub(super) fn sort_of(character: char) -> Sort {
    match character {
        'a'..='z' | 'A'..='Z' => Sort::Letter,
        '0'..='9' => Sort::Digit,
        '\0'..='\x7f' => Sort::Other,
        // Kana, Bopomofo and Jamo, Han of the basic plane, Hangul, and Han beyond.
        '\u{3041}'..='\u{318f}'
        | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}' => Sort::Alone,
        // General and CJK punctuation and the punctuation among full-width forms, which tables would only find to be
        // neither letters nor numbers, a tenth of Chinese text.
        '\u{2010}'..='\u{2027}'
        | '\u{3000}'..='\u{3004}'
        | '\u{3008}'..='\u{3020}'
        | '\u{ff01}'..='\u{ff0f}'
        | '\u{ff1a}'..='\u{ff20}' => Sort::Other,
        _ if character.is_alphabetic() => Sort::Letter,
        _ if character.is_numeric() => Sort::Digit,
        _ => Sort::Other,
    }
}

/// The character, or the first one of its small form.
fn fold(character: char) -> u64 {
    if character.is_ascii() {
        return u64::from(character.to_ascii_lowercase());
    }
    character.to_lowercase().next().map_or(0, u64::from)
}

/// The finalizer of MurmurHash3.
fn scramble(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
