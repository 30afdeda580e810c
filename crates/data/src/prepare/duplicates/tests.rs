//! Signatures against true similarities, and the search against a plain one.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::prepare::clean::Words;
use crate::prepare::config::Deduplicate;

fn words(numbers: impl Iterator<Item = u64>) -> Words {
    let hash = |number: u64| twox_hash::XxHash3_64::oneshot(&number.to_le_bytes());
    Words { hashes: numbers.map(hash).collect(), ..Words::default() }
}

fn sign(words: &Words, deduplicate: &Deduplicate) -> Vec<u64> {
    let mut keys = Vec::new();
    Signer::new(deduplicate).sign(words, 7, &mut keys);
    keys
}

#[test]
fn bands_follow_the_threshold() {
    let bands = |threshold, permutations, bands| {
        Bands::of(&Deduplicate { threshold, permutations, bands, ..Deduplicate::default() })
    };
    // What datasketch's MinHashLSH chooses for 128 permutations.
    assert_eq!(bands(0.8, 128, None), Bands { count: 9, rows: 13 });
    assert_eq!(bands(0.5, 128, None), Bands { count: 25, rows: 5 });
    // FineWeb's.
    assert_eq!(bands(0.8, 112, Some(14)), Bands { count: 14, rows: 8 });
}

/// Places of two signatures agree as often as the documents have shingles in common, also where there are few shingles.
#[test]
fn agreement_is_similarity() {
    let deduplicate =
        Deduplicate { shingle: 1, permutations: 1024, bands: Some(1024), ..Deduplicate::default() };
    for (common, own) in [(900, 50), (500, 250), (100, 450), (20, 5), (0, 30)] {
        let a = sign(&words(0..common + own), &deduplicate);
        let b = sign(&words((0..common).chain(10_000..10_000 + own)), &deduplicate);
        let agree = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / 1024.0;
        let similarity = common as f64 / (common + 2 * own) as f64;
        // Three standard deviations of 1,024 draws, and as much again where places borrow from few others.
        let bound = 0.05 + if common + own < 100 { 0.12 } else { 0.0 };
        assert!((agree - similarity).abs() < bound, "{common} + {own}: {agree} for {similarity}");
    }
}

#[test]
fn near_documents_share_a_key_and_others_do_not() {
    let deduplicate = Deduplicate::default();
    let share = |a: &[u64], b: &[u64]| a.iter().zip(b).any(|(a, b)| a == b);
    let original = sign(&words(0..400), &deduplicate);
    // One word of 400: 5 shingles of 396 change, a similarity of 0.975.
    assert!(share(&original, &sign(&words((0..200).chain([999]).chain(201..400)), &deduplicate)));
    let mut found = 0;
    for number in 0..200 {
        let start = 1_000 * (number + 1);
        found += u32::from(share(&original, &sign(&words(start..start + 400), &deduplicate)));
    }
    assert_eq!(found, 0);
    // Too short for a shingle: as a whole.
    assert!(share(&sign(&words(0..3), &deduplicate), &sign(&words(0..3), &deduplicate)));
    assert!(!share(&sign(&words(0..3), &deduplicate), &sign(&words(0..4), &deduplicate)));
    let mut other = Vec::new();
    Signer::new(&deduplicate).sign(&words(0..0), 1 << 20, &mut other);
    assert!(!share(&sign(&words(0..0), &deduplicate), &other), "without words nothing is near");
}

/// A document's keys, few enough to meet.
fn documents() -> impl Strategy<Value = Vec<(Option<u128>, Vec<u64>)>> {
    let exact = prop::option::of((0_u64..12).prop_map(|n| u128::from(n) << 90 | u128::from(n)));
    prop::collection::vec((exact, prop::collection::vec(0_u64..12, 0..4)), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn the_search_finds_all_but_the_first(documents in documents(), memory in prop_oneof![Just(1_u64), Just(900), Just(1 << 30)]) {
        let scratch = tempfile::tempdir().unwrap();
        let entries = documents.iter().map(|(exact, near)| u64::from(exact.is_some()) + near.len() as u64).sum();
        let found = search(documents.len() as u64, entries, memory, scratch.path(), |take| {
            documents.iter().try_for_each(|(exact, near)| take(*exact, near))
        }).unwrap();
        let (mut exact_seen, mut near_seen) = (HashSet::new(), HashSet::new());
        for (number, (exact, near)) in (0..).zip(&documents) {
            prop_assert_eq!(found.exact.has(number), exact.is_some_and(|key| !exact_seen.insert(key)));
            let mut expected = false;
            for band in near.iter().enumerate() {
                expected |= !near_seen.insert(band);
            }
            prop_assert_eq!(found.near.has(number), expected);
        }
        prop_assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left on the disk");
    }
}
