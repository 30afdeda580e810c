//! The cache as its user sees it: files, keys, changes of the source, writers at the same time.

use fathom_packed::{ALIGNMENT, Error, Key, Limits, Outcome, Packed, Reason, Source, Writer, places};
use proptest::prelude::*;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const TWO: NonZero<usize> = NonZero::new(2).unwrap();
const SMALL: Limits = Limits { planned_bytes: 0, spare_bytes: 0, max_bytes: u64::MAX };

/// A checkpoint of two files and the place of its cache.
struct Bench {
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { scratch: tempfile::tempdir().unwrap() };
        fs::write(bench.file("a"), "first").unwrap();
        fs::write(bench.file("b"), "second").unwrap();
        bench
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn path(&self) -> PathBuf {
        self.file("x.packed")
    }

    fn key(&self) -> Key {
        let source = Source::of(&[self.file("b"), self.file("a")]).unwrap();
        Key { source, layout: "1".to_owned(), options: "int4".to_owned() }
    }

    fn write(&self) {
        write(&self.path(), &self.key(), &[("a", b"abc")]).unwrap();
    }

    fn open(&self) -> Outcome {
        Packed::open(&self.path(), &self.key(), TWO)
    }

    #[track_caller]
    fn ready(&self) {
        let packed = ready(self.open());
        assert_eq!(packed.bytes(packed.entry("a").unwrap()), b"abc");
    }

    #[track_caller]
    fn rebuild(&self, expected: &str) {
        let reason = rebuild(self.open()).to_string();
        assert!(reason.contains(expected), "{reason}");
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.scratch.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // A note that the source was read appears when a slow machine lets the source grow two seconds old.
        names.retain(|name| name != "x.packed.seen");
        names.sort();
        names
    }
}

fn write(path: &Path, key: &Key, entries: &[(&str, &[u8])]) -> fathom_packed::Result<()> {
    let mut writer = Writer::create(path, key, SMALL)?;
    for (name, bytes) in entries {
        writer.append(name, &bytes.len(), bytes)?;
    }
    writer.finish(TWO)
}

#[track_caller]
fn ready(outcome: Outcome) -> Packed {
    match outcome {
        Outcome::Ready(packed) => packed,
        Outcome::Rebuild(reason) => panic!("{reason}"),
    }
}

#[track_caller]
fn rebuild(outcome: Outcome) -> Reason {
    match outcome {
        Outcome::Ready(_) => panic!("used"),
        Outcome::Rebuild(reason) => reason,
    }
}

#[test]
fn what_is_written_comes_back() {
    let bench = Bench::new();
    // Around the sizes of a page and of a chunk, in one write or in many.
    const CHUNK: usize = 2 << 20;
    let lengths = [0, 1, 4095, 4096, 4097, CHUNK - 4096, CHUNK, CHUNK + 1, 0, 3 * CHUNK - 5, 7];
    let bytes = |seed: usize, length: usize| -> Vec<u8> {
        (0..length).map(|i| (i.wrapping_mul(seed * 2 + 77) >> 3) as u8).collect()
    };
    for piece in [usize::MAX, CHUNK + 4096, 65_537] {
        let mut writer = Writer::create(&bench.path(), &bench.key(), SMALL).unwrap();
        for (i, &length) in lengths.iter().enumerate() {
            writer.begin(&format!("entry {i}"), &("int4", i, length)).unwrap();
            for piece in bytes(i, length).chunks(piece) {
                writer.write(piece).unwrap();
            }
        }
        writer.finish(TWO).unwrap();
        let packed = ready(bench.open());
        assert_eq!(packed.entries().len(), lengths.len());
        for (i, &length) in lengths.iter().enumerate() {
            let entry = packed.entry(&format!("entry {i}")).unwrap();
            assert_eq!(entry.meta::<(String, usize, usize)>().unwrap(), ("int4".to_owned(), i, length));
            assert!(entry.range().start.is_multiple_of(ALIGNMENT));
            assert!(packed.bytes(entry).as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert!(packed.bytes(entry) == bytes(i, length), "entry {i}");
            let reason = entry.meta::<bool>().unwrap_err();
            assert!(matches!(reason, Reason::Entry { .. }), "{reason}");
        }
        assert!(packed.entry("entry").is_none());
        let shared: Arc<dyn AsRef<[u8]> + Send + Sync> = packed.mapping().clone();
        let range = packed.entries()[1].range();
        drop(packed);
        assert_eq!(AsRef::<[u8]>::as_ref(&*shared)[range], bytes(1, 1));
    }
    // A cache of nothing is one too.
    write(&bench.path(), &bench.key(), &[]).unwrap();
    assert!(ready(bench.open()).entries().is_empty());
}

#[test]
fn what_is_no_cache_is_rebuilt() {
    let bench = Bench::new();
    bench.rebuild("no packed cache yet");
    fs::create_dir(bench.path()).unwrap();
    bench.rebuild("something else");
    fs::remove_dir(bench.path()).unwrap();
    for text in ["", "text", &"text".repeat(5000)] {
        fs::write(bench.path(), text).unwrap();
        rebuild(bench.open());
    }
    bench.write();
    bench.ready();
}

#[test]
fn a_source_that_changes_while_it_is_packed_is_not_packed() {
    let bench = Bench::new();
    let key = bench.key();
    let mut writer = Writer::create(&bench.path(), &key, SMALL).unwrap();
    writer.append("a", &(), b"abc").unwrap();
    key.source.contents(TWO).unwrap();
    fs::write(bench.file("a"), "other bytes").unwrap();
    let error = writer.finish(TWO).unwrap_err();
    assert!(matches!(&error, Error::SourceChanged { path } if *path == bench.file("a")), "{error}");
    assert_eq!(bench.names(), ["a", "b"]);
    assert!(matches!(Source::of(&[]), Err(Error::NoFiles)));
    assert!(Source::of(&[bench.file("none")]).is_err());
    assert!(matches!(Source::of(&[bench.scratch.path().to_owned()]), Err(Error::NotRegular { .. })));
}

#[test]
fn too_little_space_leaves_nothing_behind_and_says_so() {
    let bench = Bench::new();
    let key = bench.key();
    let with = |limits| Writer::create(&bench.path(), &key, limits);
    let error = with(Limits { planned_bytes: 1 << 60, ..SMALL }).unwrap_err();
    assert!(matches!(error, Error::NoSpace { needed, .. } if needed == 1 << 60), "{error}");
    assert!(error.to_string().contains("FATHOM_CACHE_DIR"), "{error}");
    let error = with(Limits { spare_bytes: u64::MAX, planned_bytes: 1, ..SMALL }).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let error = with(Limits { planned_bytes: 9, max_bytes: 8, ..SMALL }).unwrap_err();
    assert!(matches!(error, Error::OverLimit { limit: 8, needed: 9, .. }), "{error}");

    // Larger than it was planned: an old cache stays until the new one is whole.
    bench.write();
    let mut writer = with(Limits { max_bytes: 5 << 20, ..SMALL }).unwrap();
    writer.append("a", &(), &vec![1; 4 << 20]).unwrap();
    let error = writer.append("b", &(), &vec![1; 4 << 20]).unwrap_err();
    assert!(matches!(error, Error::OverLimit { .. }), "{error}");
    assert!(matches!(writer.append("c", &(), &vec![1; 4 << 20]), Err(Error::OverLimit { .. })));
    assert!(writer.finish(TWO).is_err());
    bench.ready();
    assert_eq!(bench.names(), ["a", "b", "x.packed"]);
}

#[test]
fn mistakes_of_the_writer_are_errors() {
    let bench = Bench::new();
    let mut writer = Writer::create(&bench.path(), &bench.key(), SMALL).unwrap();
    assert!(matches!(writer.write(b"x"), Err(Error::NoEntry { .. })));
    writer.append("a", &(), b"x").unwrap();
    assert!(matches!(writer.begin("a", &()), Err(Error::DuplicateEntry { .. })));
    let no_json = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(matches!(writer.begin("b", &no_json), Err(Error::Meta { .. })));
    drop(writer);
    assert_eq!(bench.names(), ["a", "b"]);
}

#[test]
#[cfg(unix)]
fn the_first_place_that_works_is_taken() {
    let bench = Bench::new();
    let key = bench.key();
    // A file where a directory should be: what even root cannot write into.
    let blocked = bench.file("a").join("x.packed");
    let (first, second) = (bench.file("one/two/x.packed"), bench.file("three/x.packed"));
    assert!(matches!(Packed::open_in(&[blocked.clone(), first.clone()], &key, TWO), Outcome::Rebuild(_)));
    let mut writer =
        Writer::create_in(&[blocked.clone(), first.clone(), second.clone()], &key, SMALL).unwrap();
    assert_eq!(writer.path(), first);
    writer.append("a", &(), b"abc").unwrap();
    writer.finish(TWO).unwrap();
    ready(Packed::open_in(&[blocked.clone(), second, first], &key, TWO));
    let error = Writer::create_in(&[blocked], &key, SMALL).unwrap_err();
    assert!(matches!(&error, Error::NoPlace { tried } if tried.len() == 1), "{error}");
    assert!(error.to_string().contains("x.packed") || error.to_string().contains('a'), "{error}");
    assert!(places(bench.scratch.path(), "int4")[0].ends_with(".fathom/int4.packed"));
}

#[test]
fn writers_and_readers_at_the_same_time_all_end_well() {
    let bench = Bench::new();
    let done = AtomicBool::new(false);
    let contents: Vec<Vec<u8>> = (0..4).map(|i| vec![i; 3 << 20]).collect();
    std::thread::scope(|scope| {
        let writers: Vec<_> = contents
            .iter()
            .map(|bytes| {
                let (path, key) = (bench.path(), bench.key());
                scope.spawn(move || {
                    for _ in 0..3 {
                        write(&path, &key, &[("a", bytes)]).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match bench.open() {
                    Outcome::Ready(packed) => {
                        let bytes = packed.bytes(packed.entry("a").unwrap());
                        assert!(contents.iter().any(|content| content == bytes));
                    }
                    Outcome::Rebuild(reason) => assert!(matches!(reason, Reason::Missing), "{reason}"),
                }
            }
        });
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    ready(bench.open());
    assert_eq!(bench.names(), ["a", "b", "x.packed"]);
}

#[test]
fn a_cache_that_is_replaced_stays_whole_for_those_who_have_it() {
    let bench = Bench::new();
    bench.write();
    let old = ready(bench.open());
    write(&bench.path(), &bench.key(), &[("a", b"new")]).unwrap();
    assert_eq!(old.bytes(old.entry("a").unwrap()), b"abc");
    fs::remove_file(bench.path()).unwrap();
    assert_eq!(old.bytes(old.entry("a").unwrap()), b"abc");
}

/// A file of several chunks: whatever bit flips, wherever it ends, it is not used.
#[test]
fn damage_of_a_file_is_seen() {
    let bench = Bench::new();
    let key = bench.key();
    write(&bench.path(), &key, &[("a", &vec![7; 5 << 20]), ("b", b"b")]).unwrap();
    let bytes = fs::read(bench.path()).unwrap();
    let damaged = bench.file("damaged");
    let place = (any::<prop::sample::Index>(), 0..8u32, any::<bool>());
    proptest!(ProptestConfig::with_cases(64), |((at, bit, cut) in place)| {
        let mut bytes = bytes.clone();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        fs::write(&damaged, bytes).unwrap();
        rebuild(Packed::open(&damaged, &key, TWO));
    });
    fs::write(&damaged, bytes).unwrap();
    ready(Packed::open(&damaged, &key, TWO));
}
