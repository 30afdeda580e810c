//! A right operand that is packed once and multiplied often.

use super::layout::{Layout, Side};
use super::pack::pack;
use super::{MatmulPrecision, View};
use crate::memory::AlignedBuffer;
use crate::shared::SharedSlice;
use crate::{Compute, Isa};

/// Columns that one unit of the packing takes, at least.
const UNIT_COLS: usize = 64;

/// `B [k, n]` in the panels of an ISA, one block after the other along the depth. Keeps its memory when it is
/// packed again: weights are packed once per optimizer step, in each orientation that is needed.
#[derive(Debug)]
pub struct PackedOperand {
    layout: Layout,
    rows: usize,
    cols: usize,
    panels: AlignedBuffer<f32>,
}

impl PackedOperand {
    /// Nothing packed: `[0, 0]`.
    pub fn empty() -> Self {
        let layout = Layout::of(Isa::Scalar, MatmulPrecision::F32);
        Self { layout, rows: 0, cols: 0, panels: AlignedBuffer::default() }
    }

    /// Packs `b [k, n]`, in one parallel region.
    ///
    /// # Panics
    /// If `b` leaves its memory.
    pub fn pack(&mut self, compute: &Compute, precision: MatmulPrecision, b: View<'_>) {
        b.check("B");
        let layout = Layout::of(compute.isa, precision);
        (self.layout, self.rows, self.cols) = (layout, b.rows, b.cols);
        let len = self.len();
        self.panels.reserve(len);
        let unit_cols = UNIT_COLS.next_multiple_of(layout.right);
        let (across, blocks) = (b.cols.div_ceil(unit_cols), b.rows.div_ceil(layout.depth));
        let panels = SharedSlice::new(&mut self.panels.as_mut_slice()[..len]);
        let block_len = layout.len(Side::Right, b.cols, layout.depth);
        compute.pool.run(blocks * across, |unit, _| {
            let (block, col) = (unit / across, unit % across * unit_cols);
            let row = block * layout.depth;
            let part = b.sub(row..b.rows.min(row + layout.depth), col..b.cols.min(col + unit_cols));
            let start = block * block_len + layout.len(Side::Right, col, part.rows);
            // SAFETY: units cut blocks and panels without overlap.
            let out = unsafe { panels.range_mut(start, layout.len(Side::Right, part.cols, part.rows)) };
            pack(layout, Side::Right, part, out);
        });
    }

    /// Rows of the operand: the depth of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that the panels take.
    pub fn bytes(&self) -> usize {
        self.len() * size_of::<f32>()
    }

    fn len(&self) -> usize {
        let (whole, rest) = (self.rows / self.layout.depth, self.rows % self.layout.depth);
        let of_depth = |depth| self.layout.len(Side::Right, self.cols, depth);
        whole * of_depth(self.layout.depth) + of_depth(rest)
    }

    /// What it was packed for.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Panels of some columns in the block that begins at row `depth`. `cols` begins with a panel.
    pub(super) fn block(&self, first_row: usize, cols: std::ops::Range<usize>) -> &[f32] {
        let layout = self.layout;
        let depth = layout.depth.min(self.rows - first_row);
        let start = first_row / layout.depth * layout.len(Side::Right, self.cols, layout.depth)
            + layout.len(Side::Right, cols.start, depth);
        &self.panels.as_slice()[start..start + layout.len(Side::Right, cols.len(), depth)]
    }
}

impl Default for PackedOperand {
    fn default() -> Self {
        Self::empty()
    }
}
