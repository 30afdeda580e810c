//! Converting a large file and giving its pages back does not keep the file resident.
//!
//! Alone in its process, so that no other test's memory is counted.

#![cfg(target_os = "linux")]

use fathom_checkpoint::{Checkpoint, Dtype, ShardedWriter, TensorPlan, WriteOptions};

const ROWS: usize = 8192;
const COLS: usize = 4096;
const STEP: usize = 64;
const FILE_BYTES: usize = ROWS * COLS * 2;

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Decodes the whole matrix, and returns by how much the resident size had grown at most.
fn convert(checkpoint: &Checkpoint, release: bool) -> usize {
    let matrix = checkpoint.matrix("w", [ROWS, COLS]).unwrap();
    let mut out = vec![1.0; STEP * COLS];
    let before = resident();
    let mut peak = before;
    for start in (0..ROWS).step_by(STEP) {
        matrix.rows_f32(start..start + STEP, &mut out).unwrap();
        peak = peak.max(resident());
        if release {
            matrix.release();
        }
    }
    peak - before
}

#[test]
fn released_pages_are_not_resident() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = vec![TensorPlan::new("w", Dtype::BF16, [ROWS, COLS])];
    let mut writer = ShardedWriter::create(scratch.path(), plan, &WriteOptions::default()).unwrap();
    writer.begin("w").unwrap();
    let row: Vec<f32> = (0..COLS).map(|col| col as f32).collect();
    for _ in 0..ROWS {
        writer.write_f32(&row).unwrap();
    }
    writer.finish().unwrap();

    let checkpoint = Checkpoint::open(scratch.path()).unwrap();
    checkpoint.read_sequentially();
    let released = convert(&checkpoint, true);
    assert!(released < FILE_BYTES / 8, "grew by {released} bytes of {FILE_BYTES} while releasing");

    // The same without releasing does keep it: otherwise the line above would prove nothing.
    let kept = convert(&checkpoint, false);
    assert!(kept > FILE_BYTES / 2, "grew by only {kept} bytes of {FILE_BYTES} without releasing");

    // What was released reads again, and is the same.
    let before = resident();
    checkpoint.tensor("w").unwrap().release();
    assert!(resident() + FILE_BYTES / 2 < before, "the whole tensor was given back");
    let matrix = checkpoint.matrix("w", [ROWS, COLS]).unwrap();
    let mut out = vec![0.0; COLS];
    matrix.rows_f32(ROWS - 1..ROWS, &mut out).unwrap();
    let want: Vec<f32> = row.iter().map(|&value| fathom_numeric::bf16::from_f32(value).to_f32()).collect();
    assert_eq!(out, want);
}
