//! Datasets that are whole, and every way in which one can be broken.

use super::*;
use crate::test_data::{dataset, document, tokenizer_directory};
use crate::{Loader, LoaderOptions};
use std::fs;

#[test]
fn what_is_written_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let documents: Vec<Vec<u32>> =
        (0..50).map(|index| document(index, 1 + index as usize * 7 % 90)).collect();
    let dataset = dataset(scratch.path(), &documents, 300);
    assert!(dataset.manifest().train.shards.len() > 3);
    assert_eq!(dataset.train().documents() + dataset.validation().documents(), 50);
    assert_eq!(dataset.vocab_size(), 512);
    let (mut train, mut validation) = (0, 0);
    for (index, tokens) in documents.iter().enumerate() {
        let (split, at) = if index % 5 == 4 {
            (dataset.validation(), &mut validation)
        } else {
            (dataset.train(), &mut train)
        };
        assert_eq!(&split.document(*at).unwrap().tokens, tokens);
        *at += 1;
    }
    let again = Dataset::open(scratch.path(), Verify::Content).unwrap();
    assert_eq!(again.manifest(), dataset.manifest());
    assert_eq!(again.fingerprint(), dataset.fingerprint());
    again.check_tokenizer_of(&tokenizer_directory()).unwrap();
}

#[test]
fn a_dataset_is_not_written_over() {
    let scratch = tempfile::tempdir().unwrap();
    dataset(scratch.path(), &[document(0, 9)], 100);
    let again = DatasetWriter::create(scratch.path(), &tokenizer_directory(), false, 100);
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
}

/// Breaks a dataset and opens it: the message must have all of `parts`.
#[track_caller]
fn broken(verify: Verify, damage: impl FnOnce(&Path), parts: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let documents: Vec<Vec<u32>> = (0..30).map(|index| document(index, 40)).collect();
    dataset(scratch.path(), &documents, 400);
    damage(scratch.path());
    let error = match Dataset::open(scratch.path(), verify) {
        Err(error) => error,
        Ok(dataset) => {
            let options =
                LoaderOptions { batch: 20, seq: 30, seed: 1, shuffle: false, learn_cut_documents: true };
            Loader::new(&dataset, options).unwrap().next_batch().expect_err("it is broken")
        }
    };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message} does not say {part:?}");
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

const FIRST: &str = "train-00000.tokens";

#[test]
fn broken_datasets_say_what_and_where() {
    use Verify::{Content, Structure};
    let first = |dir: &Path| dir.join(FIRST);
    broken(Structure, |dir| fs::remove_file(dir.join("dataset.json")).unwrap(), &["fathom data prepare"]);
    broken(Structure, |dir| fs::remove_file(first(dir)).unwrap(), &["missing", FIRST, "copy"]);
    broken(Structure, |dir| edit(&first(dir), |b| b.truncate(b.len() - 1)), &["cut", FIRST]);
    broken(Structure, |dir| edit(&first(dir), |b| b.truncate(5)), &["at least 128 bytes, got 5", FIRST]);
    broken(Structure, |dir| edit(&first(dir), |b| b[0] = b'X'), &["FATHOMTK", FIRST]);
    broken(Structure, |dir| edit(&first(dir), |b| b[8] = 9), &["version is 9, expected 1", FIRST]);
    broken(Structure, |dir| edit(&first(dir), |b| b[24] ^= 1), &["the header", "damaged", FIRST]);
    broken(Content, |dir| edit(&first(dir), |b| b[200] ^= 1), &["the content", "damaged", FIRST]);
    broken(Structure, |dir| edit(&first(dir), |b| b[129] = 0xff), &["holds the token", "512", FIRST]);
    broken(
        Structure,
        |dir| {
            fs::copy(dir.join("train-00001.tokens"), first(dir)).unwrap();
        },
        &["different datasets", FIRST],
    );
    broken(
        Structure,
        |dir| edit(&dir.join("tokenizer.json"), |b| *b = b"{}".to_vec()),
        &["tokenizer.json", "not the tokenizer of the data"],
    );
    let replace = |from: &'static str, to: &'static str| {
        move |dir: &Path| {
            edit(&dir.join("dataset.json"), |b| {
                *b = String::from_utf8(b.clone()).unwrap().replacen(from, to, 1).into_bytes();
            });
        }
    };
    broken(Structure, replace("\"tokens\": ", "\"tokens\": 1"), &["dataset.json", "`train`", "sums"]);
    broken(Structure, replace(FIRST, "../a.tokens"), &["`train.shards`", "../a.tokens"]);
    broken(
        Structure,
        replace("\"version\": 1", "\"version\": 2"),
        &["version 1, got \"fathom-dataset\" version 2"],
    );
    broken(Structure, replace("\"masked\"", "\"masked_\""), &["dataset.json", "masked_"]);
}
