//! Every ISA against the scalar meaning, and the region against a plain triple loop.

use fathom_numeric::f16;
use fathom_numeric::fp8::F8E4M3;
use fathom_numeric::round::to_bf16_precision;
use proptest::prelude::*;

use super::quantized::tests::{packed, product, random_blocks};
use super::*;

const FORMATS: [WeightFormat; 3] = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16];

/// Deterministic numbers in [-1, 1).
pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// `x · Wᵀ` in f64 on the rounded operands.
fn reference(format: WeightFormat, x: &[f32], w: &[f32], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let round_x = |v: f32| f64::from(if format == WeightFormat::Bf16 { to_bf16_precision(v) } else { v });
    let round_w = |v: f32| match format {
        WeightFormat::F16 => f16::from_f32(v).to_f64(),
        _ => round_x(v),
    };
    let mut y = vec![0.0; m * n];
    for row in 0..m {
        for col in 0..n {
            y[row * n + col] = (0..k).map(|i| round_x(x[row * k + i]) * round_w(w[col * k + i])).sum();
        }
    }
    y
}

#[track_caller]
fn close(actual: &[f32], expected: &[f64], k: usize, case: &str) {
    let tolerance = 4e-6 * (k as f64).sqrt() + 1e-6;
    for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - e).abs() <= tolerance, "{case}: element {index} is {a}, not {e}");
    }
}

#[track_caller]
fn check_shape(isa: Isa, format: WeightFormat, shape: [usize; 3]) {
    let [m, n, k] = shape;
    let compute = Compute::with_isa(isa, 2);
    let (x, w) = (numbers(m * k, 1 + m as u64), numbers(n * k, 77 + n as u64));
    let weights = PackedMatrix::from_rows(&compute, format, [n, k], &w);
    let mut activations = Activations::default();
    activations.prepare(&compute, format, Rows::dense(&x, k));
    let mut y = vec![f32::NAN; m * n];
    let groups = [Group::whole(&weights, &activations)];
    gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: n });
    close(&y, &reference(format, &x, &w, shape), k, &format!("{isa} {format:?} {shape:?}"));
}

#[test]
fn edges_of_rows_panels_and_columns() {
    for isa in Isa::available() {
        for format in FORMATS {
            for m in [1, 2, 3, 5, 6, 7, 13, 33] {
                for (n, k) in [(1, 1), (15, 31), (16, 32), (17, 33), (64, 64), (80, 130)] {
                    check_shape(isa, format, [m, n, k]);
                }
            }
            // Beyond one unit of rows and of columns.
            check_shape(isa, format, [UNIT_ROWS + 3, 70, UNIT_COLS + 34]);
            check_shape(isa, format, [1, 70, 2 * UNIT_COLS + 34]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn odd_shapes(m in 1usize..40, n in 1usize..100, k in 1usize..300, pick in 0usize..3) {
        for isa in Isa::available() {
            check_shape(isa, FORMATS[pick], [m, n, k]);
        }
    }
}

/// FP8 weights are exact in bf16 and their scales are f32.
#[track_caller]
fn check_fp8(isa: Isa, [m, n, k]: [usize; 3]) {
    let (compute, format) = (Compute::with_isa(isa, 2), BlockFormat::Fp8);
    let blocks = random_blocks(format, [n, k], 3);
    let weights = packed(&compute, format, [n, k], &blocks);
    let mut w = vec![0.0; n * k];
    for (row, out) in w.chunks_exact_mut(k).enumerate() {
        weights.read_row(row, out);
    }
    let x: Vec<f32> = numbers(m * k, 4).into_iter().map(to_bf16_precision).collect();
    let mut activations = Activations::default();
    activations.prepare(&compute, weights.format(), Rows::dense(&x, k));
    let mut y = vec![f32::NAN; m * n];
    let groups = [Group::whole(&weights, &activations)];
    gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: n });
    close(&y, &reference(WeightFormat::F32, &x, &w, [m, n, k]), k, &format!("{isa} fp8 [{m}, {n}, {k}]"));
}

#[test]
fn fp8_products() {
    for isa in Isa::available() {
        for m in [1, 2, 3, 4, 5, 6, 7, 33] {
            for (n, k) in [(1, 1), (17, 127), (64, 128), (70, 130), (100, 400)] {
                check_fp8(isa, [m, n, k]);
            }
        }
        check_fp8(isa, [UNIT_ROWS + 3, 33, 300]);
    }
}

/// Subnormal numbers and both zeroes included; one row and many are decoded in different ways.
#[test]
fn every_fp8_code_is_its_value() {
    const SCALE: f32 = 0.375;
    let finite = |code: &u8| code & 0x7f != 0x7f;
    let codes: Vec<u8> = (0..=u8::MAX).filter(finite).collect();
    let blocks: Vec<u8> = codes
        .iter()
        .flat_map(|&code| SCALE.to_le_bytes().into_iter().chain([code]).chain([0; 127]))
        .collect();
    for isa in Isa::available() {
        let compute = Compute::with_isa(isa, 1);
        let weights = packed(&compute, BlockFormat::Fp8, [codes.len(), 1], &blocks);
        for m in [1, 2, 4, 9] {
            let mut activations = Activations::default();
            activations.prepare(&compute, weights.format(), Rows::dense(&vec![1.0; m], 1));
            let mut y = vec![f32::NAN; m * codes.len()];
            let groups = [Group::whole(&weights, &activations)];
            let output = Output { values: &mut y, stride: codes.len() };
            gemm(&compute, &activations, &groups, Epilogue::Store, output);
            for row in y.chunks_exact(codes.len()) {
                for (&y, &code) in row.iter().zip(&codes) {
                    assert_eq!(y, F8E4M3(code).to_f32() * SCALE, "{isa}, {m} rows, code {code:#x}");
                }
            }
        }
    }
}

/// Heads: the same rows, other columns of x and of y, other weights. Experts: other rows.
#[test]
fn groups_read_and_write_their_own_part() {
    let (m, heads, n, k) = (5, 3, 20, 24);
    for isa in Isa::available() {
        for format in FORMATS {
            let compute = Compute::with_isa(isa, 2);
            let x = numbers(m * heads * k, 5);
            let w: Vec<Vec<f32>> = (0..heads).map(|head| numbers(n * k, 9 + head as u64)).collect();
            let packed: Vec<PackedMatrix> =
                w.iter().map(|w| PackedMatrix::from_rows(&compute, format, [n, k], w)).collect();
            let mut activations = Activations::default();
            activations.prepare(&compute, format, Rows::dense(&x, heads * k));
            let stride = heads * (n + 2);
            let mut y = vec![7.0; m * stride];
            let by_head: Vec<Group<'_>> = packed
                .iter()
                .enumerate()
                .map(|(h, weights)| Group { weights, rows: 0..m, x_col: h * k, y_col: h * (n + 2) })
                .collect();
            gemm(&compute, &activations, &by_head, Epilogue::Store, Output { values: &mut y, stride });
            for head in 0..heads {
                let columns: Vec<f32> =
                    (0..m).flat_map(|row| x[(row * heads + head) * k..][..k].to_vec()).collect();
                let expected = reference(format, &columns, &w[head], [m, n, k]);
                let actual: Vec<f32> =
                    (0..m).flat_map(|row| y[row * stride + head * (n + 2)..][..n].to_vec()).collect();
                close(&actual, &expected, k, &format!("{isa} {format:?} head {head}"));
                assert!((0..m).all(|row| y[row * stride + head * (n + 2) + n..][..2] == [7.0; 2]));
            }
        }
    }
}

#[test]
fn swiglu_combines_gate_and_up_panels() {
    let (m, width, k) = (9, 40usize, 33);
    let panels = width.div_ceil(PANEL);
    for isa in Isa::available() {
        for format in FORMATS {
            let compute = Compute::with_isa(isa, 2);
            let (x, gate, up) = (numbers(m * k, 1), numbers(width * k, 2), numbers(width * k, 3));
            let mut interleaved = vec![0.0; 2 * panels * PANEL * k];
            for panel in 0..panels {
                for lane in 0..PANEL.min(width - panel * PANEL) {
                    let from = (panel * PANEL + lane) * k;
                    let to = (2 * panel * PANEL + lane) * k;
                    interleaved[to..to + k].copy_from_slice(&gate[from..from + k]);
                    interleaved[to + PANEL * k..to + PANEL * k + k].copy_from_slice(&up[from..from + k]);
                }
            }
            let weights = PackedMatrix::from_rows(&compute, format, [2 * panels * PANEL, k], &interleaved);
            let mut activations = Activations::default();
            activations.prepare(&compute, format, Rows::dense(&x, k));
            let mut y = vec![0.0; m * width];
            let groups = [Group::whole(&weights, &activations)];
            let output = Output { values: &mut y, stride: width };
            gemm(&compute, &activations, &groups, Epilogue::SwiGlu { width }, output);
            let gates = reference(format, &x, &gate, [m, width, k]);
            let ups = reference(format, &x, &up, [m, width, k]);
            let expected: Vec<f64> =
                gates.iter().zip(&ups).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            close(&y, &expected, 4 * k, &format!("{isa} {format:?}"));
        }
    }
}

#[test]
fn a_bias_is_added_to_every_row() {
    let compute = Compute::with_isa(Isa::best(), 2);
    let (w, bias) = (numbers(70 * 8, 4), numbers(70, 5));
    let weights = PackedMatrix::from_rows(&compute, WeightFormat::F32, [70, 8], &w).with_bias(&bias);
    let mut activations = Activations::default();
    activations.prepare(&compute, WeightFormat::F32, Rows::dense(&[0.0; 3 * 8], 8));
    let mut y = vec![f32::NAN; 3 * 70];
    let groups = [Group::whole(&weights, &activations)];
    gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: 70 });
    assert!(y.chunks_exact(70).all(|row| row == bias));
}

#[test]
fn gathered_rows_repeat_and_reorder() {
    let compute = Compute::with_isa(Isa::best(), 2);
    let (x, w) = (numbers(4 * 10, 3), numbers(6 * 10, 4));
    let order = [2, 0, 0, 3, 1];
    let weights = PackedMatrix::from_rows(&compute, WeightFormat::F32, [6, 10], &w);
    let mut activations = Activations::default();
    let gathered = Gathered { rows: order.len(), largest: order.len(), source_rows: |row| order[row] };
    activations.gather(&compute, WeightFormat::F32, Rows::dense(&x, 10), gathered);
    let mut y = vec![0.0; order.len() * 6];
    let groups = [Group::whole(&weights, &activations)];
    gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: 6 });
    let gathered: Vec<f32> = order.iter().flat_map(|&row| x[row * 10..][..10].to_vec()).collect();
    close(&y, &reference(WeightFormat::F32, &gathered, &w, [5, 6, 10]), 10, "gathered");
}

/// Bit by bit, with rows that repeat, rows that are left out, and memory that held more before.
#[test]
fn gathered_rows_are_the_rows_themselves() {
    let cols = 256;
    let x = numbers(4 * cols, 3);
    for isa in isas_without_tiles() {
        let compute = Compute::with_isa(isa, 2);
        let mut activations = Activations::default();
        let blocks = BlockFormat::all().map(|format| {
            let shape = [6, cols];
            packed(&compute, format, shape, &random_blocks(format, shape, 5))
        });
        let plain =
            FORMATS.map(|format| PackedMatrix::from_rows(&compute, format, [6, cols], &numbers(6 * cols, 4)));
        for weights in plain.into_iter().chain(blocks) {
            for order in [&[2, 0, 0, 3, 1][..], &[1; 40], &[3, 1], &[0, 1, 2, 3], &[2; 3]] {
                let gathered = Gathered { rows: order.len(), largest: 4, source_rows: |row| order[row] };
                activations.gather(&compute, weights.format(), Rows::dense(&x, cols), gathered);
                let mut y = vec![0.0; order.len() * 6];
                let groups = [Group::whole(&weights, &activations)];
                gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: 6 });
                let rows: Vec<f32> = order.iter().flat_map(|&row| x[row * cols..][..cols].to_vec()).collect();
                let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                let expected = product(&compute, &weights, &rows, order.len());
                assert_eq!(bits(y), bits(expected), "{isa} {:?} {order:?}", weights.format());
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let shape @ [m, n, k] = [70, 150, 90];
    let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
    let run = |threads| {
        let compute = Compute::with_isa(Isa::best(), threads);
        let weights = PackedMatrix::from_rows(&compute, WeightFormat::Bf16, [n, k], &w);
        let mut activations = Activations::default();
        activations.prepare(&compute, WeightFormat::Bf16, Rows::dense(&x, k));
        let mut y = vec![0.0; m * n];
        let groups = [Group::whole(&weights, &activations)];
        gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: n });
        y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let one = run(1);
    assert!((2..5).all(|threads| run(threads) == one), "{shape:?}");
}

/// A few of many rows, each alone, bit by bit; the tile unit has other sums for many rows than for few.
#[track_caller]
fn check_rows_alone(weights: &PackedMatrix, compute: &Compute, rows: usize) {
    let (k, n) = (weights.cols(), weights.rows());
    let x = numbers(rows * k, 8);
    let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let all = bits(product(compute, weights, &x, rows));
    for row in [0, rows / 3, rows / 2, rows - 1] {
        let alone = bits(product(compute, weights, &x[row * k..][..k], 1));
        let (isa, format) = (compute.isa(), weights.format());
        assert_eq!(alone, all[row * n..][..n], "{isa} {format:?} [{n}, {k}]: row {row} of {rows}");
    }
}

fn isas_without_tiles() -> impl Iterator<Item = Isa> {
    Isa::available().filter(|&isa| isa != Isa::Amx)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_row_is_the_same_alone_and_among_others(rows in 1usize..70, n in 1usize..100, k in 1usize..400) {
        for isa in isas_without_tiles() {
            let compute = Compute::with_isa(isa, 2);
            for format in FORMATS {
                let weights = PackedMatrix::from_rows(&compute, format, [n, k], &numbers(n * k, 3));
                check_rows_alone(&weights, &compute, rows);
            }
            for format in BlockFormat::all() {
                let shape = [n, if format == BlockFormat::Fp8 { k } else { k.next_multiple_of(format.block_len()) }];
                check_rows_alone(&packed(&compute, format, shape, &random_blocks(format, shape, 5)), &compute, rows);
            }
        }
    }
}

#[test]
fn rows_beyond_a_unit_are_the_same_alone() {
    for isa in isas_without_tiles() {
        let compute = Compute::with_isa(isa, 2);
        let shape @ [n, k] = [20, UNIT_COLS + 34];
        for format in FORMATS {
            let weights = PackedMatrix::from_rows(&compute, format, shape, &numbers(n * k, 3));
            check_rows_alone(&weights, &compute, UNIT_ROWS + 7);
        }
    }
}

#[test]
#[should_panic(expected = "groups must advance")]
fn overlapping_groups_are_refused() {
    let compute = Compute::with_isa(Isa::Scalar, 1);
    let weights = PackedMatrix::from_rows(&compute, WeightFormat::F32, [4, 4], &[0.0; 16]);
    let mut activations = Activations::default();
    activations.prepare(&compute, WeightFormat::F32, Rows::dense(&[0.0; 8], 4));
    let group = Group::whole(&weights, &activations);
    let groups = [group.clone(), group];
    gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut [0.0; 8], stride: 4 });
}
