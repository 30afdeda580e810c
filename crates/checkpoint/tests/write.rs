//! What is written is what is read: by this crate, and by the reference implementation of the format.

use fathom_checkpoint::{
    Checkpoint, Dtype, Error, OutTensor, SafetensorsWriter, ShardedWriter, TensorPlan, WriteOptions,
    write_safetensors,
};
use fathom_numeric::fp8::{F8E4M3, quantize_blocks};
use fathom_numeric::{bf16, f16};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::fs;
use std::path::Path;

fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|position| (position * 31 + seed * 7) as u8).collect()
}

/// Streams `plan` with bytes of [`pattern`], in pieces of `piece`.
fn write_all(
    dir: &Path,
    plan: &[TensorPlan],
    options: &WriteOptions,
    piece: usize,
) -> Vec<std::path::PathBuf> {
    let mut writer = ShardedWriter::create(dir, plan.to_vec(), options).unwrap();
    for (seed, tensor) in plan.iter().enumerate() {
        writer.begin(&tensor.name).unwrap();
        for piece in pattern(tensor.byte_len().unwrap() as usize, seed).chunks(piece) {
            writer.write(piece).unwrap();
        }
    }
    writer.finish().unwrap()
}

fn small(max_shard_bytes: u64) -> WriteOptions {
    WriteOptions { max_shard_bytes, overwrite: false }
}

const DTYPES: [Dtype; 5] = [Dtype::F32, Dtype::BF16, Dtype::F8E4M3, Dtype::I64, Dtype::U8];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_plan_survives_the_round_trip(
        tensors in prop::collection::vec((0..5usize, prop::collection::vec(0..9usize, 0..4)), 0..12),
        max_shard_bytes in 0..600u64,
        piece in 1..700usize,
    ) {
        let plan: Vec<TensorPlan> = tensors
            .into_iter()
            .enumerate()
            .map(|(number, (dtype, shape))| TensorPlan::new(format!("t.{number}\n\"é"), DTYPES[dtype], shape))
            .collect();
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("new/model");
        let files = write_all(&dir, &plan, &small(max_shard_bytes), piece);

        let checkpoint = Checkpoint::open(&dir).unwrap();
        prop_assert_eq!(checkpoint.names().count(), plan.len());
        for (seed, tensor) in plan.iter().enumerate() {
            let view = checkpoint.tensor(&tensor.name).unwrap();
            prop_assert_eq!((view.dtype, view.shape), (tensor.dtype, &tensor.shape[..]));
            prop_assert_eq!(view.bytes, &pattern(view.bytes.len(), seed)[..]);
        }
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "safetensors")) {
            let bytes = fs::read(file).unwrap();
            let reference = SafeTensors::deserialize(&bytes).unwrap();
            for (name, tensor) in reference.iter() {
                // torch views the bytes as numbers, and refuses to where they are not aligned.
                let offset = tensor.data().as_ptr() as usize - bytes.as_ptr() as usize;
                let size = checkpoint.tensor(name).unwrap().dtype.size();
                prop_assert!(tensor.data().is_empty() || offset.is_multiple_of(size), "{name} at {offset}");
            }
        }
        let on_disk: Vec<String> = files_in(&dir);
        let mut returned: Vec<String> =
            files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        returned.sort();
        prop_assert_eq!(on_disk, returned);
    }
}

#[test]
fn shards_and_index_are_as_transformers_writes_them() {
    let plan = [
        TensorPlan::new("b", Dtype::F32, [2, 2]),
        TensorPlan::new("a", Dtype::BF16, [4]),
        TensorPlan::new("c", Dtype::U8, [30]),
    ];
    let scratch = tempfile::tempdir().unwrap();
    write_all(scratch.path(), &plan, &small(24), 5);
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(files_in(scratch.path()), [shards[0], shards[1], "model.safetensors.index.json"]);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(scratch.path().join("model.safetensors.index.json")).unwrap())
            .unwrap();
    let want = serde_json::json!({
        "metadata": { "total_size": 54 },
        "weight_map": { "a": shards[0], "b": shards[0], "c": shards[1] },
    });
    assert_eq!(index, want);
    let bytes = fs::read(scratch.path().join(shards[0])).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn rounds_f32_to_the_planned_dtype() {
    let values: Vec<f32> = (0..3000).map(|i| (i as f32 - 1500.0) * 0.123_456_7).collect();
    let scratch = tempfile::tempdir().unwrap();
    let plan =
        [Dtype::F32, Dtype::F16, Dtype::BF16].map(|dtype| TensorPlan::new(dtype.name(), dtype, [30, 100]));
    let mut writer = ShardedWriter::create(scratch.path(), plan.to_vec(), &small(1)).unwrap();
    for tensor in &plan {
        writer.begin(&tensor.name).unwrap();
        writer.write_f32(&values[..1]).unwrap();
        writer.write_f32(&values[1..]).unwrap();
    }
    writer.finish().unwrap();
    let checkpoint = Checkpoint::open(scratch.path()).unwrap();
    let check = |name: &str, want: &dyn Fn(f32) -> f32| {
        let mut out = vec![0.0; 3000];
        checkpoint.matrix(name, [30, 100]).unwrap().rows_f32(0..30, &mut out).unwrap();
        let want: Vec<f32> = values.iter().map(|&value| want(value)).collect();
        assert_eq!(out, want, "{name}");
    };
    check("F32", &|value| value);
    check("F16", &|value| f16::from_f32(value).to_f32());
    check("BF16", &|value| bf16::from_f32(value).to_f32());
}

/// Writes an FP8 matrix with scales in `scale_dtype`, and compares every row against the definition.
fn check_blocks([rows, cols]: [usize; 2], block: [usize; 2], scale_dtype: Dtype) {
    let grid = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
    let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 0x7f) as u8 | ((i % 3) << 7) as u8).collect();
    let codes: Vec<u8> = codes.into_iter().map(|code| if code & 0x7f == 0x7f { 0 } else { code }).collect();
    // Powers of two, so that every scale dtype holds them, and each block another.
    let exponents: Vec<i32> = (0..grid[0] * grid[1]).map(|i| i as i32 % 20 - 10).collect();
    let scale_bytes: Vec<u8> = exponents
        .iter()
        .flat_map(|&exponent| match scale_dtype {
            Dtype::F32 => 2f32.powi(exponent).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(2f32.powi(exponent)).to_le_bytes().to_vec(),
            _ => vec![(exponent + 127) as u8],
        })
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.safetensors");
    let tensor = |name: &str, dtype, shape: [usize; 2], bytes| OutTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.into(),
        bytes,
    };
    let tensors = [
        tensor("w.weight", Dtype::F8E4M3, [rows, cols], &codes[..]),
        tensor("w.weight_scale_inv", scale_dtype, grid, &scale_bytes[..]),
    ];
    write_safetensors(&path, &tensors).unwrap();
    let mut checkpoint = Checkpoint::open(&path).unwrap();
    checkpoint.set_fp8_block(block).unwrap();
    let matrix = checkpoint.matrix("w.weight", [rows, cols]).unwrap();
    let mut out = vec![0.0; cols];
    for row in 0..rows {
        matrix.rows_f32(row..row + 1, &mut out).unwrap();
        for (col, &got) in out.iter().enumerate() {
            let scale = 2f32.powi(exponents[row / block[0] * grid[1] + col / block[1]]);
            let want = F8E4M3(codes[row * cols + col]).to_f32() * scale;
            assert_eq!(
                got.to_bits(),
                want.to_bits(),
                "[{rows}, {cols}] / {block:?} {scale_dtype} at {row}, {col}"
            );
        }
    }
}

#[test]
fn fp8_blocks_ragged_and_not() {
    check_blocks([576, 300], [128, 128], Dtype::F32);
    check_blocks([576, 300], [128, 128], Dtype::BF16);
    check_blocks([576, 300], [128, 128], Dtype::F8E8M0);
    check_blocks([256, 128], [128, 128], Dtype::F32);
    check_blocks([1, 1], [128, 128], Dtype::F32);
    check_blocks([129, 127], [128, 128], Dtype::F32);
    check_blocks([10, 7], [3, 2], Dtype::F32);
}

#[test]
fn what_numeric_quantizes_reads_back_close() {
    let (rows, cols) = (200, 150);
    let weights: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1000) as f32 - 500.0) * 1e-4).collect();
    for power_of_two in [false, true] {
        let quantized = quantize_blocks(&weights, rows, cols, power_of_two);
        let codes: Vec<u8> = quantized.codes.iter().map(|code| code.0).collect();
        let scratch = tempfile::tempdir().unwrap();
        let plan = vec![
            TensorPlan::new("w.weight", Dtype::F8E4M3, [rows, cols]),
            TensorPlan::new("w.weight_scale_inv", Dtype::F32, [2, 2]),
        ];
        let mut writer = ShardedWriter::create(scratch.path(), plan, &WriteOptions::default()).unwrap();
        writer.begin("w.weight").unwrap();
        writer.write(&codes).unwrap();
        writer.begin("w.weight_scale_inv").unwrap();
        writer.write_f32(&quantized.scale_inv).unwrap();
        writer.finish().unwrap();
        let checkpoint = Checkpoint::open(scratch.path()).unwrap();
        let mut out = vec![0.0; rows * cols];
        checkpoint.matrix("w.weight", [rows, cols]).unwrap().rows_f32(0..rows, &mut out).unwrap();
        for (got, want) in out.iter().zip(&weights) {
            // Half a unit of three mantissa bits, and the subnormal step of the largest block.
            assert!((got - want).abs() <= want.abs() / 16.0 + 0.05 / 448.0 / 256.0, "{got} for {want}");
        }
    }
}

#[test]
fn an_unfinished_writer_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = vec![TensorPlan::new("a", Dtype::F32, [4]), TensorPlan::new("b", Dtype::F32, [4])];
    let mut writer = ShardedWriter::create(scratch.path(), plan.clone(), &small(1)).unwrap();
    writer.begin("a").unwrap();
    writer.write(&[0; 16]).unwrap();
    writer.begin("b").unwrap();
    assert_eq!(files_in(scratch.path()).len(), 2, "both shards are there under temporary names");
    assert!(files_in(scratch.path()).iter().all(|name| name.ends_with(".partial")));
    drop(writer);
    assert!(files_in(scratch.path()).is_empty());

    let writer = ShardedWriter::create(scratch.path(), plan, &small(1)).unwrap();
    assert!(matches!(writer.finish(), Err(Error::WriteOrder { .. })));
    assert!(files_in(scratch.path()).is_empty());
}

#[test]
fn a_caller_that_does_not_follow_the_plan() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.safetensors");
    let plan = vec![TensorPlan::new("a", Dtype::F32, [4]), TensorPlan::new("b", Dtype::U8, [4])];
    let mut writer = SafetensorsWriter::create(&path, plan).unwrap();
    let length = |result: Result<(), Error>, name: &str, want: u64, have: u64| match result {
        Err(Error::WriteLength { tensor, expected, got, .. }) => {
            assert_eq!((tensor.as_str(), expected, got), (name, want, have))
        }
        other => panic!("expected WriteLength, got {other:?}"),
    };
    let order = |result: Result<(), Error>, want: &str, have: &str| match result {
        Err(Error::WriteOrder { expected, got, .. }) => assert_eq!((&*expected, &*got), (want, have)),
        other => panic!("expected WriteOrder, got {other:?}"),
    };
    length(writer.write(&[0]), "", 0, 1);
    order(writer.begin("b"), "a", "b");
    writer.begin("a").unwrap();
    writer.write(&[0; 15]).unwrap();
    length(writer.write(&[0; 2]), "a", 16, 17);
    length(writer.begin("b"), "a", 16, 15);
    writer.write(&[0]).unwrap();
    writer.begin("b").unwrap();
    assert!(matches!(writer.write_f32(&[1.0]), Err(Error::WrongDtype { got: Dtype::U8, .. })));
    writer.write(&[0; 4]).unwrap();
    order(writer.begin("c"), "no further tensor", "c");
    writer.finish().unwrap();
    assert_eq!(files_in(scratch.path()), ["x.safetensors"]);

    let bad = |plan: Vec<TensorPlan>, reason: &str| {
        let error = ShardedWriter::create(scratch.path(), plan, &small(1)).unwrap_err();
        assert!(matches!(error, Error::BadPlan { .. }) && error.to_string().contains(reason), "{error}");
    };
    let a = || TensorPlan::new("a", Dtype::U8, [1]);
    bad(vec![a(), a()], "twice");
    bad(vec![TensorPlan::new("a", Dtype::F32, [usize::MAX, 2])], "overflows");
    bad(
        vec![TensorPlan::new("a", Dtype::U8, [usize::MAX]), TensorPlan::new("b", Dtype::U8, [2])],
        "overflows",
    );
    bad(vec![TensorPlan::new("__metadata__", Dtype::U8, [1])], "reserves");
}

#[test]
fn after_an_error_the_writer_refuses_and_does_not_panic() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = vec![TensorPlan::new("a", Dtype::F32, [4]), TensorPlan::new("b", Dtype::F32, [4])];
    let mut writer = ShardedWriter::create(scratch.path(), plan, &small(1)).unwrap();
    writer.begin("a").unwrap();
    assert!(matches!(writer.begin("b"), Err(Error::WriteLength { .. })));
    assert!(writer.write(&[0]).is_err());
    assert!(writer.begin("b").is_err());
    assert!(writer.finish().is_err());
    assert!(files_in(scratch.path()).is_empty());
}

#[test]
fn replaces_an_older_checkpoint_only_when_asked_and_wholly() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let plan = |names: &[&str]| -> Vec<TensorPlan> {
        names.iter().map(|name| TensorPlan::new(*name, Dtype::F32, [4])).collect()
    };
    let names =
        |dir: &Path| -> Vec<String> { Checkpoint::open(dir).unwrap().names().map(str::to_owned).collect() };
    fs::write(dir.join("config.json"), "{}").unwrap();
    write_all(dir, &plan(&["a", "b", "c"]), &small(1), 99);
    let refused = ShardedWriter::create(dir, plan(&["d"]), &small(1));
    assert!(matches!(refused, Err(Error::AlreadyExists { .. })));
    assert_eq!(names(dir), ["a", "b", "c"]);

    let overwrite = WriteOptions { max_shard_bytes: 1, overwrite: true };
    drop(ShardedWriter::create(dir, plan(&["d"]), &overwrite).unwrap());
    assert_eq!(names(dir), ["a", "b", "c"], "an abandoned replacement changes nothing");

    // One file, then two shards: neither the old index nor the old single file may be left to be read.
    write_all(dir, &plan(&["d"]), &overwrite, 99);
    assert_eq!(names(dir), ["d"]);
    assert_eq!(files_in(dir), ["config.json", "model.safetensors"]);
    write_all(dir, &plan(&["e", "f"]), &overwrite, 99);
    assert_eq!(names(dir), ["e", "f"]);
    assert_eq!(files_in(dir).len(), 4);

    // What stands in the way is said before anything is written, not when the old files are removed.
    fs::create_dir(dir.join("model.safetensors")).unwrap();
    let refused = ShardedWriter::create(dir, plan(&["g"]), &overwrite);
    assert!(matches!(refused, Err(Error::NotRegular { path }) if path == dir.join("model.safetensors")));
}

#[test]
#[cfg(unix)]
fn asks_for_space_before_writing() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = vec![TensorPlan::new("a", Dtype::U8, [1usize << 60])];
    let error = ShardedWriter::create(scratch.path(), plan.clone(), &WriteOptions::default()).unwrap_err();
    match &error {
        Error::NoSpace { path, needed, available } => {
            assert!(path == scratch.path() && *needed > 1 << 60 && *available < 1 << 60, "{error}");
        }
        other => panic!("expected NoSpace, got {other}"),
    }
    assert!(SafetensorsWriter::create(&scratch.path().join("x.safetensors"), plan).is_err());
    let plan = vec![TensorPlan::new("a", Dtype::U8, [usize::MAX])];
    let error = ShardedWriter::create(scratch.path(), plan, &WriteOptions::default()).unwrap_err();
    assert!(matches!(error, Error::NoSpace { needed: u64::MAX, .. }), "{error}");
    assert!(files_in(scratch.path()).is_empty());
}

#[test]
fn write_safetensors_replaces_atomically() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("out.safetensors");
    let one = |bytes: &'static [u8]| OutTensor { name: "a".into(), dtype: Dtype::U8, shape: vec![3], bytes };
    write_safetensors(&path, &[one(b"abc")]).unwrap();
    assert!(matches!(write_safetensors(&path, &[one(b"ab")]), Err(Error::WriteLength { .. })));
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("a").unwrap().bytes, b"abc");
    write_safetensors(&path, &[one(b"xyz")]).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("a").unwrap().bytes, b"xyz");
    assert_eq!(files_in(scratch.path()), ["out.safetensors"]);
    let nowhere = write_safetensors(&scratch.path().join("no/such/out.safetensors"), &[]);
    assert!(matches!(nowhere, Err(Error::Io { .. })));
}
