//! Products with integer codes: activations in int8, sums in i32 within a run, in f32 across runs.
//!
//! **Roofline.** One row is bound by the bytes of the codes, if decoding them costs less than reading
//! them: a run of 16 rows and 32 columns is 4 to 8 cache lines and some 30 vector instructions. Many rows
//! are bound by the integer multiplier (`vpdpbusd`: 64 products) and by one
//! conversion, one product and one fused multiply-add per 16 sums of a run.
//!
//! **Three ways.** A few rows (on AVX2 any number) multiply straight from the panel, decoded in registers, made for
//! each format by the compiler. More rows share panels unpacked into the first-level cache ([`Unpacked`]): there one
//! kernel serves all formats. Where there is a tile unit, many rows meet weights decoded to bf16 ([`decoded`]): another
//! meaning, without the rounding of activations to int8.
//!
//! **Numbers** of the first two. For each run of 32 columns, in order, in every ISA and both ways:
//! `y = fma(Σ (code - offset)·x_code, scale·x_scale, y)`, then with a minimum
//! `y = fma(-minimum, x_scale·Σ x_code, y)`. Integer sums are exact and the rest is the same sequence of
//! roundings everywhere, so results are the same bit for bit whatever the ISA, the number of rows and the
//! number of threads.

pub(crate) mod layout;
mod pack;

#[cfg(vector_kernels)]
mod avx2;
#[cfg(vector_kernels)]
mod avx512;
#[cfg(vector_kernels)]
pub(super) mod decoded;
mod scalar;
#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;

#[cfg(all(test, vector_kernels, target_os = "linux"))]
pub(crate) use avx2::tests::step as step_vnni;
use fathom_numeric::blocks::BlockFormat;

pub(super) use layout::Layout;
use layout::{CHUNK_COLS_MAX, RUN};
pub(super) use pack::pack_panel;

use super::activations::{Bytes, RunHead};
use super::packed::PackedMatrix;
use super::{PANEL, TILE_PANELS};
use crate::Isa;

/// Scales of a panel's stretch at most: two per run.
const SCALES_MAX: usize = CHUNK_COLS_MAX / RUN * 2 * PANEL;

/// f32-sized words of working memory that [`block_product`] wants.
pub(super) const WORK: usize = TILE_PANELS * (CHUNK_COLS_MAX * PANEL / 4 + 2 * SCALES_MAX) + DECODED;

/// Those of them that hold decoded weights.
#[cfg(vector_kernels)]
const DECODED: usize = decoded::WORK;
#[cfg(not(vector_kernels))]
const DECODED: usize = 0;

/// Some rows times some whole panels.
struct Tile<'a> {
    format: BlockFormat,
    /// `rows` rows beginning at the first column that is multiplied.
    x: Bytes<'a>,
    rows: usize,
    /// Whole panels, `panel_bytes` apart.
    weights: &'a [u8],
    panel_bytes: usize,
    /// 1 to [`TILE_PANELS`].
    panels: usize,
    /// A multiple of the format's chunk.
    cols: usize,
}

/// A stretch of up to [`CHUNK_COLS_MAX`] columns of the panels of a tile, decoded.
struct Unpacked<'a> {
    layout: Layout,
    /// A multiple of [`RUN`].
    cols: usize,
    /// `[panels, cols / 4, 16 rows, 4 columns]` as stored, in u8, panels [`Self::PANEL_CODES`] apart.
    codes: &'a mut [u8],
    /// `[panels, runs · scales per run, 16]`, panels [`SCALES_MAX`] apart.
    scales: &'a mut [f32],
    /// `[panels, runs, 16]`, panels [`SCALES_MAX`] apart; only where the format has minima.
    minima: &'a mut [f32],
}

impl Unpacked<'_> {
    const PANEL_CODES: usize = CHUNK_COLS_MAX * PANEL;
}

/// `block [rows, panels · 16] = x[rows, x_col ..] · W[panels]ᵀ` on one thread.
pub(super) fn block_product(
    isa: Isa,
    format: BlockFormat,
    x: Bytes<'_>,
    (weights, panels): (&PackedMatrix, Range<usize>),
    block: &mut [f32],
    work: &mut [f32],
) {
    let tile = Tile {
        format,
        rows: block.len() / (panels.len() * PANEL),
        x,
        weights: weights.panel_data(panels.clone()),
        panel_bytes: weights.panel_bytes(),
        panels: panels.len(),
        cols: weights.padded_cols(),
    };
    tile.check(block);
    block.fill(0.0);
    if straight(isa, &tile, block, work) {
        return;
    }
    for_stretches(&tile, 0..tile.cols, work, |first, stretch| {
        unpack(isa, &tile, first, stretch);
        multiply(isa, &tile, first, stretch, block);
    });
}

/// Calls `product` with the first column of each stretch of some columns and room to unpack it.
fn for_stretches(
    tile: &Tile<'_>,
    cols: Range<usize>,
    work: &mut [f32],
    mut product: impl FnMut(usize, &mut Unpacked<'_>),
) {
    let (codes, work) = work.split_at_mut(TILE_PANELS * Unpacked::PANEL_CODES / 4);
    let (scales, work) = work.split_at_mut(TILE_PANELS * SCALES_MAX);
    let minima = &mut work[..TILE_PANELS * SCALES_MAX];
    let layout = Layout::of(tile.format);
    for first in cols.clone().step_by(CHUNK_COLS_MAX) {
        let cols = CHUNK_COLS_MAX.min(cols.end - first);
        let codes = bytemuck::cast_slice_mut(codes);
        product(first, &mut Unpacked { layout, cols, codes, scales, minima });
    }
}

/// One row, read back: `out [cols]`.
pub(super) fn read_row(format: BlockFormat, panel: &[u8], lane: usize, out: &mut [f32]) {
    scalar::read_row(Layout::of(format), panel, lane, out);
}

impl Tile<'_> {
    /// What the vector kernels rely on.
    fn check(&self, block: &[f32]) {
        let layout = Layout::of(self.format);
        assert!(self.cols.is_multiple_of(layout.chunk_cols()) && (1..=TILE_PANELS).contains(&self.panels));
        let bytes = self.cols / layout.chunk_cols() * layout.chunk_bytes();
        assert!((self.panels - 1) * self.panel_bytes + bytes <= self.weights.len());
        assert_eq!(block.len(), self.rows * self.panels * PANEL);
        let last = self.rows.saturating_sub(1);
        assert!(self.rows == 0 || last * self.x.stride + self.cols <= self.x.codes.len());
        assert!(self.rows == 0 || (last * self.x.stride + self.cols) / RUN <= self.x.heads.len());
        assert!(self.x.stride.is_multiple_of(RUN));
    }

    /// The codes of row `row` from column `col` on, and their runs.
    fn row(&self, row: usize, col: usize) -> (&[i8], &[RunHead]) {
        let at = row * self.x.stride + col;
        (&self.x.codes[at..], &self.x.heads[at / RUN..])
    }

    /// The chunk of panel `panel` that begins at column `col`.
    fn chunk(&self, panel: usize, col: usize) -> &[u8] {
        let layout = Layout::of(self.format);
        let at = panel * self.panel_bytes + col / layout.chunk_cols() * layout.chunk_bytes();
        &self.weights[at..at + layout.chunk_bytes()]
    }
}

/// Asks for what is to be fetched while quad `q` of a run is used, `ahead` of its chunk: a few lines at a time, as the
/// loads go. A whole run's at once would fill the core's line buffers, and loads would wait behind them.
#[cfg(vector_kernels)]
#[inline(always)]
fn fetch_share<F: layout::Format, const STREAMS: usize>(ahead: *const u8, run: usize, q: usize) {
    // A run's share of the chunk, scales included.
    let bytes = F::LAYOUT.chunk_bytes() / (F::SCALES.chunk_cols() / RUN);
    let lines = bytes.div_ceil(64);
    for line in q * lines / layout::QUADS..(q + 1) * lines / layout::QUADS {
        super::reading::fetch::<STREAMS>(ahead.wrapping_add(run * bytes + 64 * line));
    }
}

/// Multiplies straight from the panels where the ISA has a way to do so and it is the better one; `false` if not.
fn straight(isa: Isa, tile: &Tile<'_>, block: &mut [f32], work: &mut [f32]) -> bool {
    #[cfg(vector_kernels)]
    if isa >= Isa::Avx512 && avx512::available() {
        return avx512::few_rows(tile, block);
    }
    #[cfg(vector_kernels)]
    if isa >= Isa::Avx2 {
        avx2::multiply(tile, block, work);
        return true;
    }
    #[cfg(not(vector_kernels))]
    let _ = (isa, tile, block, work);
    false
}

fn unpack(isa: Isa, tile: &Tile<'_>, first: usize, stretch: &mut Unpacked<'_>) {
    #[cfg(vector_kernels)]
    if isa >= Isa::Avx512 {
        return avx512::unpack(tile, first, stretch);
    }
    #[cfg(not(vector_kernels))]
    let _ = isa;
    scalar::unpack(tile, first, stretch);
}

fn multiply(isa: Isa, tile: &Tile<'_>, first: usize, stretch: &Unpacked<'_>, block: &mut [f32]) {
    #[cfg(vector_kernels)]
    if isa >= Isa::Avx512 {
        return avx512::multiply(tile, first, stretch, block);
    }
    #[cfg(not(vector_kernels))]
    let _ = isa;
    scalar::multiply(tile, first, stretch, block);
}
