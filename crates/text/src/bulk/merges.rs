//! Byte-level BPE: the merges of a vocabulary, applied to one word.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde_json::Value;

use super::han::Han;
use crate::byte_level::symbol_of;

/// Words up to this many bytes are merged by looking through all pairs, longer ones with a heap.
const SHORT: usize = 96;
const NONE: u32 = u32::MAX;

/// Pairs of ids, what they become, and in which order.
#[derive(Clone, Debug)]
pub(super) struct Merges {
    of_byte: [u32; 256],
    /// Open addressing; a power of two, at most half full.
    slots: Vec<Slot>,
    /// A bit for each pair that is merged, eight bits for each slot: most pairs are none, and this is small enough to stay near.
    known: Vec<u64>,
    /// Runs of Han characters, where they can be merged from characters.
    han: Option<Han>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    pair: (u32, u32),
    rank: u32,
    merged: u32,
}

const EMPTY: Slot = Slot { pair: (NONE, NONE), rank: NONE, merged: NONE };

/// Buffers that are kept between words.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    pub(super) ids: Vec<u32>,
    /// Of the pair of an id and its right neighbour.
    ranks: Vec<(u32, u32)>,
    /// Neighbours, for long words; [`NONE`] at the edges.
    left: Vec<u32>,
    right: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

impl Merges {
    /// Of the `model` of a `tokenizer.json`, as `tokenizers` writes it; `None` for one that does more than merge, or has
    /// no token for some byte.
    pub(super) fn of_json(model: &Value) -> Option<Self> {
        if model["type"] != "BPE" || model["ignore_merges"] == true {
            return None;
        }
        let vocab = model["vocab"].as_object()?;
        let id = |token: &str| u32::try_from(vocab.get(token)?.as_u64()?).ok().filter(|&id| id != NONE);
        let mut of_byte = [0; 256];
        for (byte, place) in (0..=u8::MAX).zip(&mut of_byte) {
            *place = id(symbol_of(byte).encode_utf8(&mut [0; 4]))?;
        }
        let pairs = model["merges"].as_array()?;
        let slots = vec![EMPTY; (pairs.len() * 2).next_power_of_two().max(8)];
        let known = vec![0; slots.len() / 8];
        let mut merges = Self { of_byte, slots, known, han: None };
        for (rank, pair) in (0..NONE).zip(pairs) {
            let (left, right) = (pair[0].as_str()?, pair[1].as_str()?);
            let merged = id(&format!("{left}{right}"))?;
            merges.insert(Slot { pair: (id(left)?, id(right)?), rank, merged });
        }
        merges.han = Han::new(model, &merges);
        Some(merges)
    }

    /// All ids that a word can become.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        let merged = self.slots.iter().filter(|slot| slot.rank != NONE).map(|slot| slot.merged);
        self.of_byte.iter().copied().chain(merged)
    }

    fn insert(&mut self, slot: Slot) {
        let (mask, hash) = (self.slots.len() - 1, start(slot.pair));
        let bit = hash % (self.known.len() * 64);
        self.known[bit / 64] |= 1 << (bit % 64);
        let mut at = hash & mask;
        while self.slots[at].rank != NONE && self.slots[at].pair != slot.pair {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// Rank and result of a pair; the rank [`NONE`] if it is not merged.
    #[inline]
    fn find(&self, left: u32, right: u32) -> (u32, u32) {
        let (mask, hash) = (self.slots.len() - 1, start((left, right)));
        let bit = hash & (self.known.len() * 64 - 1);
        if self.known[bit / 64] >> (bit % 64) & 1 == 0 {
            return (NONE, NONE);
        }
        let mut at = hash & mask;
        loop {
            let slot = &self.slots[at];
            if slot.pair == (left, right) || slot.rank == NONE {
                return (slot.rank, slot.merged);
            }
            at = (at + 1) & mask;
        }
    }

    /// Appends the ids of `word`.
    pub(super) fn apply(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let han = self.han.as_ref().filter(|_| word.len() <= 3 * SHORT);
        if !han.is_some_and(|han| han.apply(word, self, scratch, ids)) {
            self.apply_bytes(word, scratch, ids);
        }
    }

    /// The same from bytes.
    pub(super) fn apply_bytes(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match word {
            [] => {}
            &[byte] => ids.push(self.of_byte[byte as usize]),
            _ if word.len() <= SHORT => self.apply_short(word, scratch, ids),
            _ => self.apply_long(word, scratch, ids),
        }
    }

    /// The pair of lowest rank, the first of equal ones, until there is none.
    fn apply_short(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        scratch.ids.clear();
        scratch.ids.extend(word.iter().map(|&byte| self.of_byte[byte as usize]));
        self.merge_ids(scratch, out);
    }

    /// Merges the ids in `scratch` and appends what they become.
    pub(super) fn merge_ids(&self, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { ids, ranks, .. } = scratch;
        ranks.clear();
        ranks.extend(ids.array_windows().map(|&[left, right]| self.find(left, right)));
        loop {
            let (mut best, mut place) = (NONE, 0);
            for (at, &(rank, _)) in ranks.iter().enumerate() {
                if rank < best {
                    (best, place) = (rank, at);
                }
            }
            if best == NONE {
                break;
            }
            ids[place] = ranks[place].1;
            ids.remove(place + 1);
            ranks.remove(place);
            if place > 0 {
                ranks[place - 1] = self.find(ids[place - 1], ids[place]);
            }
            if place < ranks.len() {
                ranks[place] = self.find(ids[place], ids[place + 1]);
            }
        }
        out.extend_from_slice(ids);
    }

    /// The same in n log n steps.
    fn apply_long(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { ids, left, right, heap, .. } = scratch;
        let length = word.len() as u32;
        ids.clear();
        ids.extend(word.iter().map(|&byte| self.of_byte[byte as usize]));
        left.clear();
        left.extend((0..length).map(|at| at.wrapping_sub(1)));
        right.clear();
        right.extend((1..length).chain([NONE]));
        heap.clear();
        let push = |heap: &mut BinaryHeap<_>, ids: &[u32], at: u32, next: u32| {
            let (rank, merged) = self.find(ids[at as usize], ids[next as usize]);
            if rank != NONE {
                heap.push(Reverse((rank, at, merged)));
            }
        };
        for at in 0..length - 1 {
            push(heap, ids, at, at + 1);
        }
        while let Some(Reverse((rank, at, merged))) = heap.pop() {
            let next = right[at as usize];
            // What is in the heap may have been merged with something else since.
            if ids[at as usize] == NONE || next == NONE {
                continue;
            }
            if self.find(ids[at as usize], ids[next as usize]).0 != rank {
                continue;
            }
            ids[at as usize] = merged;
            ids[next as usize] = NONE;
            let (before, after) = (left[at as usize], right[next as usize]);
            right[at as usize] = after;
            if after != NONE {
                left[after as usize] = at;
                push(heap, ids, at, after);
            }
            if before != NONE {
                push(heap, ids, before, at);
            }
        }
        out.extend(ids.iter().copied().filter(|&id| id != NONE));
    }
}

/// Where to look for a pair first: the highest bits, which all bits of both ids have changed.
#[inline]
fn start((left, right): (u32, u32)) -> usize {
    let key = (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((key ^ (key >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as usize
}
