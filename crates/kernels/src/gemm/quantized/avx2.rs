//! Integer products in 8 lanes of i32 with `vpmaddubsw` and `vpmaddwd`, or with `vpdpbusd` of AVX-VNNI.
//!
//! All rows are multiplied straight from the panels, six at a time, of 8-bit codes four: decoding a panel again costs less
//! than writing it down and reading it back, whatever the number of rows (docs/LOG.md).

mod codes;
mod dots;
mod strip;
#[cfg(all(test, target_os = "linux"))]
pub(super) mod tests;

use std::arch::x86_64::{
    _mm_loadu_si128, _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_cvtepi8_epi16,
    _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_shuffle_epi8, _mm256_storeu_si256,
};

use super::Tile;
use super::layout::{CHUNK_COLS_MAX, Codes, Format, RUN, with_format};
use crate::gemm::PANEL;
use crate::gemm::reading::Reading;
use dots::wide;
use strip::Strip;

/// Lanes of a register, half a panel.
const LANES: usize = PANEL / 2;

/// Whether codes are taken apart into words: those that fill 8 bits, where no instruction multiplies bytes by four.
const fn in_words(codes: Codes, fours: bool) -> bool {
    wide(codes) && !fours
}

/// Rows that are multiplied at a time: their integer sums, two registers each, leave room for codes and activations.
const fn rows_at_a_time(codes: Codes, fours: bool) -> usize {
    if in_words(codes, fours) { 4 } else { 6 }
}

/// Columns that are multiplied at a time: as many words of four rows fit the working memory.
const COLS_MAX: usize = 64 * CHUNK_COLS_MAX;

/// `block += x · W[panels]ᵀ` for all rows of a tile.
pub(super) fn multiply(tile: &Tile<'_>, block: &mut [f32], work: &mut [f32]) {
    // SAFETY: the dispatcher chose this ISA because the CPU has it.
    unsafe {
        match dots::fours_available() {
            true => multiply_with::<true>(tile, block, work),
            false => multiply_with::<false>(tile, block, work),
        }
    }
}

/// # Safety
/// The CPU has AVX2, FMA and F16C, and AVX-VNNI if `FOURS`.
unsafe fn multiply_with<const FOURS: bool>(tile: &Tile<'_>, block: &mut [f32], work: &mut [f32]) {
    // SAFETY: this function's contract.
    with_format!(tile.format, F => unsafe { by_strips::<F, FOURS>(tile, block, bytemuck::cast_slice_mut(work)) });
}

/// # Safety
/// As [`multiply_with`].
unsafe fn by_strips<F: Format, const FOURS: bool>(tile: &Tile<'_>, block: &mut [f32], work: &mut [i16]) {
    let ahead = Reading::here().ahead(false);
    let in_words = in_words(F::CODES, FOURS);
    let each = tile.rows.div_ceil(tile.rows.div_ceil(rows_at_a_time(F::CODES, FOURS)));
    for first in (0..tile.cols).step_by(COLS_MAX) {
        let cols = COLS_MAX.min(tile.cols - first);
        let first_chunk = first / F::SCALES.chunk_cols() * F::LAYOUT.chunk_bytes();
        for row in (0..tile.rows).step_by(each) {
            let rows = each.min(tile.rows - row);
            let (codes, heads) = tile.row(row, first);
            let (mut x, mut x_stride) = (codes.as_ptr().cast::<u8>(), tile.x.stride);
            if in_words {
                for r in 0..rows {
                    let words = &mut work[r * cols..][..cols];
                    // SAFETY: this function's contract.
                    unsafe { take_apart(&tile.row(row + r, first).0[..cols], words) };
                }
                (x, x_stride) = (work.as_ptr().cast(), 2 * cols);
            }
            for panel in 0..tile.panels {
                let strip = Strip {
                    x,
                    x_stride,
                    heads: heads.as_ptr(),
                    heads_stride: tile.x.stride / RUN,
                    chunks: tile.weights[panel * tile.panel_bytes + first_chunk..].as_ptr(),
                    cols,
                    ahead,
                    out: block[(row * tile.panels + panel) * PANEL..].as_mut_ptr(),
                    out_stride: tile.panels * PANEL,
                };
                // SAFETY: `Tile::check` bounded the rows of x, the chunks and the block; this function's contract.
                unsafe {
                    match (in_words, rows) {
                        (_, 1) => strip.multiply::<F, 1, FOURS>(),
                        (_, 2) => strip.multiply::<F, 2, FOURS>(),
                        (_, 3) => strip.multiply::<F, 3, FOURS>(),
                        (_, 4) => strip.multiply::<F, 4, FOURS>(),
                        (false, 5) => strip.multiply::<F, 5, FOURS>(),
                        (false, 6) => strip.multiply::<F, 6, FOURS>(),
                        (_, other) => unreachable!("{other} rows at a time"),
                    }
                }
            }
        }
    }
}

/// Four codes as words: even columns, then odd ones.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn take_apart(codes: &[i8], words: &mut [i16]) {
    const ORDER: [u8; 16] = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15];
    for (codes, words) in codes.as_chunks::<RUN>().0.iter().zip(words.as_chunks_mut::<RUN>().0) {
        // SAFETY: 32 codes and words, and 16 places.
        unsafe {
            let order = _mm256_broadcastsi128_si256(_mm_loadu_si128(ORDER.as_ptr().cast()));
            let codes = _mm256_shuffle_epi8(_mm256_loadu_si256(codes.as_ptr().cast()), order);
            let halves = [_mm256_castsi256_si128(codes), _mm256_extracti128_si256::<1>(codes)];
            for (half, words) in halves.into_iter().zip(words.as_chunks_mut::<16>().0) {
                _mm256_storeu_si256(words.as_mut_ptr().cast(), _mm256_cvtepi8_epi16(half));
            }
        }
    }
}
