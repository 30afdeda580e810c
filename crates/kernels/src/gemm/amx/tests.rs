//! The tile unit (or its emulator) against plain loops, the scalar kernel and whole products.

use fathom_numeric::bf16;

use super::super::{Activations, Epilogue, Group, Output, PackedMatrix, Precision, Rows, gemm, scalar};
use super::*;
use crate::illegal;
use crate::pool::ThreadPool;
use crate::roofline::{self, Multiplier};
use crate::shared::SharedSlice;
use crate::{Compute, Isa};

/// Numbers in [-1, 1) that bf16 holds exactly, without a short period. They are 128ths, so a sum of
/// products is exact in f32 up to 1024: it does not depend on the order, and tests need no tolerance.
fn number(index: usize, seed: usize) -> f32 {
    let mixed = (index + 1).wrapping_mul(0x9e37_79b9).wrapping_add(seed.wrapping_mul(0x85eb_ca6b));
    ((mixed ^ mixed >> 15) & 255) as f32 / 128.0 - 1.0
}

fn halves(count: usize, seed: usize) -> Vec<u16> {
    (0..count).map(|i| bf16::from_f32(number(i, seed)).to_bits()).collect()
}

/// The emulator by itself, on instructions written out: one 16 × 32 by 32 × 16 product.
#[test]
fn one_product_of_tiles() {
    illegal::install();
    let (a, b) = (halves(16 * 32, 1), halves(16 * 32, 2));
    let mut sums: Vec<f32> = (0..16 * 20).map(|i| i as f32).collect();
    // SAFETY: a and b are tiles of 16 rows of 64 bytes, sums has 16 rows of 16 numbers, 20 apart.
    unsafe {
        Shape::new([16, 16]).load();
        asm!("tileloadd tmm0, [{sums} + {apart}]", "tileloadd tmm4, [{a} + {dense}]",
            "tileloadd tmm6, [{b} + {dense}]", "tdpbf16ps tmm0, tmm4, tmm6",
            "tilestored [{sums} + {apart}], tmm0",
            a = in(reg) a.as_ptr(), b = in(reg) b.as_ptr(), sums = in(reg) sums.as_mut_ptr(),
            apart = in(reg) 80usize, dense = in(reg) 64usize,
            out("tmm0") _, out("tmm4") _, out("tmm6") _, options(nostack));
        release();
    }
    let value = |bits: u16| bf16::from_bits(bits).to_f32();
    for row in 0..16 {
        for col in 0..20 {
            let old = (row * 20 + col) as f32;
            let expected = if col < 16 {
                old + (0..32)
                    .map(|k| value(a[row * 32 + k]) * value(b[k / 2 * 32 + col * 2 + k % 2]))
                    .sum::<f32>()
            } else {
                old
            };
            assert_eq!(sums[row * 20 + col], expected, "[{row}, {col}]");
        }
    }
}

/// `amx::multiply` against `scalar::multiply`. Everything outside the tile is NaN, and the block
/// has untouchable neighbours, so that a wrong address shows.
fn check_tile(rows: usize, panels: usize, cols: usize, first_col: usize, accumulate: bool) {
    const GUARD: usize = 64;
    let case = format!("rows {rows} panels {panels} cols {first_col}+{cols} accumulate {accumulate}");
    let nan = bf16::from_f32(f32::NAN).to_bits();
    let x_stride = cols + 2 * (rows % 5) + 1;
    let mut x = vec![nan; (rows - 1) * x_stride + cols];
    for row in 0..rows {
        x[row * x_stride..][..cols].copy_from_slice(&halves(cols, row));
    }
    let panel_cols = first_col + cols + 32;
    let mut weights = vec![nan; panels * panel_cols * PANEL];
    for panel in 0..panels {
        let from = (panel * panel_cols + first_col) * PANEL;
        weights[from..][..cols * PANEL].copy_from_slice(&halves(cols * PANEL, 1000 + panel));
    }
    let tile = Tile {
        x: Operand::Halves(&x),
        x_stride,
        rows,
        format: WeightFormat::Bf16,
        weights: bytemuck::cast_slice(&weights),
        panel_bytes: panel_cols * PANEL * 2,
        first_col,
        panels,
        cols,
        accumulate,
    };
    let len = rows * panels * PANEL;
    let old = |i: usize| if accumulate { number(i, 7) } else { f32::NAN };
    let mut block: Vec<f32> =
        (0..len + 2 * GUARD).map(|i| if i < GUARD || i >= GUARD + len { 7.0 } else { old(i) }).collect();
    let mut expected = block[GUARD..GUARD + len].to_vec();
    scalar::multiply(&tile, &mut expected);
    // The same sums, with others between their rows.
    let (width, stride) = (panels * PANEL, panels * PANEL + 1 + rows % 5);
    let mut apart = vec![7.0; rows * stride];
    for (row, values) in block[GUARD..GUARD + len].chunks_exact(width).enumerate() {
        apart[row * stride..][..width].copy_from_slice(values);
    }
    multiply(&tile, &mut Window::dense(&mut block[GUARD..GUARD + len], width));
    // SAFETY: nothing else holds the elements.
    let mut window = unsafe { SharedSlice::new(&mut apart).window(0, [rows, width], stride) };
    multiply(&tile, &mut window);
    for (row, expected) in expected.chunks_exact(width).enumerate() {
        let (sums, others) = apart[row * stride..][..stride].split_at(width);
        assert_eq!(sums, expected, "{case}: row {row} of sums apart");
        assert!(others.iter().all(|&other| other == 7.0), "{case}: between rows");
    }
    for (i, (a, e)) in block[GUARD..].iter().zip(&expected).enumerate() {
        assert_eq!(a, e, "{case}: element {i}");
    }
    assert!(block[..GUARD].iter().chain(&block[GUARD + len..]).all(|&guard| guard == 7.0), "{case}: guards");
}

#[test]
fn tiles_of_every_height_and_width() {
    illegal::install();
    for rows in 1..=70 {
        for panels in 1..=4 {
            // Every number of columns meets every number of rows, in turns of the other choices.
            let cols = 32 * (1 + (3 * rows + 2 * panels) % 10);
            check_tile(rows, panels, cols, 32 * (rows % 3), (rows + panels) % 2 == 0);
        }
    }
}

#[test]
fn tiles_of_every_length() {
    illegal::install();
    for cols in (0..=320).step_by(32).chain([NEAR_COLS + 32, 2 * NEAR_COLS, 2 * NEAR_COLS + 96]) {
        for (rows, panels) in [(1, 4), (16, 3), (17, 1), (32, 2), (33, 3), (64, 1), (67, 4), (96, 2)] {
            for accumulate in [false, true] {
                check_tile(rows, panels, cols, 64, accumulate);
            }
        }
    }
}

/// A computer that claims to have AMX.
fn computer(threads: usize) -> Compute {
    illegal::install();
    Compute { isa: Isa::Amx, pool: ThreadPool::new(threads).expect("a few threads") }
}

#[test]
fn whole_products() {
    if crate::Isa::best() < crate::Isa::Avx512 {
        // What stands around the tiles is AVX-512 code, which nothing emulates.
        return;
    }
    let compute = computer(2);
    for [m, n, k] in [[2, 16, 32], [3, 1, 1], [5, 70, 33], [17, 33, 95], [40, 150, 290], [259, 70, 1058]] {
        let x: Vec<f32> = (0..m * k).map(|i| number(i, 3)).collect();
        let w: Vec<f32> = (0..n * k).map(|i| number(i, 4)).collect();
        let weights = PackedMatrix::from_rows(&compute, WeightFormat::Bf16, [n, k], &w);
        let mut activations = Activations::default();
        activations.prepare(&compute, WeightFormat::Bf16, Rows::dense(&x, k));
        assert!(matches!(activations.operand(Precision::Bf16, 0, 0), Operand::Halves(_)));
        let mut y = vec![f32::NAN; m * n];
        let groups = [Group::whole(&weights, &activations)];
        gemm(&compute, &activations, &groups, Epilogue::Store, Output { values: &mut y, stride: n });
        for row in 0..m {
            for col in 0..n {
                let (x, w) = (&x[row * k..][..k], &w[col * k..][..k]);
                let expected: f32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                assert_eq!(y[row * n + col], expected, "[{m}, {n}, {k}] at [{row}, {col}]");
            }
        }
    }
}

#[test]
fn the_unit_has_peaks() {
    for multiplier in [Multiplier::Bf16Tiles, Multiplier::Int8Tiles] {
        for measure in [roofline::multiply_rate, roofline::multiply_rate_from_l2] {
            let rate = measure(&computer(2), multiplier, 0.02).expect("AMX is claimed");
            assert!(
                rate.best.is_finite() && rate.median > 0.0 && rate.best >= rate.median,
                "{multiplier:?} {rate:?}"
            );
        }
    }
    assert_eq!(roofline::multiply_rate_from_l2(&computer(1), Multiplier::F32, 0.0), None);
    assert_eq!(peak::in_registers(peak::Kind::Bf16, 3), 3.0 * 6.0 * 16384.0);
    assert_eq!(peak::in_registers(peak::Kind::Int8, 3), 3.0 * 6.0 * 32768.0);
}

/// Four tiles of sums of `steps · 64` products of ones.
#[test]
fn streams_multiply_every_byte_once() {
    illegal::install();
    let mut streams = peak::Streams::new(peak::Kind::Int8);
    assert_eq!(streams.multiply(), 4.0 * 4.0 * 32768.0);
    assert!(streams.sums().iter().all(|sum| sum.to_bits() == 4 * 64), "{:?}", streams.sums());
}
