//! Byte-level BPE: the merges of a vocabulary, applied to one word.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde_json::Value;

use super::han::Han;
use crate::byte_level::symbol_of;

/// Words up to this many bytes are merged by looking through all pairs, longer ones with a heap.
const SHORT: usize = 96;
const NONE: u32 = u32::MAX;
/// Of a pair that is not merged.
const NO_PAIR: u64 = u64::MAX;

/// Pairs of ids, what they become, and in which order.
#[derive(Clone, Debug)]
pub(super) struct Merges {
    of_byte: [u32; 256],
    /// Open addressing; a power of two, at most half full.
    slots: Vec<Slot>,
    /// A bit for each pair that is merged, eight bits for each slot: most pairs are none, and this is small enough to stay near.
    known: Vec<u64>,
    /// A bit for each id that is the left one of some pair, and one for each that is the right one of some. What merges
    /// have made is rarely either, and these are small enough for the nearest cache.
    left: Vec<u64>,
    right: Vec<u64>,
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
    /// Of the pair of an id and its right neighbour: its place among all merges, and what it becomes.
    order: Vec<u64>,
    merged: Vec<u32>,
    /// Places and hashes of pairs that may be merged.
    hits: Vec<(u32, u32)>,
    /// Neighbours.
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
        let ids = vocab.values().filter_map(Value::as_u64).max()? as usize / 64 + 1;
        let (left, right) = (vec![0; ids], vec![0; ids]);
        let mut merges = Self { of_byte, slots, known, left, right, han: None };
        for (rank, pair) in (0..NONE).zip(pairs) {
            let (left, right) = (pair[0].as_str()?, pair[1].as_str()?);
            let merged = id(&format!("{left}{right}"))?;
            merges.insert(Slot { pair: (id(left)?, id(right)?), rank, merged });
        }
        merges.han = Han::new(model, &merges);
        Some(merges)
    }

    #[cfg(test)]
    pub(super) fn keeps_to_characters(&self) -> bool {
        self.han.is_some()
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
        for (bits, id) in [(&mut self.left, slot.pair.0), (&mut self.right, slot.pair.1)] {
            bits[id as usize / 64] |= 1 << (id % 64);
        }
        let mut at = hash & mask;
        while self.slots[at].rank != NONE && self.slots[at].pair != slot.pair {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// Rank and result of a pair; the rank [`NONE`] if it is not merged.
    #[inline]
    fn find(&self, left: u32, right: u32) -> (u32, u32) {
        if !has(&self.left, left) || !has(&self.right, right) {
            return (NONE, NONE);
        }
        let hash = start((left, right));
        if self.may_know(hash) { self.look_up(left, right, hash) } else { (NONE, NONE) }
    }

    /// Whether a pair of this hash may be merged.
    #[inline]
    fn may_know(&self, hash: usize) -> bool {
        let bit = hash & (self.known.len() * 64 - 1);
        self.known[bit / 64] >> (bit % 64) & 1 == 1
    }

    #[inline]
    fn look_up(&self, left: u32, right: u32, hash: usize) -> (u32, u32) {
        let mask = self.slots.len() - 1;
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
        let Scratch { ids, order, merged, left, right, hits, .. } = scratch;
        let count = ids.len();
        // Whether pairs are known is asked for all of them before any is looked up: nothing waits for an answer.
        hits.resize(count, (0, 0));
        let mut known = 0;
        for (at, &[left, right]) in ids.array_windows().enumerate() {
            let hash = start((left, right));
            hits[known] = (at as u32, hash as u32);
            known += usize::from(self.may_know(hash));
        }
        if known == 0 {
            out.extend_from_slice(ids);
            return;
        }
        order.clear();
        order.resize(count, NO_PAIR);
        merged.resize(count, NONE);
        for &(at, hash) in &hits[..known] {
            let place = at as usize;
            let (rank, becomes) = self.look_up(ids[place], ids[place + 1], hash as usize);
            (order[place], merged[place]) = (in_order(rank, at), becomes);
        }
        left.clear();
        left.extend((0..count as u32).map(|at| at.wrapping_sub(1)));
        right.clear();
        right.extend(1..=count as u32);
        loop {
            let first = order.iter().copied().min().unwrap_or(NO_PAIR);
            if first == NO_PAIR {
                break;
            }
            let place = first as u32 as usize;
            let gone = right[place] as usize;
            let (before, after) = (left[place], right[gone]);
            (ids[place], ids[gone], order[gone]) = (merged[place], NONE, NO_PAIR);
            right[place] = after;
            order[place] = NO_PAIR;
            if (after as usize) < count {
                left[after as usize] = place as u32;
                let (rank, becomes) = self.find(ids[place], ids[after as usize]);
                (order[place], merged[place]) = (in_order(rank, place as u32), becomes);
            }
            if before != NONE {
                let at = before as usize;
                let (rank, becomes) = self.find(ids[at], ids[place]);
                (order[at], merged[at]) = (in_order(rank, before), becomes);
            }
        }
        out.extend(ids.iter().copied().filter(|&id| id != NONE));
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

/// What comes first is merged first: the lowest rank, and of equal ones the leftmost.
#[inline]
fn in_order(rank: u32, place: u32) -> u64 {
    if rank == NONE { NO_PAIR } else { u64::from(rank) << 32 | u64::from(place) }
}

#[inline]
fn has(bits: &[u64], id: u32) -> bool {
    bits[id as usize / 64] >> (id % 64) & 1 == 1
}

/// Where to look for a pair first: the highest bits, which all bits of both ids have changed.
#[inline]
fn start((left, right): (u32, u32)) -> usize {
    let key = (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((key ^ (key >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as usize
}
