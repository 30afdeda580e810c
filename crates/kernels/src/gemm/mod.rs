//! `y = x · Wᵀ` on packed weights: one region for one matrix, a layer's heads, or all experts.
//!
//! **Roofline.** With few rows the product is bound by reading `W` once: bytes over memory
//! bandwidth. With many it is bound by `2 · rows · W.rows · W.cols` operations over the peak of
//! the widest multiplier (AMX bf16, else f32 FMA). Between the two, `W` must come from DRAM once,
//! whatever the number of rows: a unit is a few panels times a few hundred rows, and consecutive
//! units share their panels.
//!
//! **Contract of an ISA** (`scalar.rs` and its siblings): one `Tile`, that is `rows ≤` a few
//! hundred rows of activations times at most `TILE_PANELS` (4) panels over a range of columns,
//! accumulated into a dense block `[rows, panels · 16]`. Ragged edges of `y` are cut when the
//! block is stored, so no kernel knows of them.
//!
//! **Numbers.** f32 and f16 weights: products and sums in f32. bf16 weights: activations are rounded to
//! bf16 too, products are exact, sums are f32; ISAs differ in the order of their sums only. FP8 weights
//! (`fp8.rs`): the same within 128 columns. Integer codes (`quantized/`): activations in int8.
//!
//! **A row alone is a row among others.** An output is summed over its columns in one order, whatever the number
//! of rows: bit for bit the same alone and in any batch. Only the tile unit differs: its rows are rounded, or
//! summed, in another way than those of too few rows to go there.

mod activations;
#[cfg(vector_kernels)]
mod amx;
#[cfg(vector_kernels)]
mod avx2;
#[cfg(vector_kernels)]
mod avx512;
mod format;
mod fp8;
mod packed;
#[cfg(vector_kernels)]
mod pairs;
pub(crate) mod quantized;
#[cfg(vector_kernels)]
mod reading;
mod scalar;
#[cfg(test)]
mod tests;

use std::ops::Range;

use activations::Operand;
pub use activations::{Activations, Gathered, Rows};
use fathom_numeric::blocks::BlockFormat;
pub use format::{Precision, Precisions, WeightFormat};
pub use packed::{LAYOUT, PANEL, PackedMatrix, packed_bytes};

#[cfg(all(test, vector_kernels, target_os = "linux"))]
pub(crate) use amx::emulator::step as step_amx;
#[cfg(vector_kernels)]
pub(crate) use amx::{
    Shape as AmxShape, available as amx_available, int8_available as amx_int8_available, peak as amx_peak,
    release as amx_release,
};
#[cfg(all(test, vector_kernels, target_os = "linux"))]
pub(crate) use quantized::step_vnni;

use crate::memory::Scratch;
use crate::shared::{SharedSlice, Window};
use crate::{Compute, Isa};

/// Panels a tile covers at most: four streams of weights, which is what the prefetchers of Intel's
/// servers follow best, and as many accumulators as use a weight often.
const TILE_PANELS: usize = 4;

/// Rows of one unit: enough to read weights once per few hundred rows, few enough that the
/// unit's block of results stays in the second-level cache.
const UNIT_ROWS: usize = 256;

/// Columns multiplied before moving to the next rows, so that the weights of a tile stay in the
/// second-level cache and its activations in the first.
const UNIT_COLS: usize = 2048;

/// Rows up to which a unit runs through all columns at once: weights are then read as one stream.
const STREAM_ROWS: usize = 6;

/// One product of a [`gemm`] call: some rows and columns of the activations times one matrix.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// `W [n, k]`.
    pub weights: &'a PackedMatrix,
    /// Rows of the activations, and the same rows of `y`.
    pub rows: Range<usize>,
    /// First column of the activations that is multiplied; `k` columns are.
    pub x_col: usize,
    /// First column of `y` that is written.
    pub y_col: usize,
}

impl<'a> Group<'a> {
    /// All rows and all columns of `x` times `weights`.
    pub fn whole(weights: &'a PackedMatrix, x: &Activations) -> Self {
        Self { weights, rows: 0..x.rows(), x_col: 0, y_col: 0 }
    }
}

/// What happens to a block of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `y = x · Wᵀ` (+ bias).
    Store,
    /// `W` holds panels of gate and up projections in turn (gate panel 0, up panel 0, gate panel
    /// 1, …): `y = silu(gate) · up`, half as wide as `W` has rows.
    SwiGlu {
        /// Columns of `y`: `moe_intermediate_size` or `intermediate_size`. A `W` of fewer rows, which is a narrower
        /// expert among others, leaves the last ones as they are.
        width: usize,
    },
}

/// Rows of results, `stride` apart.
#[derive(Debug)]
pub struct Output<'a> {
    /// The buffer; the first row begins at its first element.
    pub values: &'a mut [f32],
    /// From the beginning of one row to the next.
    pub stride: usize,
}

/// Computes every group's product in one parallel region.
///
/// # Panics
/// If a group's rows or columns leave `x` or `y`, if the weights' format is not the one the
/// activations were prepared for, or if groups do not advance: each must begin in rows where the one
/// before it ended, or hold the same rows and begin in columns of `y` where that one ended.
pub fn gemm(compute: &Compute, x: &Activations, groups: &[Group<'_>], epilogue: Epilogue, y: Output<'_>) {
    check(x, groups, epilogue, &y);
    let results = Results { epilogue, stride: y.stride, y: SharedSlice::new(y.values) };
    let units: usize = groups.iter().map(Group::units).sum();
    compute.pool.run_spans(units, |span, scratch| {
        let mut first = 0;
        for group in groups {
            let end = first + group.units();
            for unit in span.start.max(first)..span.end.min(end) {
                product(compute.isa, x, group, group.unit(unit - first), &results, scratch);
            }
            if end >= span.end {
                break;
            }
            first = end;
        }
    });
}

/// Where products go.
struct Results<'a> {
    epilogue: Epilogue,
    stride: usize,
    y: SharedSlice<'a, f32>,
}

/// Some rows of a group times some panels, to where they belong.
fn product(
    isa: Isa,
    x: &Activations,
    group: &Group<'_>,
    (rows, panels): (Range<usize>, Range<usize>),
    &Results { epilogue, stride, ref y }: &Results<'_>,
    scratch: &mut Scratch,
) {
    let width = panels.len() * PANEL;
    #[cfg(vector_kernels)]
    if stored_by_tiles(isa, x, group, panels.clone(), epilogue) {
        let first = rows.start * stride + group.y_col + panels.start * PANEL;
        // SAFETY: as for the rows below.
        let mut out = unsafe { y.window(first, [rows.len(), width], stride) };
        let [work] = scratch.floats([work(group.weights.format())]);
        return tile_product(x, group, rows, panels, &mut out, work);
    }
    let [block, work] = scratch.floats([rows.len() * width, work(group.weights.format())]);
    block_product(isa, x, group, rows.clone(), panels.clone(), block, work);
    if let Some(bias) = group.weights.bias(panels.clone()) {
        for row in block.chunks_exact_mut(width) {
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
    }
    for (row, values) in rows.zip(block.chunks_exact(width)) {
        let (first, len) = match epilogue {
            Epilogue::Store => {
                let first = panels.start * PANEL;
                (first, width.min(group.weights.rows() - first))
            }
            Epilogue::SwiGlu { width: columns } => {
                let first = panels.start / 2 * PANEL;
                (first, (width / 2).min(columns - first))
            }
        };
        // SAFETY: units cut (group, row, panel) without overlap, and `check` made sure that
        // groups write disjoint columns or rows.
        let out = unsafe { y.range_mut(row * stride + group.y_col + first, len) };
        match epilogue {
            Epilogue::Store => out.copy_from_slice(&values[..len]),
            Epilogue::SwiGlu { .. } => crate::swiglu::interleaved(isa, values, out),
        }
    }
}

impl Group<'_> {
    fn units(&self) -> usize {
        self.panel_chunks() * self.rows.len().div_ceil(UNIT_ROWS)
    }

    fn panel_chunks(&self) -> usize {
        self.weights.panels().div_ceil(TILE_PANELS)
    }

    /// Rows and panels of a unit; consecutive units share their rows, which stay in the second-level cache while
    /// weights stream.
    fn unit(&self, unit: usize) -> (Range<usize>, Range<usize>) {
        let (panel, chunk) = (unit % self.panel_chunks() * TILE_PANELS, unit / self.panel_chunks());
        let row = self.rows.start + chunk * UNIT_ROWS;
        (row..self.rows.end.min(row + UNIT_ROWS), panel..self.weights.panels().min(panel + TILE_PANELS))
    }
}

fn check(x: &Activations, groups: &[Group<'_>], epilogue: Epilogue, y: &Output<'_>) {
    for group in groups {
        let weights = group.weights;
        let width = match epilogue {
            Epilogue::Store => weights.rows(),
            Epilogue::SwiGlu { width } => {
                let pairs = weights.rows().is_multiple_of(2 * PANEL);
                assert!(
                    pairs && weights.rows() <= 2 * width.next_multiple_of(PANEL),
                    "gate and up panels in turn"
                );
                width
            }
        };
        assert!(
            x.holds(weights.format().precision()) || group.rows.is_empty(),
            "activations of another precision"
        );
        let within =
            |first: usize, len: usize, end: usize| first.checked_add(len).is_some_and(|sum| sum <= end);
        assert!(
            group.rows.end <= x.rows() && within(group.x_col, weights.cols(), x.cols()),
            "group leaves x"
        );
        assert!(within(group.y_col, width, y.stride), "group leaves y's columns");
        let last = group.rows.end.saturating_sub(1).checked_mul(y.stride).expect("y's rows fit memory");
        assert!(
            group.rows.is_empty() || within(last, group.y_col + width, y.values.len()),
            "group leaves y's rows"
        );
    }
    // Each group begins where an earlier one ended, in rows or (same rows) in columns: then no two
    // groups of the list can overlap, which is what makes the region's writes disjoint.
    let mut previous: Option<&Group<'_>> = None;
    for group in groups.iter().filter(|group| !group.rows.is_empty()) {
        if let Some(before) = previous {
            let next_rows = before.rows.end <= group.rows.start;
            let next_cols = before.rows == group.rows && before.y_col + before.weights.rows() <= group.y_col;
            assert!(next_rows || next_cols, "groups must advance in rows, or in columns of the same rows");
        }
        previous = Some(group);
    }
}

/// f32-sized words that a unit needs besides its block.
fn work(format: WeightFormat) -> usize {
    match format {
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => 0,
        WeightFormat::Block(BlockFormat::Fp8) => fp8::WORK,
        WeightFormat::Block(_) => quantized::WORK,
    }
}

/// Whether the tile unit computes a group's product.
#[cfg(vector_kernels)]
fn on_tiles(isa: Isa, x: &Activations, group: &Group<'_>) -> bool {
    match group.weights.format() {
        WeightFormat::Bf16 => isa == Isa::Amx && x.in_halves(),
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Block(BlockFormat::Fp8) => false,
        WeightFormat::Block(_) => x.decodes(group.rows.len()),
    }
}

/// Whether the tile unit may leave its sums in `y` itself: nothing is to be done to them, and `y` has all of the
/// panels' columns.
#[cfg(vector_kernels)]
fn stored_by_tiles(
    isa: Isa,
    x: &Activations,
    group: &Group<'_>,
    panels: Range<usize>,
    epilogue: Epilogue,
) -> bool {
    epilogue == Epilogue::Store
        && panels.end * PANEL <= group.weights.rows()
        && group.weights.bias(panels).is_none()
        && on_tiles(isa, x, group)
}

/// `out [rows, panels · 16] = x[rows, x_col ..] · W[panels]ᵀ` on one thread and its tile unit.
#[cfg(vector_kernels)]
fn tile_product(
    x: &Activations,
    group: &Group<'_>,
    rows: Range<usize>,
    panels: Range<usize>,
    out: &mut Window<'_, f32>,
    work: &mut [f32],
) {
    let weights = (group.weights, panels);
    match group.weights.format() {
        WeightFormat::Block(format) => {
            let x = x.halves(rows.start, group.x_col);
            quantized::decoded::block_product(format, x, weights, out, work);
        }
        _ => {
            let x = (x.operand(Precision::Bf16, rows.start, group.x_col), x.stride());
            plain_product(x, weights, rows.len(), |tile| amx::multiply(tile, out));
        }
    }
}

/// `block [rows, panels · 16] = x[rows, x_col ..] · W[panels]ᵀ` on one thread.
fn block_product(
    isa: Isa,
    x: &Activations,
    group: &Group<'_>,
    rows: Range<usize>,
    panels: Range<usize>,
    block: &mut [f32],
    work: &mut [f32],
) {
    #[cfg(vector_kernels)]
    if on_tiles(isa, x, group) {
        let out = &mut Window::dense(block, panels.len() * PANEL);
        return tile_product(x, group, rows, panels, out, work);
    }
    let weights = group.weights;
    let operand = |precision| (x.operand(precision, rows.start, group.x_col), x.stride());
    match weights.format() {
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => {
            let x = operand(weights.format().precision());
            plain_product(x, (weights, panels), rows.len(), |tile| multiply(isa, tile, block));
        }
        WeightFormat::Block(BlockFormat::Fp8) => {
            fp8::block_product(isa, operand(Precision::Bf16), (weights, panels), block, work);
        }
        WeightFormat::Block(format) => {
            let x = x.bytes(rows.start, group.x_col);
            quantized::block_product(isa, format, x, (weights, panels), block, work);
        }
    }
}

/// The product with weights that are numbers by themselves, one stretch of columns after the other.
fn plain_product(
    (x, x_stride): (Operand<'_>, usize),
    (weights, panels): (&PackedMatrix, Range<usize>),
    rows: usize,
    mut multiply: impl FnMut(&Tile<'_>),
) {
    let cols = weights.padded_cols();
    let step = if rows <= STREAM_ROWS { cols } else { UNIT_COLS };
    for first in (0..cols.max(1)).step_by(step.max(1)) {
        let tile = Tile {
            x: match x {
                Operand::Floats(x) => Operand::Floats(&x[first..]),
                Operand::Halves(x) => Operand::Halves(&x[first..]),
            },
            x_stride,
            rows,
            format: weights.format(),
            weights: weights.panel_data(panels.clone()),
            panel_bytes: weights.panel_bytes(),
            first_col: first,
            panels: panels.len(),
            cols: step.min(cols - first),
            accumulate: first > 0,
        };
        multiply(&tile);
    }
}

/// What an ISA multiplies: `rows × (panels · 16) × cols`.
struct Tile<'a> {
    /// `[rows, cols]`, rows `x_stride` apart.
    x: Operand<'a>,
    x_stride: usize,
    rows: usize,
    format: WeightFormat,
    /// Panels, `panel_bytes` apart.
    weights: &'a [u8],
    panel_bytes: usize,
    /// The first of the panels' columns that is multiplied (a multiple of 32 in bf16).
    first_col: usize,
    /// 1 to [`TILE_PANELS`].
    panels: usize,
    /// A multiple of 32 in bf16.
    cols: usize,
    /// Add to the block instead of overwriting it.
    accumulate: bool,
}

fn multiply(isa: Isa, tile: &Tile<'_>, block: &mut [f32]) {
    assert_eq!(block.len(), tile.rows * tile.panels * PANEL);
    match isa {
        Isa::Scalar => scalar::multiply(tile, block),
        #[cfg(vector_kernels)]
        Isa::Avx2 => avx2::multiply(tile, block),
        #[cfg(vector_kernels)]
        Isa::Avx512 => match tile.x {
            Operand::Floats(_) => avx512::multiply(tile, block),
            Operand::Halves(x) => pairs::multiply(tile, x, block),
        },
        #[cfg(vector_kernels)]
        Isa::Amx => match tile.x {
            Operand::Floats(_) => avx512::multiply(tile, block),
            Operand::Halves(_) => amx::multiply(tile, &mut Window::dense(block, tile.panels * PANEL)),
        },
        #[cfg(not(vector_kernels))]
        _ => unreachable!("only the scalar ISA exists on this architecture"),
    }
}
