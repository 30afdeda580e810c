//! A random order of `0..length` that needs no memory: a Feistel network over the next power of four, walked until it
//! falls inside.
//!
//! A network of balanced halves is a bijection whatever its round function is, and repeating a bijection until it
//! lands in `0..length` is again one (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The domain is
//! less than four times the length, so that a value takes less than four walks on average.

use twox_hash::XxHash3_64;

/// Four rounds make a strong pseudorandom permutation of a strong round function (Luby and Rackoff, 1988); two more
/// for small halves.
const ROUNDS: u64 = 6;

/// A bijection of `0..length`, decided by its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    length: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    pub(crate) fn new(length: u64, key: u64) -> Self {
        let bits = u64::BITS - length.saturating_sub(1).leading_zeros();
        Self { length, half_bits: bits.div_ceil(2).max(1), key }
    }

    /// Where `index` goes.
    pub(crate) fn apply(&self, index: u64) -> u64 {
        assert!(index < self.length, "{index} of {}", self.length);
        let mut value = self.network(index);
        while value >= self.length {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let mixed = XxHash3_64::oneshot_with_seed(self.key, &(round << 32 | right).to_le_bytes());
            (left, right) = (right, left ^ (mixed & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn is_a_bijection(length in 1_u64..3000, key: u64) {
            let permutation = Permutation::new(length, key);
            let images: HashSet<u64> = (0..length).map(|index| permutation.apply(index)).collect();
            prop_assert_eq!(images.len() as u64, length);
            prop_assert!(images.iter().all(|&image| image < length));
        }
    }

    #[test]
    fn keys_differ_and_neighbours_are_parted() {
        let length = 100_000;
        let (a, b) = (Permutation::new(length, 1), Permutation::new(length, 2));
        let same = (0..length).filter(|&index| a.apply(index) == b.apply(index)).count();
        assert!(same < 20, "{same} expected near 1");
        // The mean distance of two random places is a third of the length.
        let mean =
            (1..length).map(|i| a.apply(i).abs_diff(a.apply(i - 1))).sum::<u64>() as f64 / length as f64;
        assert!((mean / length as f64 - 1.0 / 3.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn large_lengths_stay_inside() {
        for length in [1 << 40, (1 << 40) + 1, u64::from(u32::MAX) * 7] {
            let permutation = Permutation::new(length, 3);
            assert!((0..100).all(|index| permutation.apply(index) < length));
        }
    }
}
