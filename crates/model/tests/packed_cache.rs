//! The packed cache gives the weights that packing gives, to the bit, and is never trusted.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fathom_kernels::gemm::WeightFormat;
use fathom_kernels::{Compute, Isa};
use fathom_model::synthesize::{SynthesizeOptions, synthesize};
use fathom_model::{
    CacheOutcome, CacheUse, ForwardOptions, LoadOptions, LogitRows, Model, MtpSegment, Segment, Sequence,
    Storage, Workspace,
};

const TOKENS: [u32; 7] = [1, 17, 4, 200, 33, 4, 9];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A copy of a fixture's configuration and weights, to be changed and written beside.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn of(name: &str) -> Self {
        let scratch = Self(tempfile::tempdir().expect("a temporary directory"));
        fs::create_dir(scratch.model()).expect("an empty directory");
        for file in fs::read_dir(fixture(name)).expect("the fixture is there") {
            let file = file.expect("readable").file_name();
            let text = file.to_string_lossy();
            if text == "config.json" || text.starts_with("model") {
                fs::copy(fixture(name).join(&file), scratch.model().join(&file)).expect("it can be copied");
            }
        }
        scratch
    }

    fn model(&self) -> PathBuf {
        self.0.path().join("model")
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    /// The cache's only file.
    fn file(&self) -> PathBuf {
        let mut files =
            fs::read_dir(self.cache()).expect("it was made").map(|file| file.expect("read").path());
        let file = files.find(|file| file.extension().is_some_and(|end| end == "packed"));
        file.expect("a cache was written")
    }

    fn cached(&self, storage: &Storage, mtp: bool) -> LoadOptions {
        LoadOptions { mtp, cache: CacheUse::Directory(self.cache()), ..LoadOptions::new(storage.clone()) }
    }

    /// The logits of a cached load, and what came of the cache.
    fn run(&self, options: LoadOptions) -> (Vec<u32>, CacheOutcome) {
        load(&self.model(), options)
    }
}

/// The logits' bits of a prompt fed whole and then token by token (both forms of attention), those of the first MTP
/// module if it is loaded; and what came of the cache. What is mapped reads no tensor: no progress is told.
fn load(path: &Path, options: LoadOptions) -> (Vec<u32>, CacheOutcome) {
    let mut last = None;
    let mut progress = |done, total| last = Some((done, total));
    let model = Model::load(path, Compute::with_isa(Isa::best(), 2), options, &mut progress).expect("loads");
    match (model.packed_cache(), last) {
        (CacheOutcome::Mapped, told) => assert_eq!(told, None, "nothing was to be read"),
        (CacheOutcome::Failed(_), _) => {}
        (_, told) => assert!(told.is_some_and(|(done, total)| done == total), "{told:?}"),
    }
    let (mut cache, mut workspace) = (model.new_cache(256).expect("a small cache"), Workspace::default());
    let (mut sequence, mut bits) = (Sequence::default(), Vec::new());
    for tokens in [&TOKENS[..], &[5], &[6]] {
        let segment = Segment { sequence: &mut sequence, tokens, logits: LogitRows::All };
        let logits = model.forward(&mut workspace, &mut cache, &mut [segment], ForwardOptions::default());
        bits.extend(logits.expect("it runs").iter().map(|logit| logit.to_bits()));
    }
    if model.mtp_modules() > 0 {
        let hidden = model.hidden(&workspace).to_vec();
        let segment = MtpSegment {
            sequence: &mut Sequence::default(),
            hidden: &hidden,
            tokens: &[7],
            logits: LogitRows::All,
        };
        let logits =
            model.forward_mtp(0, &mut workspace, &mut cache, &mut [segment], ForwardOptions::default());
        bits.extend(logits.expect("it runs").iter().map(|logit| logit.to_bits()));
    }
    (bits, model.packed_cache().clone())
}

#[track_caller]
fn written(outcome: &CacheOutcome) -> Option<&str> {
    match outcome {
        CacheOutcome::Written { path, bytes, instead } => {
            assert_eq!(fs::metadata(path).expect("it is there").len(), *bytes);
            instead.as_deref()
        }
        other => panic!("{other:?}, where a cache should have been written"),
    }
}

/// The files with tensors, sorted.
fn checkpoint_files(model: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(model).expect("readable").map(|file| file.expect("readable").path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|end| end == "safetensors")).collect();
    files.sort();
    files
}

/// Uncached, written and mapped loads agree.
#[track_caller]
fn check_round_trip(path: &Path, cache: &Path, storage: &Storage, mtp: bool, what: &str) {
    let options = || LoadOptions { mtp, ..LoadOptions::new(storage.clone()) };
    let cached = || LoadOptions { cache: CacheUse::Directory(cache.to_owned()), ..options() };
    let (expected, outcome) = load(path, options());
    assert_eq!(outcome, CacheOutcome::Unused, "{what}");
    let (logits, outcome) = load(path, cached());
    assert_eq!(written(&outcome), None, "{what}");
    assert!(logits == expected, "{what}: written");
    for _ in 0..2 {
        let (logits, outcome) = load(path, cached());
        assert_eq!(outcome, CacheOutcome::Mapped, "{what}");
        assert!(logits == expected, "{what}: mapped");
    }
}

#[test]
fn mapped_weights_are_the_packed_ones() {
    let plan = |name| Storage::quantized(Storage::preset(name).expect("a preset"));
    let rows: [(&str, Storage, bool); 9] = [
        ("tiny-v2-lite", WeightFormat::F32.into(), false),
        ("tiny-v2-lite", plan("int4"), false),
        ("tiny-v2", WeightFormat::Bf16.into(), false),
        ("tiny-v2", plan("q8_0"), false),
        ("tiny-v3", plan("int4-mixed"), false),
        ("tiny-v3", plan("q4_k"), false),
        ("tiny-v3-fp8", Storage::as_stored(), false),
        ("tiny-v3-mtp", WeightFormat::F32.into(), true),
        ("tiny-v3-mtp", plan("int8"), true),
    ];
    for (index, (name, storage, mtp)) in rows.into_iter().enumerate() {
        let scratch = Scratch::of(name);
        check_round_trip(&scratch.model(), &scratch.cache(), &storage, mtp, &format!("row {index}, {name}"));
    }
    let scratch = Scratch::of("tiny-v2");
    check_round_trip(
        &fixture("gguf").join("tiny-v2.gguf"),
        &scratch.cache(),
        &Storage::as_stored(),
        false,
        "gguf",
    );
}

#[test]
fn biases_and_a_tied_embedding_come_back() {
    for name in ["tiny-v2-lite", "tiny-v2"] {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let text = fs::read_to_string(fixture(name).join("config.json")).expect("the fixture has it");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("valid");
        for field in ["attention_bias", "mlp_bias", "tie_word_embeddings"] {
            json[field] = true.into();
        }
        let (text, path) = (json.to_string(), scratch.path().join("model"));
        let options = SynthesizeOptions::default();
        synthesize(&text, Path::new("config.json"), &options, &path, &mut |_, _| ControlFlow::Continue(()))
            .expect("it is written");
        for storage in
            [WeightFormat::Bf16.into(), Storage::quantized(Storage::preset("q4_0").expect("known"))]
        {
            check_round_trip(&path, &scratch.path().join("cache"), &storage, false, name);
        }
    }
}

#[test]
fn a_damaged_cache_is_made_again() {
    let (scratch, storage) = (Scratch::of("tiny-v2-lite"), WeightFormat::Bf16.into());
    let (expected, first) = scratch.run(scratch.cached(&storage, false));
    assert_eq!(written(&first), None);
    let whole = fs::read(scratch.file()).expect("readable");
    let cut = whole[..whole.len() / 2].to_vec();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        (flipped(whole.len() / 2), "damaged"),
        (flipped(whole.len() - 9), "damaged"),
        (flipped(5), "something else"),
        (cut, "bytes and has"),
    ];
    for (bytes, why) in cases {
        fs::write(scratch.file(), bytes).expect("writable");
        let (logits, outcome) = scratch.run(scratch.cached(&storage, false));
        let instead = written(&outcome).expect("there was one");
        assert!(instead.contains(why), "{instead:?} should say {why:?}");
        assert!(logits == expected, "{why}");
        let (logits, outcome) = scratch.run(scratch.cached(&storage, false));
        assert_eq!(outcome, CacheOutcome::Mapped);
        assert!(logits == expected, "{why}, once made again");
    }
}

#[test]
fn another_checkpoint_or_configuration_makes_another_cache() {
    let (scratch, storage) = (Scratch::of("tiny-v3"), WeightFormat::F32.into());
    let (old, _) = scratch.run(scratch.cached(&storage, false));
    // The sign of one weight: same length, other content.
    let mut shards = checkpoint_files(&scratch.model());
    let file = shards.pop().expect("there are weights");
    let mut bytes = fs::read(&file).expect("readable");
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    fs::write(&file, bytes).expect("writable");
    let (logits, outcome) = scratch.run(scratch.cached(&storage, false));
    assert!(written(&outcome).is_some_and(|why| why.contains(".safetensors was changed")), "{outcome:?}");
    assert!(logits != old && logits == scratch.run(LoadOptions::new(storage.clone())).0);

    let config = scratch.model().join("config.json");
    let text = fs::read_to_string(&config).expect("readable");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("valid");
    json["rope_interleave"] = false.into();
    fs::write(&config, json.to_string()).expect("writable");
    let before = logits;
    let (logits, outcome) = scratch.run(scratch.cached(&storage, false));
    assert!(written(&outcome).is_some_and(|why| why.contains("config.json was changed")), "{outcome:?}");
    assert!(logits == scratch.run(LoadOptions::new(storage.clone())).0);
    assert!(logits != before, "rotary rows are packed in another order");

    // Another way to hold weights, MTP or not: other files, which leave this one alone.
    let (_, outcome) = scratch.run(scratch.cached(&WeightFormat::Bf16.into(), false));
    assert_eq!(written(&outcome), None);
    assert_eq!(scratch.run(scratch.cached(&storage, false)).1, CacheOutcome::Mapped);
}

#[test]
fn auto_lies_beside_the_checkpoint_and_leaves_small_models_alone() {
    let scratch = Scratch::of("tiny-v2-lite");
    let auto = |cache_from_bytes| LoadOptions {
        cache: CacheUse::Auto,
        cache_from_bytes,
        ..LoadOptions::new(WeightFormat::Bf16)
    };
    let (expected, outcome) = scratch.run(auto(LoadOptions::new(WeightFormat::Bf16).cache_from_bytes));
    assert_eq!(outcome, CacheOutcome::Unused, "a fixture is small");
    assert!(!scratch.model().join(".fathom").exists());
    let (_, outcome) = scratch.run(auto(0));
    assert_eq!(written(&outcome), None);
    assert!(scratch.model().join(".fathom/bf16.packed").is_file());
    // Once it is there it is used, whatever the size.
    let (logits, outcome) = scratch.run(auto(usize::MAX));
    assert_eq!(outcome, CacheOutcome::Mapped);
    assert!(logits == expected);
}

#[test]
fn a_cache_that_cannot_be_written_is_no_error() {
    let scratch = Scratch::of("tiny-v2-lite");
    fs::write(scratch.cache(), "a file, where a directory should be").expect("writable");
    let storage = WeightFormat::F32.into();
    let (logits, outcome) = scratch.run(scratch.cached(&storage, false));
    assert!(matches!(&outcome, CacheOutcome::Failed(why) if why.contains("cache")), "{outcome:?}");
    assert!(logits == scratch.run(LoadOptions::new(storage)).0);
}
