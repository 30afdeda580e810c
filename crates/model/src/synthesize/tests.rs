//! Every fixture's configuration, written, loaded and run.

use std::collections::BTreeMap;
use std::fs;

use fathom_checkpoint::Checkpoint;
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_numeric::fp8;
use proptest::prelude::*;

use super::*;
use crate::{ForwardOptions, LoadOptions, LogitRows, Model, MtpSegment, Segment, Sequence, Workspace};

const FIXTURES: [&str; 5] = ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8", "tiny-v3-mtp"];

fn config_json(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    fs::read_to_string(dir.join("config.json")).expect("the fixture has a configuration")
}

fn write(json: &str, options: &SynthesizeOptions, dir: &Path) -> Result<Option<Report>> {
    synthesize(json, Path::new("config.json"), options, dir, &mut |_, _| ControlFlow::Continue(()))
}

#[track_caller]
fn written(json: &str, options: &SynthesizeOptions, dir: &Path) -> Report {
    write(json, options, dir).expect("it is written").expect("nobody asked to stop")
}

fn load(dir: &Path, format: WeightFormat, mtp: bool) -> Model {
    let compute = Compute::new(1).expect("a thread");
    Model::load(dir, compute, LoadOptions { mtp, ..LoadOptions::new(format) }, &mut |_, _| ())
        .expect("it loads")
}

fn bytes_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("readable").path());
    entries
        .map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("readable"))
        })
        .collect()
}

/// Logits of every token of a prompt, `[tokens, vocab_size]`, and the hidden states.
fn run(model: &Model, tokens: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let (mut cache, mut workspace) = (model.new_cache(64).expect("a small cache"), Workspace::default());
    let mut sequence = Sequence::default();
    let segment = Segment { sequence: &mut sequence, tokens, logits: LogitRows::All };
    let logits = model.forward(&mut workspace, &mut cache, &mut [segment], ForwardOptions::default());
    let logits = logits.expect("it runs").to_vec();
    let hidden = model.hidden(&workspace)[..tokens.len() * model.config().hidden_size].to_vec();
    (logits, hidden)
}

/// Finite, of the size that trained models' are, and different from token to token.
#[track_caller]
fn check_logits(logits: &[f32], vocab: usize, what: &str) {
    assert!(logits.iter().all(|logit| logit.is_finite()), "{what}");
    for row in logits.chunks_exact(vocab) {
        let largest = row.iter().fold(0.0f32, |max, logit| max.max(logit.abs()));
        assert!((3.0..20.0).contains(&largest), "{what}: the largest logit is {largest}");
    }
    let best = |row: &[f32]| (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let winners: std::collections::BTreeSet<_> = logits.chunks_exact(vocab).map(best).collect();
    assert!(winners.len() > 1, "{what}: every token is followed by the same one");
}

#[test]
fn what_is_written_loads_and_runs() {
    for name in FIXTURES {
        let scratch = tempfile::tempdir().expect("a directory");
        let json = config_json(name);
        let report = written(&json, &SynthesizeOptions::default(), scratch.path());
        let config = Config::parse(&json, Path::new("x")).expect("valid");
        let mtp = config.num_nextn_predict_layers > 0;
        let held = Checkpoint::open(scratch.path()).expect("a checkpoint");
        assert_eq!((report.tensors, report.bytes), (held.names().count(), held.total_bytes()), "{name}");
        let files = bytes_of(scratch.path());
        assert_eq!(files["config.json"], json.as_bytes(), "{name}: to the letter");
        let tokens = [1, 2, 3, 500, 7, 2];
        for format in [WeightFormat::F32, WeightFormat::Bf16] {
            let model = load(scratch.path(), format, mtp);
            let (logits, hidden) = run(&model, &tokens);
            check_logits(&logits, config.vocab_size, name);
            if mtp {
                let (mut cache, mut workspace) =
                    (model.new_cache(64).expect("a small cache"), Workspace::default());
                let mut sequence = Sequence::default();
                let segment = MtpSegment {
                    sequence: &mut sequence,
                    hidden: &hidden,
                    tokens: &tokens,
                    logits: LogitRows::All,
                };
                let logits = model
                    .forward_mtp(0, &mut workspace, &mut cache, &mut [segment], ForwardOptions::default())
                    .expect("it runs");
                check_logits(logits, config.vocab_size, "mtp");
            }
        }
    }
}

#[test]
fn a_seed_decides_every_byte() {
    let base = SynthesizeOptions { max_shard_bytes: 300_000, ..Default::default() };
    for name in ["tiny-v3-fp8", "tiny-v3-mtp"] {
        let make = |seed, threads| {
            let scratch = tempfile::tempdir().expect("a directory");
            let options = SynthesizeOptions { seed, threads, ..base.clone() };
            written(&config_json(name), &options, scratch.path());
            bytes_of(scratch.path())
        };
        let first = make(7, 1);
        assert!(first.contains_key("model-00002-of-00002.safetensors") || first.len() > 4, "{name}: shards");
        for threads in [1, 2, 5] {
            assert!(make(7, threads) == first, "{name} with {threads} threads");
        }
        let other = make(8, 1);
        let shards = first.keys().filter(|file| file.ends_with(".safetensors"));
        shards.for_each(|file| assert!(first[file] != other[file], "{name}: {file}"));
    }
}

/// The first numbers of a tensor, so that a seed means the same in every later version.
#[test]
fn the_stream_is_fixed() {
    assert_eq!(values::stream_of(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(values::stream_of("a"), 0xaf63_dc4c_8601_ec8c);
    let config = Config::parse(&config_json("tiny-v2-lite"), Path::new("x")).expect("valid");
    let values = &mut plan(&config, Dtype::F32, 0)[0];
    assert_eq!(values.kind, Kind::Embedding);
    // Stream 0 of the zero key begins with the bytes 3e 00 ef 2f 89 5f 40 d6 (ChaCha8's test vector).
    values.stream = 0;
    let mut out = [0.0; 2];
    values.fill(0, &mut out);
    let want = [0x2fef_003ei32, 0xd640_5f89u32 as i32].map(|word| word as f32 * 3f32.sqrt() / 2f32.powi(31));
    assert_eq!(out, want);
}

#[test]
fn any_part_can_be_made_alone_and_has_the_promised_moments() {
    let config = Config::parse(&config_json("tiny-v3"), Path::new("x")).expect("valid");
    for values in plan(&config, Dtype::F32, 3) {
        let count = values.elements() as usize;
        let mut whole = vec![0.0; count];
        values.fill(0, &mut whole);
        let first = count / 3;
        let mut part = vec![0.0; count - first];
        values.fill(first as u64, &mut part);
        assert_eq!(part, whole[first..], "{}", values.spec.name);
        if count < 2000 {
            continue;
        }
        let square = |value: &f32| f64::from(*value).powi(2);
        let deviation = (whole.iter().map(square).sum::<f64>() / count as f64).sqrt();
        let columns = (values.shape()[1] as f64).sqrt();
        let want = match values.kind {
            Kind::Embedding => 1.0,
            Kind::Head => 2.0 / columns,
            Kind::Router => 1.5 / columns,
            _ => 1.0 / columns,
        };
        assert!((deviation / want - 1.0).abs() < 0.05, "{}: {deviation}, not {want}", values.spec.name);
    }
}

#[test]
fn copies_are_copies_and_a_tied_head_is_not_stored() {
    let scratch = tempfile::tempdir().expect("a directory");
    written(&config_json("tiny-v3-mtp"), &SynthesizeOptions::default(), scratch.path());
    let held = Checkpoint::open(scratch.path()).expect("a checkpoint");
    let bytes = |name: &str| held.tensor(name).expect("stored").bytes;
    let mtp = names::Layer(3);
    assert_eq!(bytes(&mtp.embed_tokens()), bytes(names::EMBED_TOKENS));
    assert_eq!(bytes(&mtp.shared_head_head()), bytes(names::LM_HEAD));
    assert_ne!(bytes(names::EMBED_TOKENS), bytes(names::LM_HEAD));

    let scratch = tempfile::tempdir().expect("a directory");
    let tied = config_json("tiny-v2-lite")
        .replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    written(&tied, &SynthesizeOptions::default(), scratch.path());
    assert!(!Checkpoint::open(scratch.path()).expect("a checkpoint").contains(names::LM_HEAD));
    let model = load(scratch.path(), WeightFormat::F32, false);
    check_logits(&run(&model, &[1, 2, 3, 4]).0, 512, "tied");
}

#[test]
fn biases_dtypes_and_layers_follow_the_configuration() {
    let scratch = tempfile::tempdir().expect("a directory");
    let json = config_json("tiny-v2-lite")
        .replace("\"attention_bias\": false", "\"attention_bias\": true, \"mlp_bias\": true")
        .replace("\"torch_dtype\": \"float32\"", "\"dtype\": \"float16\"");
    let json = with_layers(&json, Path::new("x"), 2).expect("two of three layers");
    written(&json, &SynthesizeOptions::default(), scratch.path());
    let held = Checkpoint::open(scratch.path()).expect("a checkpoint");
    assert!(held.tensors().all(|tensor| tensor.dtype == Dtype::F16));
    assert!(held.contains("model.layers.1.self_attn.o_proj.bias"));
    assert!(!held.contains("model.layers.2.input_layernorm.weight"));
    let config = Config::read(scratch.path()).expect("valid");
    assert_eq!((config.num_hidden_layers, config.first_k_dense_replace), (2, 1));
    check_logits(&run(&load(scratch.path(), WeightFormat::F32, false), &[1, 2, 3, 4]).0, 512, "bias");
}

#[test]
fn impossible_layers_and_dtypes_are_refused() {
    let json = config_json("tiny-v3");
    for layers in [0, 4, usize::MAX] {
        let message =
            with_layers(&json, Path::new("dir/config.json"), layers).expect_err("refused").to_string();
        let named = ["num_hidden_layers", "from 1 to 3"].iter().all(|part| message.contains(part));
        assert!(named, "{message}");
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let int8 = json.replace("\"torch_dtype\": \"float32\"", "\"torch_dtype\": \"int8\"");
    let message =
        write(&int8, &SynthesizeOptions::default(), scratch.path()).expect_err("refused").to_string();
    assert!(message.contains("torch_dtype") && message.contains("int8"), "{message}");
    assert_eq!(bytes_of(scratch.path()).len(), 0);
}

#[test]
fn stopping_leaves_nothing_and_an_older_model_whole() {
    let json = config_json("tiny-v3");
    let scratch = tempfile::tempdir().expect("a directory");
    let stop = |dir: &Path, overwrite: bool, after: u64| {
        let files = vec![("tokenizer.json".to_owned(), b"{}".to_vec())];
        let options = SynthesizeOptions {
            overwrite,
            files,
            threads: 2,
            max_shard_bytes: 300_000,
            ..Default::default()
        };
        let mut progress = |done: u64, total: u64| {
            if done * 100 > total * after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let report = synthesize(&json, Path::new("x"), &options, dir, &mut progress);
        assert_eq!(report.expect("stopping is no error"), None);
    };
    for after in [0, 60, 99] {
        let dir = scratch.path().join("new");
        stop(&dir, false, after);
        assert!(!dir.exists(), "{after} %");
    }
    let dir = scratch.path().join("old");
    let report = written(&json, &SynthesizeOptions::default(), &dir);
    let old = bytes_of(&dir);
    assert_eq!(old.len(), report.files.len());
    stop(&dir, true, 60);
    assert!(bytes_of(&dir) == old, "the older model is untouched");
    let message =
        write(&json, &SynthesizeOptions::default(), &dir).expect_err("it is there already").to_string();
    assert!(message.contains("already exists"), "{message}");
    assert!(bytes_of(&dir) == old);
    let options = SynthesizeOptions { seed: 1, overwrite: true, ..Default::default() };
    written(&json, &options, &dir);
    assert!(bytes_of(&dir) != old && bytes_of(&dir).len() == old.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// A band at a time, as the plain definition over the whole matrix.
    #[test]
    fn bands_quantize_as_defined(rows in 1usize..300, cols in 1usize..300, power_of_two: bool, seed: u64) {
        let config = Config::parse(&config_json("tiny-v3-fp8"), Path::new("x")).expect("valid");
        let values = &plan(&config, Dtype::F32, seed)[0];
        let mut numbers = vec![0.0; rows * cols];
        values.fill(0, &mut numbers);
        let whole = fp8::quantize_blocks(&numbers, rows, cols, power_of_two);
        let (mut codes, mut scales, mut band) = (Vec::new(), Vec::new(), Vec::new());
        for numbers in numbers.chunks(128 * cols) {
            scales.extend(values::quantize_band(numbers, cols, 128, power_of_two, &mut band));
            codes.append(&mut band);
        }
        prop_assert_eq!(codes, whole.codes.iter().map(|code| code.0).collect::<Vec<_>>());
        prop_assert_eq!(scales, whole.scale_inv);
    }
}

/// Odd blocks, and scales that are powers of two where the configuration says so.
#[test]
fn fp8_comes_back_within_its_precision() {
    for (block, scale_fmt) in [([128, 128], ""), ([64, 32], ""), ([128, 128], ", \"scale_fmt\": \"ue8m0\"")] {
        let json =
            config_json("tiny-v3-fp8").replace("\"fmt\": \"e4m3\"", &format!("\"fmt\": \"e4m3\"{scale_fmt}"));
        let mut json: Value = serde_json::from_str(&json).expect("valid");
        json["quantization_config"]["weight_block_size"] = json!(block);
        let scratch = tempfile::tempdir().expect("a directory");
        written(&json.to_string(), &SynthesizeOptions::default(), scratch.path());
        let config = Config::read(scratch.path()).expect("valid");
        let mut held = Checkpoint::open(scratch.path()).expect("a checkpoint");
        held.set_fp8_block(block).expect("not zero");
        let mut seen = 0;
        for values in plan(&config, Dtype::BF16, 0) {
            let name = &values.spec.name;
            let Some([_, _]) = values.block else {
                assert_ne!(held.tensor(name).expect("stored").dtype, Dtype::F8E4M3, "{name}");
                continue;
            };
            let [rows, cols] = values.shape();
            let (mut want, mut got) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
            values.fill(0, &mut want);
            held.matrix(name, [rows, cols]).expect("stored").rows_f32(0..rows, &mut got).expect("finite");
            let largest = want.iter().fold(0.0f32, |max, value| max.max(value.abs()));
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= want.abs() / 16.0 + largest * 1e-4, "{name}: {got} for {want}");
            }
            let scales = held.tensor(&names::scale_name(name)).expect("stored").to_f32().expect("f32");
            let powers = scales.iter().all(|scale| scale.log2().fract() == 0.0);
            assert!(powers || scale_fmt.is_empty(), "{name}");
            seen += 1;
        }
        assert!(seen > 30);
    }
}
