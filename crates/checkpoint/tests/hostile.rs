//! Files that must be refused: each with its own error, whose message says where, what was expected and
//! what was found.

use fathom_checkpoint::{Checkpoint, Dtype, Error, OutTensor, write_safetensors};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A safetensors file from its JSON and data.
fn raw(json: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let json = json.as_ref();
    [&(json.len() as u64).to_le_bytes()[..], json, data].concat()
}

/// Opens `bytes` as a lone file and checks the error: its variant, and the parts its message must have.
fn refused(bytes: &[u8], variant: fn(&Error) -> bool, parts: &[&str]) {
    let scratch = scratch();
    let path = scratch.path().join("evil.safetensors");
    fs::write(&path, bytes).unwrap();
    expect_error(Checkpoint::open(&path).map(|_| ()), variant, &[&["evil.safetensors"], parts].concat());
}

fn expect_error(result: Result<(), Error>, variant: fn(&Error) -> bool, parts: &[&str]) {
    let error = result.expect_err("this must be refused");
    let message = error.to_string();
    assert!(variant(&error), "another error was expected than {error:?}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

macro_rules! is {
    ($variant:ident) => {
        |error| matches!(error, Error::$variant { .. })
    };
}

const A: &str = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;

#[test]
fn a_file_that_is_no_safetensors_file() {
    refused(b"", is!(Truncated), &["expected 8 bytes", "got 0"]);
    refused(b"1234567", is!(Truncated), &["expected 8 bytes", "got 7"]);
    refused(&u64::MAX.to_le_bytes(), is!(HeaderTooLarge), &["18446744073709551615", "at most 100000000"]);
    refused(&100_000_001u64.to_le_bytes(), is!(HeaderTooLarge), &["100000001"]);
    refused(&100_000_000u64.to_le_bytes(), is!(Truncated), &["expected 100000008 bytes", "got 8"]);
    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
        is!(LfsPointer),
        &["git lfs pull"],
    );
}

#[test]
fn a_header_that_cannot_be_read() {
    let malformed = |json: &[u8], parts: &[&str]| refused(&raw(json, &[0; 8]), is!(MalformedHeader), parts);
    malformed(b"{\"\xff\xfe\":1}", &["UTF-8"]);
    malformed(b"", &["EOF"]);
    malformed(b"[]", &["object of tensors"]);
    malformed(b"{", &["EOF"]);
    malformed(b"{}x", &["trailing characters"]);
    malformed(br#"{"a":1}"#, &["\"a\""]);
    malformed(br#"{"a":{"shape":[2],"data_offsets":[0,8]}}"#, &["\"a\"", "dtype"]);
    malformed(br#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, &["\"a\"", "-2"]);
    malformed(br#"{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}"#, &["\"a\"", "2.0"]);
    malformed(br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}}"#, &["\"a\""]);
    malformed(br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, &["\"a\"", "[8, 0]"]);
    malformed(br#"{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}"#, &["\"a\""]);
    malformed(br#"{"__metadata__":{"format":1}}"#, &["string"]);
    malformed(br#"{"__metadata__":{},"__metadata__":{}}"#, &["__metadata__"]);
    malformed("[".repeat(100_000).as_bytes(), &[]);
    malformed(format!(r#"{{"__metadata__":{}"#, "{\"a\":".repeat(100_000)).as_bytes(), &[]);
}

#[test]
fn tensors_that_do_not_tile_the_data() {
    let with = |rest: &str| format!("{{{A},{rest}}}");
    refused(
        &raw(with(r#""b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#), &[0; 8]),
        is!(Offsets),
        &["\"b\"", "begin at byte 8", "got 4"],
    );
    refused(
        &raw(with(r#""b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}"#), &[0; 16]),
        is!(Offsets),
        &["\"b\"", "begin at byte 8", "got 12"],
    );
    refused(
        &raw(with(r#""b":{"dtype":"F32","shape":[3],"data_offsets":[8,16]}"#), &[0; 16]),
        is!(ByteLength),
        &["\"b\"", "F32 [3]", "12 bytes", "got 8"],
    );
    refused(
        &raw(with(r#""b":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[8,8]}"#), &[0; 8]),
        is!(ShapeOverflow),
        &["\"b\"", "[4611686018427387904, 4]"],
    );
    refused(
        &raw(with(r#""b":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]}"#), &[0; 8]),
        is!(MalformedHeader),
        &["\"b\"", "18446744073709551612"],
    );
    refused(
        &raw(with(r#""b":{"dtype":"F4","shape":[2],"data_offsets":[8,9]}"#), &[0; 9]),
        is!(UnsupportedDtype),
        &["\"b\"", "\"F4\"", "BF16"],
    );
    refused(&raw(with(A), &[0; 8]), is!(DuplicateTensor), &["\"a\""]);
    refused(
        &raw(
            r#"{"b":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#,
            &[0],
        ),
        is!(Truncated),
        &["expected 18446744073709551615 bytes"],
    );
    let length = raw(format!("{{{A}}}"), &[]).len();
    refused(
        &raw(format!("{{{A}}}"), &[0; 5]),
        is!(Truncated),
        &[&format!("expected {} bytes", length + 8), &format!("got {}", length + 5)],
    );
    refused(
        &raw(format!("{{{A}}}"), &[0; 9]),
        is!(TrailingBytes),
        &[&format!("{} bytes", length + 8), &format!("got {}", length + 9)],
    );
}

#[test]
fn messages_do_not_pass_control_characters_on() {
    let scratch = scratch();
    let path = scratch.path().join("evil.safetensors");
    let json = r#"{"\u001b[2Jgone":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#;
    fs::write(&path, raw(json, &[0])).unwrap();
    let message = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(message.contains("gone") && !message.contains('\u{1b}'), "{message:?}");
}

#[test]
fn a_path_without_a_checkpoint() {
    let open = |path: &Path| Checkpoint::open(path).map(|_| ());
    let scratch = scratch();
    let dir = scratch.path();
    expect_error(open(&dir.join("nowhere")), is!(Io), &["nowhere"]);
    fs::write(dir.join("golden.safetensors"), b"").unwrap();
    expect_error(open(dir), is!(NoCheckpoint), &["model.safetensors", "model.safetensors.index.json"]);
    fs::write(dir.join("config.json"), b"{}").unwrap();
    expect_error(open(&dir.join("config.json")), is!(UnsupportedFormat), &["config.json", ".safetensors"]);
    fs::write(dir.join("pytorch_model-00001-of-00002.bin"), b"").unwrap();
    expect_error(open(dir), is!(UnsupportedFormat), &["pytorch_model-00001", "pickle", "safe_serialization"]);
    fs::write(dir.join("V2-Lite.Q4_K_M.GGUF"), b"").unwrap();
    expect_error(open(dir), is!(UnsupportedFormat), &["V2-Lite", "GGUF", "path of the .gguf file"]);
    expect_error(open(&dir.join("V2-Lite.Q4_K_M.GGUF")), is!(Truncated), &["V2-Lite", "got 0"]);
}

/// A directory with shards `x` (tensor a) and `y` (tensor b), and the index given.
fn sharded(index: &str) -> TempDir {
    let scratch = scratch();
    for (shard, name) in [("x", "a"), ("y", "b")] {
        let json = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
        fs::write(scratch.path().join(format!("{shard}.safetensors")), raw(json, &[0; 8])).unwrap();
    }
    fs::write(scratch.path().join("model.safetensors.index.json"), index).unwrap();
    scratch
}

fn refused_index(index: &str, variant: fn(&Error) -> bool, parts: &[&str]) {
    let scratch = sharded(index);
    let parts = [&["model.safetensors.index.json"], parts].concat();
    expect_error(Checkpoint::open(scratch.path()).map(|_| ()), variant, &parts);
}

#[test]
fn an_index_and_shards_that_disagree() {
    let good = r#"{"metadata":{"total_size":16},"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#;
    assert_eq!(Checkpoint::open(sharded(good).path()).unwrap().names().collect::<Vec<_>>(), ["a", "b"]);

    let map = |entries: &str| format!(r#"{{"weight_map":{{{entries}}}}}"#);
    let both = r#""a":"x.safetensors","b":"y.safetensors""#;
    refused_index("{", is!(MalformedIndex), &["EOF"]);
    refused_index("{}", is!(MalformedIndex), &["weight_map"]);
    refused_index(&map(""), is!(MalformedIndex), &["got none"]);
    refused_index(&map(r#""a":1"#), is!(MalformedIndex), &["string"]);
    refused_index(&map(&format!(r#"{both},"a":"y.safetensors""#)), is!(MalformedIndex), &["\"a\" twice"]);
    refused_index(
        &map(&format!(r#"{both},"c":"z.safetensors""#)),
        is!(MissingShard),
        &["\"z.safetensors\"", "not there"],
    );
    refused_index(
        &map(&format!(r#"{both},"c":"y.safetensors""#)),
        is!(NotInShard),
        &["\"c\"", "expected in \"y.safetensors\"", "got no such tensor"],
    );
    refused_index(
        &map(r#""a":"y.safetensors","b":"x.safetensors""#),
        is!(NotInShard),
        &["\"a\"", "expected in \"y.safetensors\"", "x.safetensors"],
    );
    let scratch = sharded(&map(r#""a":"x.safetensors""#));
    let json = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"z":{"dtype":"U8","shape":[],"data_offsets":[1,2]}}"#;
    fs::write(scratch.path().join("x.safetensors"), raw(json, &[0; 2])).unwrap();
    let opened = Checkpoint::open(scratch.path()).map(|_| ());
    expect_error(opened, is!(NotInIndex), &["\"z\"", "x.safetensors", "index.json"]);

    let scratch = sharded(&map(both));
    fs::copy(scratch.path().join("x.safetensors"), scratch.path().join("y.safetensors")).unwrap();
    let opened = Checkpoint::open(scratch.path()).map(|_| ());
    expect_error(opened, is!(DuplicateTensor), &["\"a\"", "x.safetensors", "y.safetensors"]);
}

#[test]
fn an_index_that_leads_out_of_its_directory() {
    for shard in
        ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..\\\\x.safetensors", "x.bin", ""]
    {
        let index = format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#);
        refused_index(&index, is!(BadShardName), &["\"a\"", "beside the index"]);
    }
}

fn checkpoint_of(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> (TempDir, Checkpoint) {
    let scratch = scratch();
    let path = scratch.path().join("weights.safetensors");
    let tensors: Vec<OutTensor<'_>> = tensors
        .iter()
        .map(|&(name, dtype, shape, bytes)| OutTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.into(),
            bytes,
        })
        .collect();
    write_safetensors(&path, &tensors).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    (scratch, checkpoint)
}

#[test]
fn a_weight_of_another_kind_than_asked_for() {
    let floats = [1.0f32; 6].map(f32::to_le_bytes).concat();
    let (_scratch, checkpoint) = checkpoint_of(&[
        ("model.w.weight", Dtype::F32, &[2, 3], &floats),
        ("model.ids", Dtype::I32, &[2, 3], &floats),
        ("model.q.weight", Dtype::F8E4M3, &[2, 3], &[0; 6]),
        ("model.r.weight", Dtype::F8E4M3, &[2, 3], &[0; 6]),
        ("model.r.weight_scale_inv", Dtype::F32, &[2, 1], &floats[..8]),
        ("model.s.weight", Dtype::F8E4M3, &[2, 3], &[0; 6]),
        ("model.s.weight_scale_inv", Dtype::I32, &[1, 1], &floats[..4]),
        ("model.v", Dtype::F8E4M3, &[6], &[0; 6]),
    ]);
    let matrix = |name, shape| checkpoint.matrix(name, shape).map(|_| ());
    let vector = |name, len| checkpoint.vector(name, len).map(|_| ());
    let file = "weights.safetensors";
    expect_error(
        matrix("w.weight", [2, 3]),
        is!(MissingTensor),
        &[file, "\"w.weight\"", "nearest", "\"model.w.weight\""],
    );
    expect_error(matrix("zzz", [2, 3]), is!(MissingTensor), &[file, "\"zzz\"", "config.json"]);
    let shape = ["\"model.w.weight\"", "shape [3, 2], got [2, 3]", "config.json"];
    expect_error(matrix("model.w.weight", [3, 2]), is!(WrongShape), &shape);
    expect_error(vector("model.w.weight", 6), is!(WrongShape), &[file, "shape [6], got [2, 3]"]);
    expect_error(matrix("model.ids", [2, 3]), is!(WrongDtype), &[file, "\"model.ids\"", "BF16", "got I32"]);
    expect_error(vector("model.v", 6), is!(WrongDtype), &[file, "got F8_E4M3"]);
    expect_error(
        matrix("model.q.weight", [2, 3]),
        is!(MissingScale),
        &[file, "\"model.q.weight\"", "\"model.q.weight_scale_inv\""],
    );
    expect_error(
        matrix("model.r.weight", [2, 3]),
        is!(WrongShape),
        &[file, "\"model.r.weight_scale_inv\"", "shape [1, 1], got [2, 1]"],
    );
    expect_error(
        matrix("model.s.weight", [2, 3]),
        is!(WrongDtype),
        &[file, "\"model.s.weight_scale_inv\"", "F8_E8M0", "got I32"],
    );
    assert!(matrix("model.w.weight", [2, 3]).is_ok());
}

/// A 2 × 3 matrix with one bad element, and its scales if it is FP8.
fn refused_value(dtype: Dtype, bytes: &[u8], scale: f32, parts: &[&str]) {
    let scale = scale.to_le_bytes();
    let (_scratch, checkpoint) = checkpoint_of(&[
        ("w.weight", dtype, &[2, 3], bytes),
        ("w.weight_scale_inv", Dtype::F32, &[1, 1], &scale),
    ]);
    let mut out = [0.0; 6];
    let read = checkpoint.matrix("w.weight", [2, 3]).and_then(|matrix| matrix.rows_f32(0..2, &mut out));
    expect_error(read, is!(NonFinite), &[&["weights.safetensors"], parts].concat());
    if dtype == Dtype::F32 {
        let matrix = checkpoint.matrix("w.weight", [2, 3]).unwrap();
        assert!(matrix.rows_f32(0..1, &mut out[..3]).is_ok(), "the first row is finite");
    }
}

#[test]
fn weights_that_are_not_finite() {
    let f32s = |bad: f32| [0.0, 1.0, 2.0, 3.0, bad, 5.0].map(f32::to_le_bytes).concat();
    refused_value(Dtype::F32, &f32s(f32::NAN), 1.0, &["\"w.weight\"", "got NaN", "row 1, column 1"]);
    refused_value(Dtype::F32, &f32s(f32::NEG_INFINITY), 1.0, &["got -inf", "row 1, column 1"]);
    let u16s = |bad: u16| [0, 0, bad, 0, 0, 0].map(u16::to_le_bytes).concat();
    refused_value(Dtype::BF16, &u16s(0x7f80), 1.0, &["got inf", "row 0, column 2"]);
    refused_value(Dtype::BF16, &u16s(0xffc0), 1.0, &["got NaN", "row 0, column 2"]);
    refused_value(Dtype::F16, &u16s(0x7c00), 1.0, &["got inf", "row 0, column 2"]);
    refused_value(
        Dtype::F8E4M3,
        &[0, 0, 0, 0, 0, 0xff],
        1.0,
        &["\"w.weight\"", "got NaN", "row 1, column 2"],
    );
    // A finite code and a finite scale whose product is not.
    refused_value(Dtype::F8E4M3, &[0, 0, 0, 0x7e, 0, 0], f32::MAX, &["got inf", "row 1, column 0"]);
    refused_value(
        Dtype::F8E4M3,
        &[0; 6],
        f32::NAN,
        &["\"w.weight_scale_inv\"", "got NaN", "row 0, column 0"],
    );

    let (_scratch, checkpoint) = checkpoint_of(&[("norm", Dtype::BF16, &[6], &u16s(0x7fc0))]);
    expect_error(checkpoint.vector("norm", 6).map(|_| ()), is!(NonFinite), &["\"norm\"", "column 2"]);
}

#[test]
fn a_block_of_nothing() {
    let (_scratch, mut checkpoint) = checkpoint_of(&[("w", Dtype::F32, &[1], &[0; 4])]);
    expect_error(checkpoint.set_fp8_block([128, 0]), is!(Fp8Block), &["[128, 0]"]);
}
