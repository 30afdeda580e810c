//! GGUF files: llama.cpp's own conversion of a fixture, ours, and those that must be refused.

use fathom_checkpoint::gguf::{self, Array, GgufWriter, Value};
use fathom_checkpoint::names::{Attention, Layer};
use fathom_checkpoint::{Checkpoint, Dtype, Error, TensorPlan};
use fathom_numeric::blocks::BlockFormat;
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A tensor as numbers.
fn numbers(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    match checkpoint.tensor(name).unwrap().shape {
        &[rows, cols] => {
            let matrix = checkpoint.matrix(name, [rows, cols]).unwrap();
            let mut values = vec![0.0; rows * cols];
            matrix.rows_f32(0..rows, &mut values).unwrap();
            values
        }
        &[len] => checkpoint.vector(name, len).unwrap(),
        other => panic!("{name} has the shape {other:?}"),
    }
}

#[test]
fn what_llama_cpp_converted_is_the_same_model() {
    const HEADS: usize = 5;
    const NOPE: usize = 16;
    const VALUE: usize = 12;
    const LATENT: usize = 24;
    let source = Checkpoint::open(&fixture("tiny-v2")).unwrap();
    let gguf = Checkpoint::open(&fixture("gguf/tiny-v2.gguf")).unwrap();
    let mut split = 0;
    for name in source.names() {
        if let Some(layer) = name.strip_suffix("self_attn.kv_b_proj.weight") {
            let layer = Layer(layer.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap());
            assert_eq!(layer.attention(Attention::KvBProj), name);
            let kv_b = numbers(&source, name);
            let (k_b, v_b) = (numbers(&gguf, &layer.k_b_proj()), numbers(&gguf, &layer.v_b_proj()));
            assert_eq!((k_b.len(), v_b.len()), (HEADS * LATENT * NOPE, HEADS * VALUE * LATENT));
            for head in 0..HEADS {
                for column in 0..LATENT {
                    for row in 0..NOPE {
                        let want = kv_b[(head * (NOPE + VALUE) + row) * LATENT + column];
                        assert_eq!(k_b[(head * LATENT + column) * NOPE + row], want, "{name}");
                    }
                    for row in 0..VALUE {
                        let want = kv_b[(head * (NOPE + VALUE) + NOPE + row) * LATENT + column];
                        assert_eq!(v_b[(head * VALUE + row) * LATENT + column], want, "{name}");
                    }
                }
            }
            split += 1;
            continue;
        }
        assert_eq!(numbers(&gguf, name), numbers(&source, name), "{name}");
    }
    assert_eq!(split, 3);
    assert_eq!(gguf.names().count(), source.names().count() + split);
    assert_eq!(gguf.files().count(), 1);
    let metadata = gguf.gguf().unwrap();
    assert_eq!(metadata.unsigned("deepseek2.block_count").unwrap(), Some(3));
    assert_eq!(metadata.texts("tokenizer.ggml.merges").unwrap().unwrap()[0], "Ġ Ġ");
    assert_eq!(gguf::read_metadata(&fixture("gguf/tiny-v2.gguf")).unwrap(), *metadata);
}

fn metadata(more: &[(&str, Value)]) -> Vec<(String, Value)> {
    let entries =
        [("general.architecture", Value::from("deepseek2"))].into_iter().chain(more.iter().cloned());
    entries.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Writes tensors of running numbers.
fn write(path: &Path, more: &[(&str, Value)], plan: &[TensorPlan]) {
    let mut writer = GgufWriter::create(path, &metadata(more), plan.to_vec()).unwrap();
    for tensor in plan {
        let count: usize = tensor.shape.iter().product();
        writer.begin(&tensor.name).unwrap();
        writer.write_f32(&(0..count).map(|at| at as f32).collect::<Vec<_>>()).unwrap();
    }
    writer.finish().unwrap();
}

fn plan(tensors: &[(&str, &[usize])]) -> Vec<TensorPlan> {
    tensors.iter().map(|&(name, shape)| TensorPlan::new(name, Dtype::F32, shape)).collect()
}

#[test]
fn every_value_comes_back() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.gguf");
    let values = [
        ("u8", Value::U8(7)),
        ("i8", Value::I8(-7)),
        ("u16", Value::U16(700)),
        ("i16", Value::I16(-700)),
        ("u32", Value::U32(70_000)),
        ("i32", Value::I32(-70_000)),
        ("u64", Value::U64(1 << 40)),
        ("i64", Value::I64(-(1 << 40))),
        ("f32", Value::F32(0.1)),
        ("f64", Value::F64(0.1)),
        ("bool", Value::Bool(true)),
        ("text", Value::from("<｜User｜>")),
        ("u8s", Value::Array(Array::U8(vec![1, 2]))),
        ("i8s", Value::Array(Array::I8(vec![-1, 2]))),
        ("u16s", Value::Array(Array::U16(vec![1, 2]))),
        ("i16s", Value::Array(Array::I16(vec![-1, 2]))),
        ("u32s", Value::Array(Array::U32(vec![1, 2]))),
        ("i32s", Value::Array(Array::I32(vec![-1, 2]))),
        ("u64s", Value::Array(Array::U64(vec![1, 2]))),
        ("i64s", Value::Array(Array::I64(vec![-1, 2]))),
        ("f32s", Value::Array(Array::F32(vec![0.5]))),
        ("f64s", Value::Array(Array::F64(vec![0.5]))),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("texts", Value::Array(Array::Text(vec!["a".into(), String::new()]))),
        ("none", Value::Array(Array::Text(vec![]))),
    ];
    write(&path, &values, &plan(&[("token_embd.weight", &[3, 5]), ("blk.0.ffn_up_exps.weight", &[2, 3, 5])]));
    let read = Checkpoint::open(&path).unwrap();
    let got = read.gguf().unwrap();
    assert_eq!(got.iter().count(), values.len() + 1);
    for (key, value) in &values {
        assert_eq!(got.get(key), Some(value), "{key}");
    }
    assert_eq!(got.number("f32").unwrap(), Some(0.1));
    assert_eq!(got.integers("i16s").unwrap(), Some(vec![-1, 2]));
    assert_eq!(read.tensor("model.embed_tokens.weight").unwrap().shape, [3, 5]);
    let expert = numbers(&read, "model.layers.0.mlp.experts.1.up_proj.weight");
    assert_eq!(expert, (15..30).map(|at| at as f32).collect::<Vec<_>>());
    assert!(fs::metadata(&path).unwrap().len().is_multiple_of(32));
    let message = got.unsigned("text").unwrap_err().to_string();
    assert!(
        message.contains("x.gguf") && message.contains("\"text\"") && message.contains("User"),
        "{message}"
    );
}

#[test]
fn blocks_come_as_blocks_and_as_numbers() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.gguf");
    let formats: Vec<BlockFormat> = BlockFormat::all()
        .filter(|format| {
            let plan = vec![TensorPlan::new("output.weight", Dtype::Block(*format), [1, 256])];
            GgufWriter::create(&path, &metadata(&[]), plan).is_ok()
        })
        .collect();
    assert_eq!(formats.len(), 10, "Q4_0 … IQ4_XS");
    for format in formats {
        let (rows, cols) = (3, 512);
        let values: Vec<f32> = (0..rows * cols).map(|at| (at as f32 * 0.37).sin()).collect();
        let mut bytes = vec![0; rows * format.row_bytes(cols)];
        for (row, out) in values.chunks(cols).zip(bytes.chunks_mut(format.row_bytes(cols))) {
            format.encode(row, None, out);
        }
        let plan = vec![TensorPlan::new("output.weight", Dtype::Block(format), [rows, cols])];
        let write = |bytes: &[u8]| {
            let mut writer = GgufWriter::create(&path, &metadata(&[]), plan.clone()).unwrap();
            writer.begin("output.weight").unwrap();
            writer.write(bytes).unwrap();
            writer.finish().unwrap();
            Checkpoint::open(&path).unwrap()
        };
        let read = write(&bytes);
        let matrix = read.matrix("lm_head.weight", [rows, cols]).unwrap();
        assert_eq!((matrix.block_format(), matrix.dtype()), (Some(format), Dtype::Block(format)));
        assert!(!matrix.has_fp8_rows());
        let mut want = vec![0.0; rows * cols];
        for (row, out) in want.chunks_mut(cols).enumerate() {
            let blocks = &bytes[row * format.row_bytes(cols)..][..format.row_bytes(cols)];
            assert_eq!(matrix.row_blocks(row).unwrap(), blocks);
            format.decode(blocks, out);
        }
        let mut got = vec![0.0; 2 * cols];
        matrix.rows_f32(1..3, &mut got).unwrap();
        assert_eq!(got, want[cols..], "{}", format.name());

        // A scale that is NaN: every f16 of 0xffff.
        let at = format.row_bytes(cols) + format.block_bytes();
        bytes[at..at + format.block_bytes()].fill(0xff);
        let read = write(&bytes);
        let matrix = read.matrix("lm_head.weight", [rows, cols]).unwrap();
        for error in [matrix.rows_f32(0..3, &mut want).unwrap_err(), matrix.row_blocks(1).unwrap_err()] {
            let Error::NonFinite { row: 1, col, .. } = error else { panic!("{error}") };
            assert_eq!(col, format.block_len(), "{}", format.name());
        }
        matrix.row_blocks(0).unwrap();
    }
}

#[test]
fn parts_are_one_model() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let split = |number: u16, count: u16, tensors: i32| {
        let number = ("split.no", Value::U16(number));
        [number, ("split.count", Value::U16(count)), ("split.tensors.count", Value::I32(tensors))]
    };
    let first = plan(&[("token_embd.weight", &[4, 8]), ("output_norm.weight", &[8])]);
    let second = plan(&[("output.weight", &[4, 8])]);
    let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    write(&at(names[0]), &split(0, 2, 3), &first);
    write(&at(names[1]), &split(1, 2, 3), &second);
    for name in names {
        let read = Checkpoint::open(&at(name)).unwrap();
        assert_eq!(read.names().count(), 3);
        assert_eq!(read.files().count(), 2);
        assert_eq!(read.gguf().unwrap().file(), at(names[0]));
        assert_eq!(gguf::read_metadata(&at(name)).unwrap().file(), at(names[0]));
    }
    let check = |parts: &[&str]| {
        let error = Checkpoint::open(&at(names[0])).unwrap_err();
        assert!(matches!(error, Error::GgufSplit { .. } | Error::DuplicateTensor { .. }), "{error:?}");
        let message = error.to_string();
        parts.iter().for_each(|part| assert!(message.contains(part), "{part}: {message}"));
    };
    write(&at(names[1]), &split(0, 2, 3), &second);
    check(&["m-00002", "split.no 1", "got 0 and 2"]);
    write(&at(names[1]), &[], &second);
    check(&["m-00002", "missing"]);
    write(
        &at(names[1]),
        &split(1, 2, 3),
        &plan(&[("output.weight", &[4, 8]), ("blk.0.attn_q.weight", &[4, 8])]),
    );
    check(&["split.tensors.count is 3", "4 tensors"]);
    write(&at(names[1]), &split(1, 2, 3), &first[..1]);
    check(&["model.embed_tokens.weight", "again"]);
    fs::remove_file(at(names[1])).unwrap();
    check(&["m-00002-of-00002.gguf", "download"]);
    write(&at("other.gguf"), &split(0, 2, 3), &first);
    let message = Checkpoint::open(&at("other.gguf")).unwrap_err().to_string();
    assert!(message.contains("other.gguf") && message.contains("name-00001-of-00002.gguf"), "{message}");
}

/// A small file, byte by byte, from its numbers.
struct Raw {
    magic: [u8; 4],
    version: u32,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    counts: [Option<u64>; 2],
    data: usize,
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn key(name: &str, code: u32, value: &[u8]) -> Vec<u8> {
    [&text(name.as_bytes())[..], &code.to_le_bytes(), value].concat()
}

/// Dimensions innermost first, as the file has them.
fn tensor(name: &str, dims: &[u64], code: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let head = [&text(name.as_bytes())[..], &(dims.len() as u32).to_le_bytes(), &dims_bytes].concat();
    [&head[..], &code.to_le_bytes(), &offset.to_le_bytes()].concat()
}

fn good() -> Raw {
    Raw {
        magic: *b"GGUF",
        version: 3,
        keys: vec![key("general.architecture", 8, &text(b"deepseek2"))],
        tensors: vec![tensor("output_norm.weight", &[8], 0, 0), tensor("output.weight", &[8, 2], 0, 32)],
        counts: [None, None],
        data: 96,
    }
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.keys.len() as u64];
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        for (said, count) in self.counts.iter().zip(counts) {
            bytes.extend(said.unwrap_or(count).to_le_bytes());
        }
        bytes.extend(self.keys.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

fn open(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("evil.gguf");
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Raw), parts: &[&str]) {
    let mut raw = good();
    change(&mut raw);
    let message = open(&raw.bytes()).expect_err("this must be refused").to_string();
    for part in parts.iter().chain(&["evil.gguf"]) {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn a_good_file_opens() {
    let read = open(&good().bytes()).unwrap();
    assert_eq!(read.names().collect::<Vec<_>>(), ["lm_head.weight", "model.norm.weight"]);
    let mut aligned = good();
    aligned.keys.push(key("general.alignment", 4, &64u32.to_le_bytes()));
    aligned.tensors.truncate(1);
    aligned.data = 128;
    assert_eq!(open(&aligned.bytes()).unwrap().names().count(), 1);
    let mut old = good();
    old.version = 2;
    open(&old.bytes()).unwrap();
}

#[test]
fn heads_that_are_refused() {
    refused(|raw| raw.magic = *b"GGML", &["does not begin with GGUF"]);
    refused(|raw| raw.version = 1, &["version 1", "convert"]);
    refused(|raw| raw.version = 3u32.swap_bytes(), &["big-endian"]);
    refused(|raw| raw.version = 4, &["version 4", "expected 2 or 3"]);
    refused(|raw| raw.counts[0] = Some(u64::MAX), &["18446744073709551615 tensors", "room for"]);
    refused(|raw| raw.counts[1] = Some(1 << 40), &["1099511627776 keys"]);
    refused(|raw| raw.counts[1] = Some(2), &["cannot be read"]);
    let with = |code: u32, value: &'static [u8]| move |raw: &mut Raw| raw.keys.push(key("k", code, value));
    refused(with(13, &[]), &["\"k\"", "value type 13"]);
    refused(with(7, &[2]), &["\"k\"", "a flag", "got 2"]);
    refused(with(8, &[0xff; 8]), &["\"k\"", "bytes of text"]);
    refused(with(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), &["\"k\"", "UTF-8"]);
    refused(with(9, &[9, 0, 0, 0]), &["\"k\"", "arrays of arrays"]);
    refused(with(9, &[77, 0, 0, 0]), &["\"k\"", "element type 77"]);
    refused(with(9, &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), &["\"k\"", "72057594037927936 numbers"]);
    refused(with(9, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), &["\"k\"", "texts"]);
    refused(|raw| (0..2).for_each(|_| raw.keys.push(key("twice", 7, &[1]))), &["\"twice\"", "appears twice"]);
    refused(
        |raw| raw.keys[0] = key("general.architecture", 8, &text(b"llama")),
        &["\"llama\"", "\"deepseek2\""],
    );
    refused(|raw| raw.keys.clear(), &["general.architecture", "no such key"]);
    refused(|raw| raw.keys[0] = key("general.architecture", 7, &[1]), &["a text", "got true"]);
    let align =
        |value: u32| move |raw: &mut Raw| raw.keys.push(key("general.alignment", 4, &value.to_le_bytes()));
    refused(align(0), &["general.alignment", "power of two", "got 0"]);
    refused(align(48), &["general.alignment", "got 48"]);
    refused(align(64), &["output.weight", "begins at 32", "multiple of 64"]);
}

#[test]
fn tensors_that_are_refused() {
    let second = |bytes: Vec<u8>| move |raw: &mut Raw| raw.tensors[1] = bytes;
    let name = "blk.0.ffn_down.weight";
    refused(second(tensor(name, &[8, 1, 1, 1, 1], 0, 32)), &[name, "5 dimensions"]);
    refused(second(tensor(name, &[8, 0], 0, 32)), &[name, "0"]);
    refused(second(tensor(name, &[1 << 62, 8], 0, 32)), &[name, "larger than memory"]);
    refused(second(tensor(name, &[1 << 40, 1], 0, 32)), &["truncated", "4398046511"]);
    refused(second(tensor(name, &[8, 2], 0, u64::MAX - 31)), &["truncated"]);
    refused(second(tensor(name, &[8, 2], 0, 33)), &[name, "begins at 33"]);
    refused(second(tensor(name, &[8, 2], 0, 0)), &[name, "output_norm.weight", "overlap"]);
    refused(second(tensor("output_norm.weight", &[8], 0, 32)), &["output_norm.weight", "again"]);
    refused(second(tensor("model.norm.weight", &[8], 0, 32)), &["model.norm.weight", "again"]);
    refused(second(tensor(name, &[33, 1], 2, 32)), &[name, "rows of 33", "q4_0"]);
    for (code, type_name) in [(10, "Q2_K"), (11, "Q3_K"), (19, "IQ1_S"), (34, "TQ1_0"), (99, "type 99")] {
        refused(second(tensor(name, &[256], code, 32)), &[name, type_name, "Q8_0, Q4_0", "IQ4_XS"]);
    }
    refused(|raw| raw.data = 64, &["truncated"]);
}

#[test]
fn plans_that_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.gguf");
    let check = |keys: &[(&str, Value)], plan: Vec<TensorPlan>, parts: &[&str]| {
        let message = GgufWriter::create(&path, &metadata(keys), plan).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(message.contains(part), "{part}: {message}"));
    };
    let block = |format, cols| vec![TensorPlan::new("a", Dtype::Block(format), [2, cols])];
    check(&[], block(BlockFormat::Int4G64, 256), &["int4-g64", "Q4_0"]);
    check(&[], block(BlockFormat::Fp8, 256), &["fp8"]);
    check(&[], block(BlockFormat::Q6K, 384), &["rows of 384", "q6_k"]);
    check(&[], plan(&[("a", &[1]), ("a", &[1])]), &["twice"]);
    check(&[], plan(&[(&"n".repeat(64), &[1])]), &["63 bytes"]);
    check(&[], plan(&[("a", &[0, 2])]), &["dimensions"]);
    check(&[("general.architecture", Value::U8(1))], vec![], &["general.architecture", "twice"]);
    check(&[("general.alignment", Value::U32(64))], vec![], &["general.alignment"]);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left");
}

static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut raw = good();
    raw.keys.push(key(
        "tokens",
        9,
        &[&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &text(b"a"), &text(b"bc")].concat(),
    ));
    raw.keys.push(key("types", 9, &[&5u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[1; 8]].concat()));
    raw.tensors.push(tensor("blk.0.ffn_up_exps.weight", &[32, 2, 3], 2, 96));
    raw.tensors.push(tensor("blk.0.attn_k_b.weight", &[4, 2, 1], 1, 224));
    raw.data = 256;
    raw.bytes()
});

proptest! {
    /// Any bytes: an error, or a checkpoint all of whose tensors can be read.
    #[test]
    fn damaged_files_never_panic(
        edits in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        wide in prop::option::of((any::<Index>(), prop_oneof![0..300u64, Just(1 << 32), Just(1 << 60), any::<u64>()])),
        cut in prop::option::of(any::<Index>()),
    ) {
        let mut bytes = SMALL.clone();
        let length = bytes.len();
        if let Some((at, number)) = wide {
            let at = at.index(length - 8);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        for (at, byte) in edits {
            bytes[at.index(length)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(length));
        }
        if let Ok(checkpoint) = open(&bytes) {
            for view in checkpoint.tensors() {
                prop_assert_eq!(Some(view.bytes.len()), view.dtype.byte_len(view.shape));
                if let &[rows, cols] = view.shape {
                    let matrix = checkpoint.matrix(view.name, [rows, cols]).unwrap();
                    let _ = matrix.rows_f32(0..rows, &mut vec![0.0; rows * cols]);
                }
            }
        }
    }
}
