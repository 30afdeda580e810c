//! Our own quantized safetensors, and FP8 rows as blocks.

use fathom_checkpoint::{Checkpoint, Dtype, Error, Plan, SafetensorsWriter, TensorPlan};
use fathom_numeric::blocks::BlockFormat;
use std::path::Path;

fn values(rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|at| (at as f32 * 0.37).sin()).collect()
}

#[test]
fn a_plan_says_what_bytes_mean() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.safetensors");
    // Columns that are no multiple of the block where the format allows it.
    for format in BlockFormat::all() {
        let (rows, cols) = (3, if format.block_len() == 256 { 512 } else { 200 });
        let values = values(rows, cols);
        let mut bytes = vec![0; rows * format.row_bytes(cols)];
        for (row, out) in values.chunks(cols).zip(bytes.chunks_mut(format.row_bytes(cols))) {
            format.encode(row, None, out);
        }
        let plan = vec![
            TensorPlan::new("a.weight", Dtype::Block(format), [rows, cols]),
            TensorPlan::new("b.weight", Dtype::F32, [rows, cols]),
        ];
        let mut writer = SafetensorsWriter::create(&path, plan).unwrap();
        writer.begin("a.weight").unwrap();
        writer.write(&bytes).unwrap();
        writer.begin("b.weight").unwrap();
        writer.write_f32(&values).unwrap();
        writer.finish().unwrap();

        let mut checkpoint = Checkpoint::open(&path).unwrap();
        let stored = checkpoint.tensor("a.weight").unwrap();
        assert_eq!((stored.dtype, stored.shape), (Dtype::U8, &[rows, format.row_bytes(cols)][..]));
        assert!(matches!(
            checkpoint.matrix("a.weight", [rows, cols]),
            Err(Error::WrongShape { .. } | Error::WrongDtype { .. })
        ));

        let rules = serde_json::json!([{ "tensors": "a.*", "format": format.name() }]);
        checkpoint.set_block_formats(Plan::from_json(&rules).unwrap());
        let matrix = checkpoint.matrix("a.weight", [rows, cols]).unwrap();
        assert_eq!((matrix.block_format(), matrix.rows(), matrix.cols()), (Some(format), rows, cols));
        let (mut got, mut want) = (vec![0.0; cols], vec![0.0; cols]);
        for (row, blocks) in bytes.chunks(format.row_bytes(cols)).enumerate() {
            assert_eq!(matrix.row_blocks(row).unwrap(), blocks);
            matrix.rows_f32(row..row + 1, &mut got).unwrap();
            format.decode(blocks, &mut want);
            assert_eq!(got, want, "{}", format.name());
        }
        assert_eq!(checkpoint.matrix("b.weight", [rows, cols]).unwrap().block_format(), None);

        let message =
            checkpoint.matrix("a.weight", [rows, cols + format.block_len()]).unwrap_err().to_string();
        assert!(message.contains("a.weight") && message.contains("shape"), "{message}");
        let rules = serde_json::json!([{ "tensors": "b.*", "format": format.name() }]);
        checkpoint.set_block_formats(Plan::from_json(&rules).unwrap());
        let message = checkpoint.matrix("b.weight", [rows, cols]).unwrap_err().to_string();
        assert!(
            message.contains("b.weight") && message.contains("U8") && message.contains("F32"),
            "{message}"
        );
    }
}

/// An FP8 matrix of `rows` × `cols`, 128 × 128 blocks, with some bytes replaced.
fn fp8(path: &Path, [rows, cols]: [usize; 2], edits: &[(usize, u8)], scale: f32) -> Checkpoint {
    let scales = [rows.div_ceil(128), cols.div_ceil(128)];
    let plan = vec![
        TensorPlan::new("w.weight", Dtype::F8E4M3, [rows, cols]),
        TensorPlan::new("w.weight_scale_inv", Dtype::F32, scales),
    ];
    let mut codes: Vec<u8> = (0..rows * cols).map(|at| (at * 7 % 127) as u8).collect();
    for &(at, code) in edits {
        codes[at] = code;
    }
    let mut writer = SafetensorsWriter::create(path, plan).unwrap();
    writer.begin("w.weight").unwrap();
    writer.write(&codes).unwrap();
    writer.begin("w.weight_scale_inv").unwrap();
    let count = scales[0] * scales[1];
    writer.write_f32(&(0..count).map(|at| scale * (at + 1) as f32).collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
    Checkpoint::open(path).unwrap()
}

#[test]
fn fp8_rows_are_blocks_of_the_same_numbers() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.safetensors");
    for shape @ [rows, cols] in [[130, 300], [1, 128], [129, 1]] {
        let checkpoint = fp8(&path, shape, &[], 0.25);
        let matrix = checkpoint.matrix("w.weight", shape).unwrap();
        assert!(matrix.has_fp8_rows() && matrix.block_format().is_none());
        let (mut want, mut got) = (vec![0.0; cols], vec![0.0; cols]);
        let mut blocks = vec![0xaa; BlockFormat::Fp8.row_bytes(cols)];
        for row in 0..rows {
            matrix.rows_f32(row..row + 1, &mut want).unwrap();
            matrix.fp8_row(row, &mut blocks).unwrap();
            BlockFormat::Fp8.decode(&blocks, &mut got);
            assert_eq!(got, want, "row {row} of {shape:?}");
        }
        let used = cols % 128;
        if used > 0 {
            let last = &blocks[blocks.len() - 128 + used..];
            assert!(last.iter().all(|&code| code == 0), "the tail is filled with zeroes");
        }
    }
    let mut checkpoint = fp8(&path, [4, 128], &[], 0.25);
    checkpoint.set_fp8_block([1, 64]).unwrap();
    assert!(checkpoint.matrix("w.weight", [4, 128]).is_err(), "other scales");
}

#[test]
fn fp8_rows_that_are_no_numbers_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.safetensors");
    let refused = |edits: &[(usize, u8)], scale: f32, place: (usize, usize)| {
        let checkpoint = fp8(&path, [2, 200], edits, scale);
        let matrix = checkpoint.matrix("w.weight", [2, 200]).unwrap();
        let mut blocks = vec![0; BlockFormat::Fp8.row_bytes(200)];
        match matrix.fp8_row(place.0, &mut blocks).unwrap_err() {
            Error::NonFinite { tensor, row, col, .. } => {
                assert_eq!((tensor.as_str(), (row, col)), ("w.weight", place))
            }
            other => panic!("{other}"),
        }
    };
    refused(&[(150, 0x7f)], 0.5, (0, 150));
    refused(&[(203, 0xff)], 0.5, (1, 3));
    refused(&[(0, 0x7e)], 1e38, (0, 0));
}
