//! Caches whose checksums are right and whose entries are not: none is used, none panics.

use std::fs;
use std::num::NonZero;

use fathom_checkpoint::{Plan, Rule};
use fathom_kernels::Isa;
use fathom_kernels::gemm::WeightFormat;
use fathom_packed::Packed;
use serde_json::Value;

use super::*;

/// An entry: name, list of pieces, bytes.
type Written = (String, Value, Vec<u8>);

/// What there is to open, with a cache of it.
struct Case {
    scratch: tempfile::TempDir,
    config: Config,
    checkpoint: Checkpoint,
    compute: Compute,
    options: LoadOptions,
}

impl Case {
    fn of(fixture: &str, storage: Storage) -> Self {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(fixture);
        for file in ["config.json", "model.safetensors"] {
            fs::copy(from.join(file), scratch.path().join(file)).expect("the fixture has it");
        }
        let config = Config::read(scratch.path()).expect("valid");
        let checkpoint = config.open_checkpoint(scratch.path()).expect("valid");
        let cache = CacheUse::Directory(scratch.path().join("cache"));
        let options = LoadOptions { mtp: true, cache, ..LoadOptions::new(storage) };
        let compute = Compute::with_isa(Isa::Scalar, 1);
        let case = Self { scratch, config, checkpoint, compute, options };
        let (_, outcome) = weights(&case.request(), &mut |_, _| ()).expect("it loads");
        assert!(matches!(outcome, CacheOutcome::Written { .. }), "{outcome:?}");
        case
    }

    fn request(&self) -> Request<'_> {
        Request {
            path: self.scratch.path(),
            config: &self.config,
            checkpoint: &self.checkpoint,
            compute: &self.compute,
            options: &self.options,
        }
    }

    /// The entries of the cache.
    fn entries(&self) -> Vec<Written> {
        let (places, key) = (self.request().places(), self.request().key().expect("files"));
        let Outcome::Ready(packed) = Packed::open_in(&places, &key, NonZero::<usize>::MIN) else {
            panic!("it was written just now")
        };
        let entry = |entry: &fathom_packed::Entry| {
            (entry.name().to_owned(), entry.meta().expect("JSON"), packed.bytes(entry).to_vec())
        };
        packed.entries().iter().map(entry).collect()
    }

    /// What comes of opening a cache of these entries.
    fn open(&self, entries: &[Written]) -> std::result::Result<Weights, Reason> {
        let (places, key) = (self.request().places(), self.request().key().expect("files"));
        let mut writer = Writer::create_in(&places, &key, Limits::default()).expect("space");
        for (name, meta, bytes) in entries {
            writer.append(name, meta, bytes).expect("space");
        }
        writer.finish(NonZero::<usize>::MIN).expect("space");
        self.request().open(&places, &key)
    }
}

#[test]
fn entries_that_do_not_fit_the_configuration_are_not_used() {
    let case = Case::of("tiny-v3-mtp", WeightFormat::Bf16.into());
    let entries = case.entries();
    assert!(case.open(&entries).is_ok(), "unchanged they fit");
    let refused = |what: &str, change: &dyn Fn(&mut Vec<Written>)| {
        let mut changed = entries.clone();
        change(&mut changed);
        match case.open(&changed) {
            Err(Reason::Entry { .. }) => {}
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what}: used"),
        }
    };
    for entry in [0, 1, entries.len() - 2, entries.len() - 1] {
        refused(&format!("entry {entry} missing"), &|entries| drop(entries.remove(entry)));
    }
    let pieces = entries[1].1.as_array().expect("a list").len();
    // A vector, matrices, the last.
    for piece in [0, 1, 2, pieces - 1] {
        refused(&format!("piece {piece} missing"), &|entries| {
            entries[1].1.as_array_mut().expect("a list").remove(piece);
        });
        let fields: [(usize, &[Value]); 6] = [
            (0, &["table".into(), "matrix5".into()]),
            (1, &["int3".into(), 5.into()]),
            (2, &[0.into(), 7.into(), u64::MAX.into(), (-1).into()]),
            (3, &[0.into(), 9.into(), u64::MAX.into()]),
            (4, &[true.into()]),
            (6, &[0.into(), 64.into(), u64::MAX.into()]),
        ];
        for (field, values) in fields {
            for value in values {
                refused(&format!("piece {piece}: field {field} is {value}"), &|entries| {
                    entries[1].1[piece][field] = value.clone();
                });
            }
        }
        for offset in [u64::MAX, 1 << 40] {
            refused(&format!("piece {piece} from {offset} on"), &|entries| {
                entries[1].1[piece][5] = offset.into();
            });
        }
    }
    refused("a matrix off its cache line", &|entries| {
        let offset = entries[1].1[1][5].as_u64().expect("a number");
        entries[1].1[1][5] = (offset + 1).into();
    });
    refused("a piece too many", &|entries| {
        let first = entries[1].1[0].clone();
        entries[1].1.as_array_mut().expect("a list").push(first);
    });
    refused("no list", &|entries| entries[1].1 = "pieces".into());
}

#[test]
fn every_way_to_hold_weights_has_a_name_and_a_text_of_its_own() {
    let plan = |format| Plan { rules: vec![Rule::new("*.mlp.*", format).expect("a format")] };
    let mut storages: Vec<(Storage, &str)> = vec![
        (Storage::as_stored(), "stored-bf16"),
        (WeightFormat::F32.into(), "f32"),
        (WeightFormat::Bf16.into(), "bf16"),
        (Storage::quantized(plan("q8_0")), "plan-"),
        (Storage::quantized(plan("q4_0")), "plan-"),
    ];
    storages.extend(Storage::presets().map(|name| {
        let start = if name == "int4-mixed" { "int4-mixed-stored-bf16" } else { "" };
        (Storage::quantized(Storage::preset(name).expect("listed")), start)
    }));
    let mut seen: Vec<(String, String)> = Vec::new();
    for (storage, start) in &storages {
        for mtp in [false, true] {
            let (id, text) = (options_id(storage, mtp), options_text(storage, mtp));
            assert!(id.starts_with(start), "{id}");
            let agree = |(its_id, its_text): &(String, String)| (*its_id == id) == (*its_text == text);
            assert!(seen.iter().all(agree), "{id} {text}");
            seen.push((id, text));
        }
    }
}
