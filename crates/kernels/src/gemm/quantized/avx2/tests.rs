//! AVX-VNNI, in software where the processor has none, against the products without it.

use fathom_numeric::blocks::BlockFormat;

use super::{Tile, multiply_with};
use crate::gemm::quantized::tests::{integer_formats, packed, random_blocks};
use crate::gemm::tests::numbers;
use crate::gemm::{Activations, PANEL, Rows};
use crate::{Compute, Isa, illegal};

/// Where the kernel of Linux leaves vector registers for a signal handler: an area as `xsave` writes it.
const LOWER_HALVES: usize = 160;
const MARK: usize = 464;
const COMPONENTS: usize = 512;
const UPPER_HALVES: usize = 576;

/// What stands at [`MARK`] if the area reaches beyond the registers of SSE.
const EXTENDED: u32 = 0x4650_5853;

/// The bit of AVX in [`COMPONENTS`].
const AVX: u64 = 4;

/// Executes the instruction whose bytes are given, if it is `vpdpbusd` of three registers of 256 bits; its length.
///
/// # Safety
/// `area` is what the kernel left.
pub(crate) unsafe fn step(area: *mut u8, byte: impl Fn(u64) -> u8) -> Option<u64> {
    // C4 | R̄ X̄ B̄ 00010 (map 0F38) | W=0 v̄v̄v̄v̄ L=1 pp=01 | 50 | ModRM of registers.
    let ours = byte(0) == 0xc4
        && byte(1) & 0x1f == 0x02
        && byte(2) & 0x87 == 0x05
        && byte(3) == 0x50
        && byte(4) & 0xc0 == 0xc0;
    // SAFETY: this function's contract.
    let marked = || unsafe { area.add(MARK).cast::<u32>().read_unaligned() } == EXTENDED;
    if !ours || !marked() {
        return None;
    }
    let high = |bit: u8| usize::from(!byte(1) >> bit & 1) << 3;
    let (sum, signed) = (high(7) | usize::from(byte(4) >> 3 & 7), high(5) | usize::from(byte(4) & 7));
    let unsigned = usize::from(!byte(2) >> 3 & 15);
    // SAFETY: this function's contract; both halves of 16 registers are within the area.
    unsafe {
        let components = area.add(COMPONENTS).cast::<u64>();
        components.write_unaligned(components.read_unaligned() | AVX);
        for first in [LOWER_HALVES, UPPER_HALVES] {
            let half = |register: usize| area.add(first + 16 * register).cast::<[[u8; 4]; 4]>();
            let (u, s) = (half(unsigned).read_unaligned(), half(signed).read_unaligned());
            let mut sums = half(sum).read_unaligned().map(i32::from_le_bytes);
            for (sum, (u, s)) in sums.iter_mut().zip(u.into_iter().zip(s)) {
                let products = u.into_iter().zip(s).map(|(u, s)| i32::from(u) * i32::from(s as i8));
                *sum = sum.wrapping_add(products.sum());
            }
            half(sum).write_unaligned(sums.map(i32::to_le_bytes));
        }
    }
    Some(5)
}

/// `rows` rows times `n` outputs of `blocks` blocks, both ways.
fn check(format: BlockFormat, [rows, n, blocks]: [usize; 3]) {
    let cols = blocks * format.block_len();
    let compute = Compute::with_isa(Isa::Avx2, 1);
    let weights = packed(&compute, format, [n, cols], &random_blocks(format, [n, cols], n as u64));
    let mut activations = Activations::default();
    activations.prepare(&compute, weights.format(), Rows::dense(&numbers(rows * cols, 1), cols));
    let panels = n.div_ceil(PANEL);
    let tile = Tile {
        format,
        x: activations.bytes(0, 0),
        rows,
        weights: weights.panel_data(0..panels),
        panel_bytes: weights.panel_bytes(),
        panels,
        cols: weights.padded_cols(),
    };
    let mut work = vec![0.0; super::super::WORK];
    let [mut fours, mut pairs] = [(); 2].map(|()| vec![0.0; rows * panels * PANEL]);
    tile.check(&fours);
    // SAFETY: the caller found AVX2 here and installed AVX-VNNI if it is missing.
    unsafe {
        multiply_with::<true>(&tile, &mut fours, &mut work);
        multiply_with::<false>(&tile, &mut pairs, &mut work);
    }
    assert_eq!(fours, pairs, "{} [{rows}, {n}, {cols}]", format.name());
}

#[test]
fn four_products_at_once_are_the_same_sums() {
    if Isa::best() < Isa::Avx2 {
        return;
    }
    illegal::install();
    for format in integer_formats() {
        for rows in [1, 2, 3, 4, 5, 6, 7] {
            check(format, [rows, 3 * PANEL + 5, 2]);
        }
    }
}
