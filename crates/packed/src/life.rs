//! A cache and its source, which is left alone, copied, touched and changed, under a clock that tests move.

use crate::source::Source;
use crate::{Key, Limits, Outcome, Packed, Reason, Writer};
use std::fs::{self, File, FileTimes};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const TWO: NonZero<usize> = NonZero::new(2).unwrap();
const MINUTE: Duration = Duration::from_secs(60);

/// When the source is looked at, by its clock.
#[derive(Clone, Copy)]
enum Clock {
    /// Its files may still change without a trace.
    AtOnce,
    /// They are older than any doubt.
    Later,
}
use Clock::{AtOnce, Later};

/// A checkpoint of two files and its cache.
struct Life {
    scratch: tempfile::TempDir,
}

impl Life {
    fn new() -> Self {
        let life = Self { scratch: tempfile::tempdir().unwrap() };
        fs::write(life.file("a"), "first").unwrap();
        fs::write(life.file("b"), "second").unwrap();
        life
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn key(&self, files: [&str; 2], clock: Clock) -> Key {
        let now = match clock {
            AtOnce => SystemTime::now() - MINUTE,
            Later => SystemTime::now() + MINUTE,
        };
        let source = Source::at(&files.map(|name| self.file(name)), now).unwrap();
        Key { source, layout: "1".to_owned(), options: "int4".to_owned() }
    }

    fn write(&self, clock: Clock) {
        let limits = Limits { spare_bytes: 0, ..Limits::default() };
        let mut writer =
            Writer::create(&self.file("x.packed"), &self.key(["a", "b"], clock), limits).unwrap();
        writer.append("a", &(), b"abc").unwrap();
        writer.finish(TWO).unwrap();
    }

    fn open(&self, clock: Clock) -> Outcome {
        Packed::open(&self.file("x.packed"), &self.key(["a", "b"], clock), TWO)
    }

    #[track_caller]
    fn ready(&self, clock: Clock, source_was_read: bool) {
        match self.open(clock) {
            Outcome::Ready(packed) => assert_eq!(packed.source_was_read(), source_was_read),
            Outcome::Rebuild(reason) => panic!("{reason}"),
        }
    }

    #[track_caller]
    fn rebuild(&self, expected: &str) {
        match self.open(Later) {
            Outcome::Ready(_) => panic!("used"),
            Outcome::Rebuild(reason) => assert!(reason.to_string().contains(expected), "{reason}"),
        }
    }
}

fn touch(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[test]
fn the_content_of_the_source_decides_and_is_read_when_it_looks_different() {
    let life = Life::new();
    let note = life.file("x.packed.seen");
    // Packed right after the checkpoint was written: a change in the same instant would show nowhere.
    life.write(AtOnce);
    life.ready(AtOnce, true);
    assert!(!note.exists());
    life.ready(Later, true);
    life.ready(Later, false);
    assert!(note.exists());
    fs::remove_file(&note).unwrap();
    life.write(Later);
    life.ready(Later, false);
    assert!(!note.exists());

    let day_ago = SystemTime::now() - Duration::from_secs(86_400);
    touch(&life.file("b"), day_ago);
    life.ready(AtOnce, true);
    life.ready(Later, true);
    // The same bytes in another file.
    fs::copy(life.file("a"), life.file("copy")).unwrap();
    fs::rename(life.file("copy"), life.file("a")).unwrap();
    life.ready(Later, true);
    life.ready(Later, false);

    // Other bytes of the same length and, as far as a program can set it, of the same time.
    fs::write(life.file("b"), "Second").unwrap();
    touch(&life.file("b"), day_ago);
    life.rebuild("b was changed");
    fs::write(life.file("b"), "longer than before").unwrap();
    life.rebuild("b was changed");
    fs::write(life.file("b"), "second").unwrap();
    life.ready(Later, true);

    fs::rename(life.file("b"), life.file("c")).unwrap();
    let outcome = Packed::open(&life.file("x.packed"), &life.key(["a", "c"], Later), TWO);
    assert!(matches!(outcome, Outcome::Rebuild(Reason::OtherFiles)), "{outcome:?}");
}

#[test]
fn a_damaged_note_costs_time_and_nothing_else() {
    let life = Life::new();
    life.write(AtOnce);
    life.ready(Later, true);
    let path = life.file("x.packed.seen");
    let note = fs::read(&path).unwrap();
    for at in (0..note.len()).step_by(11) {
        let mut bad = note.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        life.ready(Later, true);
    }
    fs::write(&path, &note).unwrap();
    life.ready(Later, false);
    fs::write(life.file("a"), "FIRST").unwrap();
    life.rebuild("a was changed");
}
