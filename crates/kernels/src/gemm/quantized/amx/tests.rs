//! The tile unit (or its emulator) against the scalar product, bit for bit.

use fathom_numeric::blocks::BlockFormat;

use super::super::tests::{integer_formats, packed, product, random_blocks};
use super::super::{TILE_PANELS, WORK, block_product};
use super::*;
use crate::gemm::amx::emulator;
use crate::gemm::tests::numbers;
use crate::gemm::{Activations, PackedMatrix, Rows};
use crate::pool::ThreadPool;
use crate::{Compute, Isa};

/// A computer that claims to have AMX, if its vectors are those of one that has.
fn computer(threads: usize) -> Option<Compute> {
    if Isa::best() < Isa::Avx512 || !avx512::available() {
        eprintln!("not tested: AMX kernels scale their sums with AVX-512, which this machine has not");
        return None;
    }
    emulator::install();
    Some(Compute { isa: Isa::Amx, pool: ThreadPool::new(threads).expect("a few threads") })
}

/// `m` rows of `x` times all panels: working memory and results are NaN before, the block has neighbours.
fn block(isa: Isa, x: &Activations, (m, col): (usize, usize), weights: &PackedMatrix) -> Vec<f32> {
    const GUARD: usize = 64;
    let mut work = vec![f32::NAN; WORK];
    let panels = weights.rows().div_ceil(PANEL);
    let mut block = vec![f32::NAN; m * panels * PANEL + 2 * GUARD];
    let crate::gemm::WeightFormat::Block(format) = weights.format() else { unreachable!("blocks") };
    let end = block.len() - GUARD;
    let out = &mut block[GUARD..end];
    block_product(isa, format, x.bytes(0, col), (weights, 0..panels), out, &mut work);
    assert!(block[..GUARD].iter().chain(&block[end..]).all(|guard| guard.is_nan()), "guards");
    block[GUARD..end].to_vec()
}

#[track_caller]
fn check(format: BlockFormat, m: usize, panels: usize, blocks: usize) {
    let Some(compute) = computer(1) else { return };
    let (cols, n, first) = (blocks * format.block_len(), panels * PANEL - m % 5, 32 * (m % 3));
    let weights = packed(&compute, format, [n, cols], &random_blocks(format, [n, cols], m as u64));
    let x = numbers((m + 1) * (first + cols), 1 + m as u64);
    let mut activations = Activations::default();
    activations.prepare(&compute, weights.format(), Rows::dense(&x, first + cols));
    let [tiles, scalar] = [Isa::Amx, Isa::Scalar].map(|isa| block(isa, &activations, (m, first), &weights));
    let case = format!("{} rows {m} panels {panels} cols {first}+{cols}", format.name());
    for (i, (a, e)) in tiles.iter().zip(&scalar).enumerate() {
        assert_eq!(a.to_bits(), e.to_bits(), "{case}: element {i}: {a} instead of {e}");
    }
    assert!(scalar.iter().any(|&y| y != 0.0), "{case}");
}

#[test]
fn every_number_of_rows_and_panels() {
    let formats: Vec<BlockFormat> = integer_formats().collect();
    for m in 1..=70 {
        for panels in 1..=TILE_PANELS {
            // Every format meets every number of panels, and rows of either parity.
            let format = formats[(3 * m + panels) % formats.len()];
            // 1 to 13 runs of 32 columns: groups of any length, stretches of 256 columns and beyond.
            let blocks = (32 * (1 + (7 * m + panels) % 13)).div_ceil(format.block_len());
            check(format, m, panels, blocks);
        }
    }
}

#[test]
fn every_format() {
    for format in integer_formats() {
        for (m, panels) in [(8, 1), (15, 4), (16, 2), (17, 3), (33, 4), (64, 2), (99, 3)] {
            check(format, m, panels, 544_usize.div_ceil(format.block_len()));
        }
    }
}

#[test]
fn whole_products() {
    let Some(compute) = computer(2) else { return };
    let scalar = Compute::with_isa(Isa::Scalar, 2);
    for format in integer_formats() {
        for [m, n, blocks] in [[9, 20, 1], [40, 150, 3], [259, 70, 2]] {
            let k = blocks * format.block_len();
            let x = numbers(m * k, 3);
            let weights = packed(&compute, format, [n, k], &random_blocks(format, [n, k], 4));
            let y = [&compute, &scalar].map(|compute| product(compute, &weights, &x, m));
            assert!(y[0] == y[1], "{} [{m}, {n}, {k}]", format.name());
        }
    }
}

/// Which products take the unit.
#[test]
fn few_rows_and_other_isas_do_without() {
    let Some(compute) = computer(1) else { return };
    let format = BlockFormat::Q8_0;
    let weights = packed(&compute, format, [16, 64], &random_blocks(format, [16, 64], 1));
    let x = numbers(20 * 64, 1);
    let mut activations = Activations::default();
    activations.prepare(&compute, weights.format(), Rows::dense(&x, 64));
    let takes = |isa, rows| {
        let tile = Tile {
            format,
            x: activations.bytes(0, 0),
            rows,
            weights: weights.panel_data(0..1),
            panel_bytes: weights.panel_bytes(),
            panels: 1,
            cols: 64,
        };
        Unit::configure(isa, &tile).is_some()
    };
    assert!(takes(Isa::Amx, ROWS_MIN) && takes(Isa::Amx, 20));
    assert!(!takes(Isa::Amx, ROWS_MIN - 1) && !takes(Isa::Avx512, 20));
}
