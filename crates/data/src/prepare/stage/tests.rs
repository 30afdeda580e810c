//! Stages written and read, whole and damaged.

use std::fs;
use std::path::Path;

use super::*;
use crate::prepare::counts::Counts;

fn write(directory: &Path, token_bytes: usize) {
    let mut writer = StageWriter::create(directory, "a", token_bytes, 2).unwrap();
    let kept = |hash, tokens| Kept { hash, tokens, text_bytes: tokens * 3 };
    writer.append(&[kept(1, 2), kept(u128::MAX, 1)], &[5, 6, 65_000], &[10, 11, 12, 13]).unwrap();
    writer.append(&[], &[], &[]).unwrap();
    writer.append(&[kept(3, 3)], &[7, 8, 9], &[14, u64::MAX]).unwrap();
    assert_eq!(Stage::open(directory, "a", "key").unwrap().map(|_| ()), None, "it is not finished");
    writer.finish("key".to_owned(), Counts { documents_in: 4, ..Counts::default() }, 1.5).unwrap();
}

#[test]
fn what_was_written_is_read() {
    for token_bytes in [2, 4] {
        let scratch = tempfile::tempdir().unwrap();
        write(scratch.path(), token_bytes);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
        let stage = Stage::open(scratch.path(), "a", "key").unwrap().unwrap();
        assert_eq!((stage.documents(), stage.bands(), stage.summary.tokens), (3, 2, 6));
        assert_eq!((stage.summary.counts.documents_in, stage.summary.work_seconds), (4, 1.5));
        let (mut ids, mut keys) = (Vec::new(), Vec::new());
        for (number, hash, expected, near) in [
            (0, 1, &[5, 6][..], [10, 11]),
            (1, u128::MAX, &[65_000], [12, 13]),
            (2, 3, &[7, 8, 9], [14, u64::MAX]),
        ] {
            let document = stage.document(number);
            assert_eq!((document.kept.hash, document.kept.text_bytes as usize), (hash, expected.len() * 3));
            stage.ids(document, &mut ids);
            stage.keys(number, &mut keys);
            assert_eq!((&*ids, &*keys), (expected, &near[..]));
        }
    }
}

/// What it is called, the file, and what is done to it.
type Damage = (&'static str, &'static str, fn(&mut Vec<u8>));

#[test]
fn what_is_not_whole_or_of_something_else_is_not_there() {
    let damage: [Damage; 6] = [
        ("other key", "a.index", |_| {}),
        ("cut index", "a.index", |bytes| bytes.truncate(bytes.len() - 9)),
        ("changed index", "a.index", |bytes| bytes[3] ^= 1),
        ("empty index", "a.index", Vec::clear),
        ("cut ids", "a.ids", |bytes| bytes.truncate(bytes.len() - 1)),
        ("empty ids", "a.ids", Vec::clear),
    ];
    for (what, file, change) in damage {
        let scratch = tempfile::tempdir().unwrap();
        write(scratch.path(), 2);
        let path = scratch.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let key = if what == "other key" { "other" } else { "key" };
        assert!(Stage::open(scratch.path(), "a", key).unwrap().is_none(), "{what}");
        fs::remove_file(path).unwrap();
        assert!(Stage::open(scratch.path(), "a", "key").unwrap().is_none(), "{what}");
    }
}
