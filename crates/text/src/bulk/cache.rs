//! Words that have been met, and their ids.

/// Words of at most this many bytes are kept.
pub(super) const LONGEST: usize = 15;
const SLOTS: usize = 1 << 17;
/// Then everything is forgotten, so that memory stays what it is.
const WORDS: usize = SLOTS / 2;

/// A hash table of short words.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    /// The word and its length in one number, which is 0 nowhere else than in an empty slot; where its ids are.
    slots: Vec<(u128, u32, u32)>,
    ids: Vec<u32>,
    words: usize,
}

/// A word as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u128);

impl Key {
    /// `word` has 1 to [`LONGEST`] bytes.
    #[inline]
    pub(super) fn of(word: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes[..word.len()].copy_from_slice(word);
        bytes[LONGEST] = word.len() as u8;
        Self(u128::from_le_bytes(bytes))
    }

    #[inline]
    fn start(self) -> usize {
        let mixed =
            (self.0 as u64) ^ ((self.0 >> 64) as u64).rotate_left(29).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % SLOTS
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        Self { slots: vec![(0, 0, 0); SLOTS], ids: Vec::new(), words: 0 }
    }

    /// The ids of the word.
    #[inline]
    pub(super) fn find(&self, key: Key) -> Option<&[u32]> {
        let mut at = key.start();
        loop {
            let (found, first, count) = self.slots[at];
            if found == key.0 {
                return Some(&self.ids[first as usize..][..count as usize]);
            }
            if found == 0 {
                return None;
            }
            at = (at + 1) % SLOTS;
        }
    }

    /// Remembers a word that is not there.
    pub(super) fn insert(&mut self, key: Key, ids: &[u32]) {
        if self.words == WORDS {
            self.slots.fill((0, 0, 0));
            self.ids.clear();
            self.words = 0;
        }
        let mut at = key.start();
        while self.slots[at].0 != 0 {
            at = (at + 1) % SLOTS;
        }
        self.slots[at] = (key.0, self.ids.len() as u32, ids.len() as u32);
        self.ids.extend_from_slice(ids);
        self.words += 1;
    }
}
