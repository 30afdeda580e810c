//! The packing against the meaning of each format, and every ISA against the scalar product, bit by bit.

use fathom_numeric::blocks::BlockFormat;
use fathom_numeric::f16;
use fathom_numeric::round::to_bf16_precision;
use proptest::prelude::*;

use crate::gemm::tests::numbers;
use crate::gemm::{
    Activations, Epilogue, Gathered, Group, Output, PANEL, PackedMatrix, Rows, WeightFormat, gemm,
};
use crate::{Compute, Isa};

pub(super) fn integer_formats() -> impl Iterator<Item = BlockFormat> {
    BlockFormat::all().filter(|&format| format != BlockFormat::Fp8)
}

/// Blocks of `rows` rows with any codes and small sub-scales, and scales between 1/64 and 1/32.
pub(crate) fn random_blocks(format: BlockFormat, [rows, cols]: [usize; 2], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut bytes: Vec<u8> = (0..rows * format.row_bytes(cols)).map(|_| next() as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let mut scale = |at: usize| {
            let value = (next() % 1000 + 1000) as f32 / 64_000.0;
            block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        };
        match format {
            BlockFormat::Fp8 => {
                let value = (next() % 1000 + 1000) as f32 / 6_400_000.0;
                block[..4].copy_from_slice(&value.to_le_bytes());
                block[4..]
                    .iter_mut()
                    .for_each(|code| *code &= if *code & 0x7f == 0x7f { 0xfe } else { 0xff });
            }
            BlockFormat::Q6K => scale(208),
            BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => {
                scale(0);
                scale(2);
            }
            _ => scale(0),
        }
    }
    bytes
}

pub(crate) fn packed(
    compute: &Compute,
    format: BlockFormat,
    shape: [usize; 2],
    blocks: &[u8],
) -> PackedMatrix {
    let row_bytes = format.row_bytes(shape[1]);
    let fetch = |row: usize, out: &mut [u8]| {
        out.copy_from_slice(&blocks[row * row_bytes..][..row_bytes]);
        Ok::<bool, std::convert::Infallible>(true)
    };
    match PackedMatrix::from_blocks(compute, format, shape, fetch) {
        Ok(matrix) => matrix,
        Err(never) => match never {},
    }
}

pub(crate) fn product(compute: &Compute, weights: &PackedMatrix, x: &[f32], rows: usize) -> Vec<f32> {
    let mut activations = Activations::default();
    activations.prepare(compute, weights.format(), Rows::dense(x, weights.cols()));
    let mut y = vec![f32::NAN; rows * weights.rows()];
    let groups = [Group::whole(weights, &activations)];
    let output = Output { values: &mut y, stride: weights.rows() };
    gemm(compute, &activations, &groups, Epilogue::Store, output);
    y
}

#[test]
fn rows_come_back_exactly_as_the_format_means_them() {
    let compute = Compute::with_isa(Isa::best(), 2);
    for format in BlockFormat::all() {
        for blocks in [1, 2, 3, 5] {
            let shape @ [rows, cols] = [PANEL + 3, blocks * format.block_len()];
            let bytes = random_blocks(format, shape, blocks as u64);
            let matrix = packed(&compute, format, shape, &bytes);
            let (mut row, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
            for index in 0..rows {
                matrix.read_row(index, &mut row);
                format.decode(
                    &bytes[index * format.row_bytes(cols)..][..format.row_bytes(cols)],
                    &mut expected,
                );
                assert_eq!(row, expected, "{} [{rows}, {cols}] row {index}", format.name());
            }
        }
    }
}

/// Activations as the product sees them, times weights as the format means them, in f64.
fn check_against_meaning(format: BlockFormat, [m, n, blocks]: [usize; 3]) {
    let k = blocks * format.block_len();
    let compute = Compute::with_isa(Isa::Scalar, 2);
    let x = numbers(m * k, 3);
    let bytes = random_blocks(format, [n, k], 5);
    let matrix = packed(&compute, format, [n, k], &bytes);
    let y = product(&compute, &matrix, &x, m);
    let mut activations = Activations::default();
    activations.prepare(&compute, matrix.format(), Rows::dense(&x, k));
    let stored = activations.bytes(0, 0);
    let mut row = vec![0.0; k];
    for col in 0..n {
        matrix.read_row(col, &mut row);
        for r in 0..m {
            let value = |i: usize| {
                let head = &stored.heads[(r * stored.stride + i) / 32];
                f64::from(head.scale) * f64::from(stored.codes[r * stored.stride + i])
            };
            let (mut sum, mut size) = (0.0, 0.0);
            for (i, &weight) in row.iter().enumerate() {
                assert!(
                    (value(i) - f64::from(x[r * k + i])).abs() <= 0.5 / 127.0,
                    "int8 of {}",
                    x[r * k + i]
                );
                let product = value(i) * f64::from(weight);
                (sum, size) = (sum + product, size + product.abs());
            }
            let error = (f64::from(y[r * n + col]) - sum).abs();
            assert!(error <= 1e-6 * size, "{} ({r}, {col}): off by {error}", format.name());
        }
    }
}

#[test]
fn the_scalar_product_is_the_meaning() {
    integer_formats().for_each(|format| check_against_meaning(format, [3, 20, 3]));
}

/// Bit for bit: `m` rows at once on `isa` against one at a time on the scalar path.
#[track_caller]
fn check_bits(isa: Isa, format: BlockFormat, [m, n, k]: [usize; 3]) {
    let (compute, scalar) = (Compute::with_isa(isa, 2), Compute::with_isa(Isa::Scalar, 1));
    let x = numbers(m * k, 1 + m as u64);
    let matrix = packed(&compute, format, [n, k], &random_blocks(format, [n, k], 7 + n as u64));
    let together = product(&compute, &matrix, &x, m);
    for row in 0..m {
        let alone = product(&scalar, &matrix, &x[row * k..][..k], 1);
        assert_eq!(together[row * n..][..n], alone, "{isa} {} [{m}, {n}, {k}] row {row}", format.name());
    }
}

/// Many rows with decoded weights: both operands rounded to bf16, as the format means them, in f64.
#[track_caller]
fn check_decoded(isa: Isa, format: BlockFormat, [m, n, k]: [usize; 3]) {
    let compute = Compute::with_isa(isa, 2);
    let x = numbers(m * k, 1 + m as u64);
    let matrix = packed(&compute, format, [n, k], &random_blocks(format, [n, k], 7 + n as u64));
    let y = product(&compute, &matrix, &x, m);
    let (mut row, step) = (vec![0.0; k], (m / 7).max(1));
    for col in 0..n {
        matrix.read_row(col, &mut row);
        for r in (0..m).step_by(step) {
            let (mut sum, mut size) = (0.0, 0.0);
            for (&x, &weight) in x[r * k..][..k].iter().zip(&row) {
                let product = f64::from(to_bf16_precision(x)) * f64::from(to_bf16_precision(weight));
                (sum, size) = (sum + product, size + product.abs());
            }
            // A weight within a rounding of f32 of the middle of two bf16 numbers may become either of them.
            let error = (f64::from(y[r * n + col]) - sum).abs();
            assert!(error <= 2e-5 * size, "{isa} {} [{m}, {n}, {k}] ({r}, {col}): {error}", format.name());
        }
    }
}

#[test]
fn every_isa_and_every_number_of_rows_gives_the_same_bits() {
    for isa in Isa::available() {
        for format in integer_formats() {
            for m in [1, 2, 3, 4, 5, 8, 15, 35] {
                let shape = [m, 16 * (m % 5) + 7, 2 * format.block_len()];
                if decodes(isa, m) {
                    check_decoded(isa, format, shape)
                } else {
                    check_bits(isa, format, shape)
                }
            }
            check_bits(isa, format, [2, 70, 6 * 256]);
            let shape = [260, 17, 256];
            if decodes(isa, 260) { check_decoded(isa, format, shape) } else { check_bits(isa, format, shape) }
        }
    }
}

/// As the dense layers of V3 have: AVX2 takes 16,384 columns at a time.
#[test]
fn long_rows_give_the_same_bits() {
    for isa in Isa::available() {
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4K, BlockFormat::Q6K] {
            check_bits(isa, format, [5, 17, 65 * 256]);
        }
    }
}

/// All panels of a unit, columns beyond one stretch of decoded weights, and rows of a group next to others that do
/// not decode.
#[test]
fn decoded_weights_of_every_shape() {
    let isa = Isa::best();
    if !decodes(isa, 16) {
        eprintln!("not tested: this machine has no tile unit");
        return;
    }
    for format in integer_formats() {
        for (m, panels) in [(16, 1), (17, 2), (31, 3), (33, 4), (48, 5)] {
            check_decoded(
                isa,
                format,
                [m, panels * PANEL - m % 3, (2048 + 64) / format.block_len() * format.block_len()],
            );
        }
    }
    let (compute, format, (n, k)) = (Compute::with_isa(isa, 2), BlockFormat::Q8_0, (20, 96));
    let x = numbers(40 * k, 5);
    let matrix = packed(&compute, format, [n, k], &random_blocks(format, [n, k], 1));
    let mut activations = Activations::default();
    let rows = Gathered { rows: 40, largest: 36, source_rows: |row| row };
    activations.gather(&compute, WeightFormat::Block(format), Rows::dense(&x, k), rows);
    let groups = [0..4, 4..40].map(|rows| Group { weights: &matrix, rows, x_col: 0, y_col: 0 });
    let mut y = vec![f32::NAN; 40 * n];
    gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: n });
    assert_eq!(y[..4 * n], product(&compute, &matrix, &x[..4 * k], 4));
    assert_eq!(y[4 * n..], product(&compute, &matrix, &x[4 * k..], 36));
}

fn decodes(isa: Isa, rows: usize) -> bool {
    crate::gemm::activations::decodes(isa, rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn odd_shapes(m in 1usize..20, n in 1usize..100, blocks in 1usize..9, pick in 0usize..14) {
        let format = integer_formats().nth(pick).expect("there are 14");
        for isa in Isa::available() {
            let shape = [m, n, blocks * format.block_len()];
            if decodes(isa, m) { check_decoded(isa, format, shape) } else { check_bits(isa, format, shape) }
        }
    }

    /// Our own formats take any number of columns.
    #[test]
    fn ragged_columns(m in 1usize..8, n in 1usize..40, k in 1usize..400, pick in 0usize..6) {
        let formats = [BlockFormat::Q8_0, BlockFormat::Int8G64, BlockFormat::Int8G128,
            BlockFormat::Q4_0, BlockFormat::Int4G64, BlockFormat::Int4G128];
        let (format, compute) = (WeightFormat::Block(formats[pick]), Compute::with_isa(Isa::best(), 2));
        let (x, w) = (numbers(m * k, 5), numbers(n * k, 6));
        let matrix = PackedMatrix::from_rows(&compute, format, [n, k], &w);
        let y = product(&compute, &matrix, &x, m);
        let mut row = vec![0.0; k];
        for col in 0..n {
            matrix.read_row(col, &mut row);
            for r in 0..m {
                let exact: f64 = (0..k).map(|i| f64::from(row[i]) * f64::from(x[r * k + i])).sum();
                let bound = (k as f64).sqrt() * 0.03;
                prop_assert!((f64::from(y[r * n + col]) - exact).abs() <= bound, "{format} ({r}, {col})");
            }
        }
    }
}

/// Heads read their own columns of the same rows.
#[test]
fn groups_begin_at_any_run() {
    for isa in Isa::available() {
        let (compute, format) = (Compute::with_isa(isa, 2), BlockFormat::Q8_0);
        let (m, n, k) = (5, 20, 96);
        let x = numbers(m * 3 * k, 5);
        let matrix = packed(&compute, format, [n, k], &random_blocks(format, [n, k], 1));
        let mut activations = Activations::default();
        activations.prepare(&compute, matrix.format(), Rows::dense(&x, 3 * k));
        let mut y = vec![0.0; m * 3 * n];
        let groups: Vec<Group<'_>> =
            (0..3).map(|h| Group { weights: &matrix, rows: 0..m, x_col: h * k, y_col: h * n }).collect();
        gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: 3 * n });
        for row in 0..m {
            for head in 0..3 {
                let alone = product(&compute, &matrix, &x[(row * 3 + head) * k..][..k], 1);
                assert_eq!(y[(row * 3 + head) * n..][..n], alone, "{isa} row {row} head {head}");
            }
        }
    }
}

#[test]
fn zero_and_tiny_activations_stay_finite() {
    let compute = Compute::with_isa(Isa::best(), 1);
    let matrix =
        packed(&compute, BlockFormat::Q4K, [16, 256], &random_blocks(BlockFormat::Q4K, [16, 256], 1));
    assert_eq!(product(&compute, &matrix, &[0.0; 256], 1), [0.0; 16]);
    let tiny = product(&compute, &matrix, &[f32::MIN_POSITIVE / 8.0; 256], 1);
    assert!(tiny.iter().all(|y| y.is_finite()));
}
