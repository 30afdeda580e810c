//! Byte-pair encoding, learnt from counted words (Sennrich, Haddow and Birch, ACL 2016).
//!
//! The same merges in the same order as the trainer of the `tokenizers` crate, which holds them afterwards; its trainer
//! keeps a hash set of words for every pair, which for Chinese, where nearly every run of characters is a word of its own,
//! takes sixty times the text's memory and most of the time of a whole preparation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ahash::AHashMap;

type Pair = (u32, u32);

/// Words to learn from, in one row of ids.
#[derive(Debug, Default)]
pub(super) struct Words {
    ids: Vec<u32>,
    words: Vec<Word>,
}

#[derive(Clone, Copy, Debug)]
struct Word {
    start: usize,
    length: usize,
    count: i64,
}

/// How often a pair occurs, and in which words it has been seen; it may have gone from them since.
#[derive(Debug, Default)]
struct Seen {
    count: i64,
    words: Vec<u32>,
}

impl Words {
    /// Adds a word that occurs `count` times.
    pub(super) fn push(&mut self, ids: impl Iterator<Item = u32>, count: u64) {
        let start = self.ids.len();
        self.ids.extend(ids);
        let length = self.ids.len() - start;
        self.words.push(Word { start, length, count: count.min(i64::MAX as u64) as i64 });
    }

    /// Merges the most frequent pair, of equally frequent ones the one of the lowest ids, until `vocab` has `vocab_size`
    /// entries or no pair occurs `min_frequency` times. Returns the merges in order; what they make is added to `vocab`.
    pub(super) fn learn(
        mut self,
        vocab: &mut Vec<String>,
        vocab_size: usize,
        min_frequency: u64,
    ) -> Vec<Pair> {
        let mut known: AHashMap<String, u32> = vocab.iter().cloned().zip(0..).collect();
        let mut pairs = self.pairs();
        let mut queue: BinaryHeap<_> =
            pairs.iter().map(|(&pair, seen)| (seen.count, Reverse(pair))).collect();
        let (mut merges, mut changed) = (Vec::new(), Vec::new());
        while vocab.len() < vocab_size {
            let Some((count, Reverse(pair))) = queue.pop() else { break };
            let seen = pairs.get_mut(&pair).expect("what is in the queue was seen");
            if seen.count != count {
                // It has become rarer since it was queued.
                queue.push((seen.count, Reverse(pair)));
                continue;
            }
            if count < 1 || (count as u64) < min_frequency {
                break;
            }
            let words = std::mem::take(&mut seen.words);
            let entry = format!("{}{}", vocab[pair.0 as usize], vocab[pair.1 as usize]);
            let merged = *known.entry(entry).or_insert_with_key(|entry| {
                vocab.push(entry.clone());
                vocab.len() as u32 - 1
            });
            merges.push(pair);
            for word in words {
                self.merge(word, pair, merged, &mut pairs, &mut changed);
            }
            changed.sort_unstable();
            changed.dedup();
            queue.extend(changed.drain(..).map(|pair| (pairs[&pair].count, Reverse(pair))));
        }
        merges
    }

    fn pairs(&self) -> AHashMap<Pair, Seen> {
        let mut pairs: AHashMap<Pair, Seen> = AHashMap::new();
        for (number, word) in (0..).zip(&self.words) {
            for &[left, right] in self.ids[word.start..][..word.length].array_windows() {
                pairs.entry((left, right)).or_default().add(number, word.count);
            }
        }
        pairs
    }

    /// Merges a pair in one word. What has come next to what is now is counted, and noted in `changed`.
    fn merge(
        &mut self,
        number: u32,
        pair: Pair,
        merged: u32,
        pairs: &mut AHashMap<Pair, Seen>,
        changed: &mut Vec<Pair>,
    ) {
        let word = &mut self.words[number as usize];
        let ids = &mut self.ids[word.start..][..word.length];
        let mut replace = |old: Pair, new: Pair| {
            if let Some(seen) = pairs.get_mut(&old) {
                seen.count -= word.count;
            }
            pairs.entry(new).or_default().add(number, word.count);
            changed.push(new);
        };
        let (mut read, mut written) = (0, 0);
        while read < ids.len() {
            if (ids[read], ids.get(read + 1).copied()) != (pair.0, Some(pair.1)) {
                ids[written] = ids[read];
                (read, written) = (read + 1, written + 1);
                continue;
            }
            if written > 0 {
                replace((ids[written - 1], pair.0), (ids[written - 1], merged));
            }
            ids[written] = merged;
            (read, written) = (read + 2, written + 1);
            if let Some(&next) = ids.get(read) {
                replace((pair.1, next), (merged, next));
            }
        }
        word.length = written;
    }
}

impl Seen {
    fn add(&mut self, word: u32, count: i64) {
        self.count += count;
        if self.words.last() != Some(&word) {
            self.words.push(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::models::bpe::{BPE, BpeTrainer};

    use super::*;

    /// Entries and merges of the trainer of `tokenizers`, the merges as text.
    fn reference(
        words: &[(String, u64)],
        vocab_size: usize,
        min_frequency: u64,
    ) -> (Vec<String>, Vec<String>) {
        let trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            .min_frequency(min_frequency)
            .initial_alphabet(('a'..='d').collect())
            .build();
        let mut model = BPE::default();
        let counts = words.iter().map(|(word, count)| (word.into(), *count)).collect();
        trainer.do_train(&counts, &mut model).expect("trains");
        let json = serde_json::to_value(&model).expect("JSON");
        let merges = json["merges"].as_array().expect("a list").iter();
        let merges = merges
            .map(|pair| format!("{} {}", pair[0].as_str().expect("text"), pair[1].as_str().expect("text")));
        let mut vocab: Vec<_> = model.get_vocab().into_iter().collect();
        vocab.sort_by_key(|(_, id)| *id);
        (vocab.into_iter().map(|(entry, _)| entry).collect(), merges.collect())
    }

    fn learn(words: &[(String, u64)], vocab_size: usize, min_frequency: u64) -> (Vec<String>, Vec<String>) {
        let mut vocab: Vec<String> = ('a'..='d').map(String::from).collect();
        let mut all = Words::default();
        for (word, count) in words {
            all.push(word.bytes().map(|byte| u32::from(byte - b'a')), *count);
        }
        let merges = all.learn(&mut vocab, vocab_size, min_frequency);
        let text = |(left, right): Pair| format!("{} {}", vocab[left as usize], vocab[right as usize]);
        let merges = merges.into_iter().map(text).collect();
        (vocab, merges)
    }

    proptest! {
        #[test]
        fn the_merges_of_the_tokenizers_crate(
            words in prop::collection::btree_map("[a-d]{1,12}", 1_u64..50, 1..40),
            vocab_size in 4_usize..40,
            min_frequency in 0_u64..6,
        ) {
            let words: Vec<_> = words.into_iter().collect();
            let (vocab, merges) = learn(&words, vocab_size, min_frequency);
            // What two merges make is queued apart by the crate and merged twice; from there on ways may part.
            let twice = merges.iter().map(|merge| merge.replace(' ', "")).collect::<std::collections::HashSet<_>>();
            prop_assume!(twice.len() == merges.len());
            prop_assert_eq!((vocab, merges), reference(&words, vocab_size, min_frequency));
        }
    }

    #[test]
    fn pairs_that_overlap_are_merged_from_the_left() {
        let words = [("aaaaa".to_owned(), 3), ("aab".to_owned(), 1)];
        let expected = reference(&words, 8, 1);
        assert_eq!(learn(&words, 8, 1), expected);
        assert_eq!(expected.1[0], "a a");
    }
}
