//! The words of a text and how often each occurs, in bounded memory.

use ahash::AHashMap;
use compact_str::CompactString;
use twox_hash::XxHash3_64;

/// Counting samples (Gibbons and Matias, SIGMOD 1998).
///
/// As long as the distinct words fit, every word is counted. When they do not, only one in two of the words that have not
/// been met is taken in from then on, then one in four, and so on, and those that are there are thinned as if that had
/// been so from the beginning. What occurs often is counted nearly exactly; of what occurs once, a part that is the same
/// wherever in the text it stands goes for all of it. Chinese needs this: a run of Han characters is one word, and nearly
/// every one is met once.
pub(super) struct WordCounts {
    counts: AHashMap<CompactString, u64>,
    /// Bytes of the distinct words, and how many they may be.
    bytes: usize,
    limit: usize,
    /// One in 2^`rarity` occurrences of words that are not there is taken in.
    rarity: u32,
    /// Occurrences of such words.
    strangers: u64,
}

impl WordCounts {
    /// None yet; at most `limit` bytes of distinct words at a time.
    pub(super) fn new(limit: usize) -> Self {
        Self { counts: AHashMap::new(), bytes: 0, limit, rarity: 0, strangers: 0 }
    }

    /// Counts one occurrence.
    pub(super) fn add(&mut self, word: &str) {
        if let Some(count) = self.counts.get_mut(word) {
            *count += 1;
            return;
        }
        self.strangers += 1;
        if !falls(self.rarity, 0, &self.strangers.to_le_bytes()) {
            return;
        }
        self.bytes += word.len();
        self.counts.insert(word.into(), 1);
        while self.bytes > self.limit {
            self.thin();
        }
    }

    /// Halves the share of strangers that are taken in, and forgets what would not have been.
    fn thin(&mut self) {
        self.rarity += 1;
        let (rarity, bytes) = (self.rarity, &mut self.bytes);
        self.counts.retain(|word, count| {
            // The occurrence that let the word in would still have done so, or one of those after it.
            if falls(1, u64::from(rarity), word.as_bytes()) {
                return true;
            }
            let mut toss = u64::from(rarity) << 32;
            loop {
                *count -= 1;
                toss += 1;
                if *count == 0 {
                    *bytes -= word.len();
                    return false;
                }
                if falls(rarity, toss, word.as_bytes()) {
                    return true;
                }
            }
        });
    }

    /// The words with how often they occur, which is a guess where not all of them fitted: before a word is taken in it
    /// has been passed over 2^`rarity` − 1 times on average.
    pub(super) fn finish(self) -> AHashMap<CompactString, u64> {
        let Self { mut counts, rarity, .. } = self;
        counts.values_mut().for_each(|count| *count += (1 << rarity) - 1);
        counts
    }
}

/// One toss with the chance of 1 in 2^`rarity`: the same in every run.
fn falls(rarity: u32, toss: u64, what: &[u8]) -> bool {
    rarity == 0 || XxHash3_64::oneshot_with_seed(toss, what) >> (64 - rarity) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_fit_are_counted() {
        let mut words = WordCounts::new(8);
        "a b a 好 a".split(' ').for_each(|word| words.add(word));
        let counts = words.finish();
        assert_eq!(counts.len(), 3);
        assert_eq!((counts["a"], counts["b"], counts["好"]), (3, 1, 1));
    }

    #[test]
    fn of_words_that_do_not_fit_the_frequent_ones_and_a_fair_part_of_the_others_stay() {
        const LIMIT: usize = 100_000;
        let mut words = WordCounts::new(LIMIT);
        for number in 0..400_000_u32 {
            // First half: rare words of one kind, then of another; a frequent one all the time.
            let kind = if number < 200_000 { 'a' } else { 'b' };
            words.add(&format!("{kind}{number:07}"));
            if number % 4 == 0 {
                words.add("frequent");
            }
            assert!(words.bytes <= LIMIT);
        }
        assert_eq!(words.bytes, words.counts.keys().map(|word| word.len()).sum::<usize>());
        let counts = words.finish();
        let frequent = counts["frequent"] as f64;
        assert!((frequent - 100_000.0).abs() < 300.0, "{frequent}");
        for kind in ["a", "b"] {
            let of_kind = counts.iter().filter(|(word, _)| word.starts_with(kind));
            let sum = of_kind.map(|(_, &count)| count).sum::<u64>() as f64;
            assert!((sum - 200_000.0).abs() < 20_000.0, "{kind}: {sum}");
        }
    }
}
