//! Many rows on the tile unit: a stretch of the weights is decoded to bf16 pairs, which all rows share, and the bf16
//! product of the ISA runs on it.
//!
//! **Why not in bytes.** `tdpbssd` would multiply 64 columns in the time of 32, but a scale ends every 32, of weights
//! and of activations: each tile of sums would leave the unit after one product, to be scaled by vectors. That took 120 cycles
//! per 16 × 16 sums and run (docs/LOG.md), and a product in bf16 takes 16.
//!
//! **Roofline.** Decoding a run of 16 rows is 96 operations to numbers and 64 to pairs on two ports: 80 cycles, as much
//! as five products. So it pays from [`ROWS_MIN`] rows on, and is a third of the time at 256.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_cvtne2ps_pbh, _mm512_fmadd_ps,
    _mm512_fmsub_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_permutexvar_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_srli_epi32, _mm512_storeu_si512,
};
use std::ops::Range;

use super::layout::{QUAD_BYTES, QUADS, RUN};
use super::{BlockFormat, Bytes, SCALES_MAX, TILE_PANELS, Tile, Unpacked, avx512};
use crate::Isa;
use crate::gemm::{self, Operand, PANEL, PackedMatrix, WeightFormat};
use crate::shared::Window;

/// Rows of a group from which on its weights are decoded.
pub(in crate::gemm) const ROWS_MIN: usize = 16;

/// Columns that are decoded before they are multiplied, at most: four panels of them are 256 KiB of the second-level cache.
const COLS_MAX: usize = 2048;

/// Words of a panel of them in pairs.
const PAIRS: usize = COLS_MAX * PANEL / 2;

/// Words of working memory for pairs.
pub(super) const WORK: usize = TILE_PANELS * PAIRS;

/// Whether this machine and ISA multiply this way.
pub(in crate::gemm) fn available(isa: Isa) -> bool {
    isa >= Isa::Amx && avx512::available() && is_x86_feature_detected!("avx512bf16")
}

/// `out [rows, panels · 16] = x · W[panels]ᵀ` on one thread; `x`, in bf16, begins at the first row and column.
pub(in crate::gemm) fn block_product(
    format: BlockFormat,
    (x, x_stride): (&[u16], usize),
    (weights, panels): (&PackedMatrix, Range<usize>),
    out: &mut Window<'_, f32>,
    work: &mut [f32],
) {
    let tile = Tile {
        format,
        rows: 0,
        x: Bytes { codes: &[], heads: &[], stride: RUN },
        weights: weights.panel_data(panels.clone()),
        panel_bytes: weights.panel_bytes(),
        panels: panels.len(),
        cols: weights.padded_cols(),
    };
    tile.check(&[]);
    let (pairs, work) = work.split_at_mut(WORK);
    for first in (0..tile.cols).step_by(COLS_MAX) {
        let cols = COLS_MAX.min(tile.cols - first);
        super::for_stretches(&tile, first..first + cols, work, |col, stretch| {
            avx512::unpack(&tile, col, stretch);
            let pairs = &mut pairs[(col - first) * PANEL / 2..];
            // SAFETY: `available` said that the CPU has AVX-512 BW and BF16.
            unsafe {
                match (stretch.layout.scales.per_run(), stretch.layout.scales.minimum()) {
                    (1, false) => decode::<1, false>(stretch, tile.panels, pairs),
                    (1, true) => decode::<1, true>(stretch, tile.panels, pairs),
                    (_, false) => decode::<2, false>(stretch, tile.panels, pairs),
                    (_, true) => unreachable!("no format has half runs and minima"),
                }
            }
        });
        let decoded = gemm::Tile {
            x: Operand::Halves(&x[first..]),
            x_stride,
            rows: out.shape()[0],
            format: WeightFormat::Bf16,
            weights: bytemuck::cast_slice(pairs),
            panel_bytes: PAIRS * size_of::<f32>(),
            first_col: 0,
            panels: tile.panels,
            cols,
            accumulate: first > 0,
        };
        gemm::amx::multiply(&decoded, out);
    }
}

/// `pairs [panels][cols / 2][16 rows][2]`, panels [`PAIRS`] words apart: `scale · code - (scale · offset + minimum)`.
///
/// # Safety
/// The CPU has AVX-512 F, BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn decode<const PER_RUN: usize, const MINIMUM: bool>(
    stretch: &Unpacked<'_>,
    panels: usize,
    pairs: &mut [f32],
) {
    let (runs, low) = (stretch.cols / RUN, _mm512_set1_epi32(0xff));
    let offset = _mm512_set1_ps(stretch.layout.offset() as f32);
    for panel in 0..panels {
        let codes = &stretch.codes[panel * Unpacked::PANEL_CODES..][..runs * RUN * PANEL];
        let scales = &stretch.scales[panel * SCALES_MAX..][..runs * PER_RUN * PANEL];
        let minima = &stretch.minima[panel * SCALES_MAX..][..runs * PANEL];
        let pairs = &mut pairs[panel * PAIRS..][..runs * RUN * PANEL / 2];
        for part in 0..runs * PER_RUN {
            // SAFETY: the slices just cut have scales, minima, codes and words of all parts.
            unsafe {
                let scale = _mm512_loadu_ps(scales.as_ptr().add(part * PANEL));
                let zero = match MINIMUM {
                    true => {
                        _mm512_fmadd_ps(scale, offset, _mm512_loadu_ps(minima.as_ptr().add(part * PANEL)))
                    }
                    false => _mm512_mul_ps(scale, offset),
                };
                for quad in part * (QUADS / PER_RUN)..(part + 1) * (QUADS / PER_RUN) {
                    let line = _mm512_loadu_si512(codes.as_ptr().add(quad * QUAD_BYTES).cast());
                    let columns = [
                        _mm512_and_si512(line, low),
                        _mm512_and_si512(_mm512_srli_epi32::<8>(line), low),
                        _mm512_and_si512(_mm512_srli_epi32::<16>(line), low),
                        _mm512_srli_epi32::<24>(line),
                    ];
                    let mut weights = [zero; 4];
                    for (weight, codes) in weights.iter_mut().zip(columns) {
                        *weight = _mm512_fmsub_ps(_mm512_cvtepi32_ps(codes), scale, zero);
                    }
                    let [a, b, c, d] = weights;
                    let out = pairs.as_mut_ptr().add(quad * 2 * PANEL);
                    _mm512_storeu_si512(out.cast(), pair(a, b));
                    _mm512_storeu_si512(out.add(PANEL).cast(), pair(c, d));
                }
            }
        }
    }
}

/// Row by row, an even and an odd column in bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pair(even: __m512, odd: __m512) -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: both are 64 bytes, of which every pattern is a value.
    unsafe {
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even));
        _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), halves)
    }
}
