//! Order, coverage and position of the loader.

use super::*;
use crate::DatasetWriter;
use crate::test_data::{dataset, document, tokenizer_directory};
use proptest::prelude::*;
use std::path::Path;

fn options(batch: usize, seq: usize) -> LoaderOptions {
    LoaderOptions { batch, seq, seed: 7, shuffle: true, learn_cut_documents: true }
}

fn of_lengths(directory: &Path, lengths: &[usize]) -> Dataset {
    let documents: Vec<Vec<u32>> =
        (0..).zip(lengths).map(|(index, &length)| document(index, length)).collect();
    dataset(directory, &documents, 97)
}

/// The training split as one row of tokens, with the first token of each one's document.
fn flat(dataset: &Dataset) -> (Vec<u32>, Vec<usize>) {
    let (mut tokens, mut starts) = (Vec::new(), Vec::new());
    for index in 0..dataset.train().documents() {
        let document = dataset.train().document(index).unwrap().tokens;
        starts.extend(std::iter::repeat_n(tokens.len(), document.len()));
        tokens.extend(document);
    }
    (tokens, starts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_row_comes_once_per_epoch(
        lengths in prop::collection::vec(1_usize..60, 8..40),
        batch in 1_usize..7,
        seq in 1_usize..20,
        shuffle: bool,
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let dataset = of_lengths(scratch.path(), &lengths);
        let (tokens, starts) = flat(&dataset);
        prop_assume!(tokens.len() > seq);
        let rows = (tokens.len() - 1) / seq;
        let mut loader = Loader::new(&dataset, LoaderOptions { shuffle, ..options(batch, seq) }).unwrap();
        prop_assert_eq!(loader.rows_per_epoch(), rows as u64);
        let mut seen = Vec::new();
        while seen.len() < 2 * rows {
            let got = loader.next_batch().unwrap();
            prop_assert_eq!(got.loss_mask, None);
            for (row, documents) in got.tokens.chunks(seq + 1).zip(got.document.chunks(seq)) {
                let number = seen.len() as u64;
                let start = loader.row(number) as usize * seq;
                prop_assert_eq!(row, &tokens[start..=start + seq]);
                for (at, &first) in documents.iter().enumerate() {
                    prop_assert_eq!(first as usize, starts[start + at].saturating_sub(start));
                }
                seen.push(start / seq);
            }
        }
        for epoch in seen[..2 * rows].chunks(rows) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..rows).collect::<Vec<_>>());
        }
    }

    #[test]
    fn seeking_is_continuing(before in 0_usize..30, batch in 1_usize..5) {
        let scratch = tempfile::tempdir().unwrap();
        let dataset = of_lengths(scratch.path(), &[40; 12]);
        let mut loader = Loader::new(&dataset, options(batch, 16)).unwrap();
        for _ in 0..before {
            loader.next_batch().unwrap();
        }
        let saved = serde_json::to_string(&loader.position()).unwrap();
        let mut resumed = Loader::new(&dataset, options(batch, 16)).unwrap();
        resumed.seek(&serde_json::from_str(&saved).unwrap()).unwrap();
        for _ in 0..30 {
            prop_assert_eq!(loader.next_batch().unwrap(), resumed.next_batch().unwrap());
        }
    }
}

#[test]
fn orders_differ_between_seeds_and_epochs() {
    let scratch = tempfile::tempdir().unwrap();
    let dataset = of_lengths(scratch.path(), &[100; 20]);
    let loader = Loader::new(&dataset, options(1, 10)).unwrap();
    let other = Loader::new(&dataset, LoaderOptions { seed: 8, ..options(1, 10) }).unwrap();
    let rows = loader.rows_per_epoch();
    let order = |loader: &Loader, epoch: u64| -> Vec<u64> {
        (0..rows).map(|row| loader.row(epoch * rows + row)).collect()
    };
    assert_ne!(order(&loader, 0), order(&loader, 1));
    assert_ne!(order(&loader, 0), order(&other, 0));
    assert_ne!(order(&loader, 0), (0..rows).collect::<Vec<_>>());
}

#[test]
fn growing_batches_keep_the_order() {
    let scratch = tempfile::tempdir().unwrap();
    let dataset = of_lengths(scratch.path(), &[50; 20]);
    let mut growing = Loader::new(&dataset, options(1, 8)).unwrap();
    let mut steady = Loader::new(&dataset, options(6, 8)).unwrap();
    let mut tokens = Vec::new();
    for batch in 1..=3 {
        growing.set_batch(batch).unwrap();
        tokens.extend(growing.next_batch().unwrap().tokens);
    }
    assert_eq!(tokens, steady.next_batch().unwrap().tokens);
    assert_eq!(growing.position(), steady.position());
}

#[test]
fn positions_of_other_runs_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let dataset = of_lengths(scratch.path(), &[50; 20]);
    let mut loader = Loader::new(&dataset, options(2, 8)).unwrap();
    let here = loader.position();
    let rows = [
        ("dataset", Position { dataset: "0".to_owned(), ..here.clone() }),
        ("seq", Position { seq: 9, ..here.clone() }),
        ("seed", Position { seed: 9, ..here.clone() }),
        ("shuffle", Position { shuffle: false, ..here.clone() }),
    ];
    for (field, position) in rows {
        let message = loader.seek(&position).unwrap_err().to_string();
        assert!(message.contains(&format!("`{field}`")), "{message}");
    }
}

#[test]
fn masks_follow_the_targets() {
    let scratch = tempfile::tempdir().unwrap();
    let mut writer = DatasetWriter::create(scratch.path(), &tokenizer_directory(), true, 50).unwrap();
    for index in 0..40 {
        let tokens = document(index, 11);
        // A token is learnt if it is odd, so that tokens tell what their mask must be.
        let learn: Vec<bool> = tokens.iter().map(|token| token % 2 == 1).collect();
        writer.append(false, &tokens, Some(&learn), 11).unwrap();
    }
    let dataset = writer.finish(Vec::new()).unwrap();
    assert!(dataset.is_masked());
    let mut loader = Loader::new(&dataset, options(4, 13)).unwrap();
    for _ in 0..20 {
        let batch = loader.next_batch().unwrap();
        let mask = batch.loss_mask.unwrap();
        for (row, mask) in batch.tokens.chunks(14).zip(mask.chunks(13)) {
            assert!(row[1..].iter().zip(mask).all(|(token, &learn)| (token % 2 == 1) == learn));
        }
    }
}

#[test]
fn validation_is_in_order_whatever_the_batch() {
    let scratch = tempfile::tempdir().unwrap();
    let dataset = of_lengths(scratch.path(), &[37; 40]);
    let all = |batch| -> Vec<u32> {
        dataset.validation_batches(batch, 10).unwrap().flat_map(|batch| batch.unwrap().tokens).collect()
    };
    let rows = (dataset.validation().tokens() as usize - 1) / 10;
    assert_eq!(all(1).len(), rows * 11);
    assert_eq!(all(1), all(7));
    assert_eq!(dataset.validation_batches(7, 10).unwrap().last().unwrap().unwrap().batch, rows % 7);
}

#[test]
fn impossible_sizes_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let dataset = of_lengths(scratch.path(), &[10; 10]);
    let rows = [
        (options(0, 8), "`batch`: expected at least 1, got 0"),
        (options(1, 0), "`seq`: expected at least 1, got 0"),
        (options(1, 80), "the train split of"),
    ];
    for (options, part) in rows {
        let message = Loader::new(&dataset, options).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    assert!(dataset.validation_batches(1, 80).unwrap_err().to_string().contains("one row takes 81"));
}
