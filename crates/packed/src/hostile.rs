//! Files that are wrong in every way: none may be used, none may panic. On slices, without files.

use crate::layout::{CHUNK, HEADER, Header, TABLE_BYTES_MAX};
use crate::packed::judge;
use crate::{Key, Limits, Reason, Source, Writer, checksum};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

const TWO: NonZero<usize> = NonZero::new(2).unwrap();

/// A small cache: its directory, its key and its bytes.
fn small() -> (TempDir, Key, Vec<u8>) {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("model.safetensors");
    fs::write(&source, "weights").unwrap();
    let source = Source::of(&[source]).unwrap();
    let key = Key { source, layout: "layout 1".to_owned(), options: "int4".to_owned() };
    let path = scratch.path().join("x.packed");
    let mut writer = Writer::create(&path, &key, Limits { spare_bytes: 0, ..Limits::default() }).unwrap();
    writer.append("a", &("bf16", 1, 2), b"four").unwrap();
    writer.append("empty", &(), b"").unwrap();
    writer.finish(TWO).unwrap();
    let bytes = fs::read(Path::new(&path)).unwrap();
    (scratch, key, bytes)
}

fn open(bytes: &[u8], key: &Key) -> Result<(), Reason> {
    judge(bytes, key, || None, NonZero::<usize>::MIN).map(|_| ())
}

#[test]
fn every_flipped_bit_is_seen() {
    let (_scratch, key, mut bytes) = small();
    open(&bytes, &key).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(open(&bytes, &key).is_err(), "bit {bit} of byte {at}");
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn every_truncation_and_every_addition_is_seen() {
    let (_scratch, key, mut bytes) = small();
    for length in 0..bytes.len() {
        let reason = open(&bytes[..length], &key).unwrap_err();
        assert!(matches!(reason, Reason::Truncated { .. }), "{length}: {reason}");
    }
    bytes.push(0);
    assert!(matches!(open(&bytes, &key), Err(Reason::Truncated { .. })));
}

#[test]
fn every_part_of_the_key_counts() {
    let (_scratch, key, mut bytes) = small();
    let with = |change: fn(&mut Key)| {
        let mut key = key.clone();
        change(&mut key);
        open(&bytes, &key).unwrap_err().to_string()
    };
    let layout = with(|key| key.layout.push('x'));
    assert_eq!(layout, r#"the packed cache has the kernel layout "layout 1", this program uses "layout 1x""#);
    let options = with(|key| key.options = "int8".to_owned());
    assert_eq!(options, r#"the packed cache was made with the options "int4", now they are "int8""#);
    bytes[8] += 1;
    assert!(matches!(open(&bytes, &key), Err(Reason::Version { expected: 1, got: 2 })));
}

/// The bytes of `good` with another table and a header that says so; hashes are right where there is
/// something to hash.
fn with_table(good: &[u8], table: &[u8], data_end: u64) -> Vec<u8> {
    let mut bytes = good[..2 * HEADER + 8].to_vec();
    bytes.extend(table);
    let tail = usize::try_from(data_end).ok().and_then(|start| bytes.get(start..));
    let tail_hash = tail.map_or(0, checksum::hash128);
    let header = Header { data_end, file_length: bytes.len() as u64, tail_hash };
    bytes[..HEADER].copy_from_slice(&header.encode());
    bytes
}

fn table_of(good: &[u8]) -> Value {
    serde_json::from_slice(&good[2 * HEADER + 8..]).unwrap()
}

#[test]
fn a_table_says_only_what_is_so() {
    let (_scratch, key, good) = small();
    let data_end = 2 * HEADER as u64;
    let check = |expected: &str, change: &dyn Fn(&mut Value)| {
        let mut table = table_of(&good);
        change(&mut table);
        let result = open(&with_table(&good, table.to_string().as_bytes(), data_end), &key);
        let got = result.err().map_or_else(String::new, |reason| reason.to_string());
        assert!(got.contains(expected) && got.is_empty() == expected.is_empty(), "{expected}: {got}");
    };
    check("", &|_| {});
    check("out of place", &|table| table["entries"][0]["start"] = json!(0));
    check("out of place", &|table| table["entries"][0]["start"] = json!(4097));
    check("out of place", &|table| table["entries"][0]["start"] = json!(8192));
    check("out of place", &|table| table["entries"][0]["length"] = json!(4097));
    check("out of place", &|table| table["entries"][0]["length"] = json!(u64::MAX));
    check("out of place", &|table| table["entries"][0]["length"] = json!(u64::MAX - 4096));
    check("out of place", &|table| table["entries"][1]["start"] = json!(4096));
    check("out of place", &|table| table["entries"][1]["length"] = json!(1));
    check("not readable", &|table| table["entries"][0]["length"] = json!(-1));
    check("not readable", &|table| table["entries"][0]["more"] = json!(1));
    check("not readable", &|table| table["contents"] = json!(["+1234567890123456789012345678901"]));
    check("longer than its entries", &|table| table["entries"] = json!([]));
    check("other files", &|table| table["files"] = json!([]));
    check("was changed", &|table| table["files"][0]["length"] = json!(8));
    // Stamps say that it must be read; that has decided in this process and found the same.
    check("", &|table| table["files"][0]["inode"] = json!(0));
    check("was changed", &|table| {
        table["files"][0]["inode"] = json!(0);
        table["contents"] = json!([]);
    });
    check("was changed", &|table| {
        table["files"][0]["inode"] = json!(0);
        table["contents"] = json!(["0".repeat(32)]);
    });
}

#[test]
fn sizes_that_no_file_has_are_refused() {
    let (_scratch, key, good) = small();
    let table = table_of(&good).to_string();
    for data_end in [0, 4095, 4097, 3 * 4096, 1 << 40, u64::MAX - 4095, u64::MAX] {
        let reason = open(&with_table(&good, table.as_bytes(), data_end), &key).unwrap_err();
        assert!(matches!(reason, Reason::Malformed { .. }), "{data_end}: {reason}");
    }
    let reason = open(&with_table(&good, &vec![b' '; TABLE_BYTES_MAX + 1], 2 * HEADER as u64), &key);
    assert!(reason.unwrap_err().to_string().contains("too large"));
}

#[test]
fn chunks_cover_all_data_once() {
    for data_end in [HEADER, 2 * HEADER, CHUNK - HEADER, CHUNK, CHUNK + HEADER, 3 * CHUNK] {
        let mut end = HEADER;
        for index in 0..data_end.div_ceil(CHUNK) {
            let range = checksum::chunk(index, data_end);
            assert_eq!(range.start, end);
            end = range.end;
        }
        assert_eq!(end, data_end);
    }
}

/// One for all cases: it waits for the disk. Its source is gone, and known.
static SMALL: LazyLock<(Key, Vec<u8>)> = LazyLock::new(|| {
    let (_scratch, key, bytes) = small();
    (key, bytes)
});

proptest! {
    /// Right hashes around whatever a table may be: an answer, never a panic.
    #[test]
    fn any_table_gets_an_answer(
        starts in prop::collection::vec((any::<u64>(), any::<u64>()), 0..4),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        data_end in prop_oneof![Just(8192), any::<u64>(), (0u64..4).prop_map(|page| page * 4096)],
    ) {
        let (key, good) = &*SMALL;
        let mut table = table_of(good);
        for (i, (start, length)) in starts.into_iter().enumerate() {
            let name = i.to_string();
            table["entries"][i % 2] = json!({"name": name, "start": start, "length": length, "meta": "1"});
        }
        let mut table = table.to_string().into_bytes();
        for (at, byte) in noise {
            let at = at.index(table.len());
            table[at] = byte;
        }
        let _ = open(&with_table(good, &table, data_end), key);
    }

    /// Bytes that are nothing at all, behind a right header or none.
    #[test]
    fn any_bytes_get_an_answer(mut bytes in prop::collection::vec(any::<u8>(), 0..9000), right in any::<bool>(), data_end in 0u64..3) {
        let (key, _) = &*SMALL;
        if right && bytes.len() >= HEADER {
            let data_end = data_end * HEADER as u64;
            let tail_hash = bytes.get(data_end as usize..).map_or(0, checksum::hash128);
            let header = Header { data_end, file_length: bytes.len() as u64, tail_hash };
            bytes[..HEADER].copy_from_slice(&header.encode());
        }
        prop_assert!(open(&bytes, key).is_err());
    }
}
