//! Weights in the layout the kernels read.
//!
//! A matrix `W [rows, cols]` (a checkpoint's `[out_features, in_features]`) is cut into panels of
//! [`PANEL`] rows. A panel holds its rows side by side, column after column, so that one register
//! of 16 lanes is one column of 16 outputs and no sum ever crosses lanes:
//!
//! ```text
//! f32   panel = [padded_cols]     × [16 rows] f32
//! f16   panel = [padded_cols / 2] × [2 columns] × [16 rows] f16
//! bf16  panel = [padded_cols / 2] × [16 rows] × [2 columns] bf16
//! fp8   panel = [padded_cols / 128] × ([16 rows] f32 scales, [64] × [2 columns] × [16 rows] e4m3)
//! integer codes: quantized/layout.rs
//! ```
//!
//! The bf16 order is the one the AMX tile unit multiplies (`tdpbf16ps` takes pairs); AVX-512
//! widens the same cache line with a shift and a mask. So one copy of the weights serves decode
//! and prefill on every ISA, and decode reads each panel as one stream from start to end.
//! Columns are padded with zeroes to a multiple of 2 (kernels walk in pairs), in bf16 of 32 (one tile), in
//! formats of blocks to whole chunks.

use std::ops::Range;
use std::sync::Mutex;

use fathom_numeric::blocks::BlockFormat;
use fathom_numeric::{bf16, f16, round};

use super::format::WeightFormat;
use super::fp8;
use super::quantized::{self, Layout};
use crate::encode::encode;
use crate::math::per_isa;
use crate::memory::{AlignedBuffer, Scratch};
use crate::shared::SharedSlice;
use crate::{Compute, Isa, SharedBytes, WeightBytes};

/// Rows of a panel: outputs computed side by side.
pub const PANEL: usize = 16;

/// The version of the panels' bytes, for files that hold them. To be raised with every change of what the same
/// weights are packed to: here, in `quantized/layout.rs`, `quantized/pack.rs` or `fp8.rs`, or in how a format
/// rounds. The instruction set does not matter: one layout serves all.
pub const LAYOUT: &str = if cfg!(target_endian = "little") { "panels 1" } else { "panels 1, big-endian" };

/// A weight matrix `[rows, cols]` in panels.
#[derive(Debug)]
pub struct PackedMatrix {
    format: WeightFormat,
    rows: usize,
    cols: usize,
    data: WeightBytes,
    /// `[panels · 16]`, added to every result.
    bias: Option<Vec<f32>>,
}

impl PackedMatrix {
    /// Packs a matrix of floats panel by panel, panels in parallel. `fetch(panel, values)` fills `values`
    /// `[16, cols]` (zeroed before the call) with rows `16 · panel ..`; rows beyond the matrix
    /// stay zero. Only one panel per thread is ever held unpacked. Formats of blocks are encoded row by row.
    ///
    /// # Errors
    /// The first error that `fetch` returned.
    pub fn build<E: Send>(
        compute: &Compute,
        format: WeightFormat,
        [rows, cols]: [usize; 2],
        fetch: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let encoded = encoded_bytes(format, cols);
        Self::pack(compute, format, [rows, cols], |panel, scratch, packed| {
            let [values, blocks] = scratch.floats([PANEL * cols, encoded.div_ceil(size_of::<f32>())]);
            values.fill(0.0);
            fetch(panel, values)?;
            match format {
                WeightFormat::F32 => pack_f32(compute.isa, values, cols, bytemuck::cast_slice_mut(packed)),
                WeightFormat::F16 => pack_f16(compute.isa, values, cols, bytemuck::cast_slice_mut(packed)),
                WeightFormat::Bf16 => pack_bf16(compute.isa, values, cols, bytemuck::cast_slice_mut(packed)),
                WeightFormat::Block(block) => {
                    let blocks = &mut bytemuck::cast_slice_mut(blocks)[..encoded];
                    let row_bytes = block.row_bytes(cols);
                    for (row, out) in values.chunks_exact(cols.max(1)).zip(blocks.chunks_exact_mut(row_bytes))
                    {
                        encode(compute.isa, block, row, None, out);
                    }
                    let lanes = std::array::from_fn(|lane| &blocks[lane * row_bytes..][..row_bytes]);
                    pack_blocks(compute.isa, block, &lanes, packed);
                }
            }
            Ok(())
        })
    }

    /// Packs a matrix whose rows are stored as blocks already, without rounding anything.
    /// `fetch(row, out)` fills `out` `[format.row_bytes(cols)]` and says whether there is such a row:
    /// `false` leaves it zero.
    ///
    /// # Errors
    /// The first error that `fetch` returned.
    pub fn from_blocks<E: Send>(
        compute: &Compute,
        format: BlockFormat,
        [rows, cols]: [usize; 2],
        fetch: impl Fn(usize, &mut [u8]) -> Result<bool, E> + Sync,
    ) -> Result<Self, E> {
        let row_bytes = format.row_bytes(cols);
        Self::pack(compute, WeightFormat::Block(format), [rows, cols], |panel, scratch, packed| {
            let [blocks] = scratch.floats([(PANEL * row_bytes).div_ceil(size_of::<f32>())]);
            let blocks = &mut bytemuck::cast_slice_mut(blocks)[..PANEL * row_bytes];
            let mut there = [false; PANEL];
            for lane in 0..PANEL.min(rows - panel * PANEL) {
                there[lane] = fetch(panel * PANEL + lane, &mut blocks[lane * row_bytes..][..row_bytes])?;
            }
            let lane = |lane: usize| if there[lane] { &blocks[lane * row_bytes..][..row_bytes] } else { &[] };
            pack_blocks(compute.isa, format, &std::array::from_fn(lane), packed);
            Ok(())
        })
    }

    /// Fills every panel, panels in parallel; a panel is zeroed before.
    fn pack<E: Send>(
        compute: &Compute,
        format: WeightFormat,
        [rows, cols]: [usize; 2],
        fill: impl Fn(usize, &mut Scratch, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let mut buffer = AlignedBuffer::among_others(packed_bytes(format, [rows, cols]));
        let panels = rows.div_ceil(PANEL);
        let panel_bytes = packed_bytes(format, [PANEL, cols]);
        let failure = Mutex::new(None);
        let data = SharedSlice::new(buffer.as_mut_slice());
        compute.pool.run(panels, |panel, scratch: &mut Scratch| {
            // SAFETY: every panel is one unit's own range.
            let packed = unsafe { data.range_mut(panel * panel_bytes, panel_bytes) };
            if let Err(error) = fill(panel, scratch, packed) {
                failure.lock().expect("no thread panics while it holds this").get_or_insert(error);
            }
        });
        match failure.into_inner().expect("no thread panicked") {
            Some(error) => Err(error),
            None => Ok(Self { format, rows, cols, data: buffer.into(), bias: None }),
        }
    }

    /// Packs a row-major matrix that is already in memory.
    ///
    /// # Panics
    /// If `values.len() != rows * cols`.
    pub fn from_rows(compute: &Compute, format: WeightFormat, shape: [usize; 2], values: &[f32]) -> Self {
        let [rows, cols] = shape;
        assert_eq!(values.len(), rows * cols, "values are [{rows}, {cols}]");
        let fetch = |panel: usize, out: &mut [f32]| {
            let first = panel * PANEL * cols;
            let available = (values.len() - first).min(out.len());
            out[..available].copy_from_slice(&values[first..first + available]);
            Ok::<(), std::convert::Infallible>(())
        };
        match Self::build(compute, format, shape, fetch) {
            Ok(matrix) => matrix,
            Err(never) => match never {},
        }
    }

    /// The matrix whose panels, as [`PackedMatrix::data_bytes`] gave them under the same [`LAYOUT`], are the bytes
    /// `range` of `owner`. Nothing is copied. `None` if a size does not fit, `bias` is not `[rows]`, or the bytes
    /// do not begin on a multiple of 64.
    pub fn from_mapped(
        format: WeightFormat,
        [rows, cols]: [usize; 2],
        bias: Option<Vec<f32>>,
        owner: SharedBytes,
        range: Range<usize>,
    ) -> Option<Self> {
        let data = WeightBytes::mapped(owner, range)?;
        let len = data.as_slice().len();
        // Every format has more bytes in a panel than the panel has columns: no product below can wrap.
        if cols > len {
            return None;
        }
        let panel = panel_bytes(format, cols.next_multiple_of(column_multiple(format)));
        let fits = rows.div_ceil(PANEL).checked_mul(panel) == Some(len);
        let bias_fits = bias.as_ref().is_none_or(|bias| bias.len() == rows);
        if !fits || !bias_fits {
            return None;
        }
        let matrix = Self { format, rows, cols, data, bias: None };
        Some(match bias {
            Some(bias) => matrix.with_bias(&bias),
            None => matrix,
        })
    }

    /// Adds `bias [rows]` to every product with this matrix.
    ///
    /// # Panics
    /// If `bias` is not `[rows]`.
    pub fn with_bias(mut self, bias: &[f32]) -> Self {
        assert_eq!(bias.len(), self.rows);
        let mut padded = bias.to_vec();
        padded.resize(self.panels() * PANEL, 0.0);
        self.bias = Some(padded);
        self
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the weights are stored.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// The panels, one behind the other: what [`PackedMatrix::from_mapped`] takes.
    pub fn data_bytes(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// Whether the panels are a range of a mapping.
    pub fn is_mapped(&self) -> bool {
        self.data.is_mapped()
    }

    /// The bias `[rows]`, if there is one.
    pub fn bias_values(&self) -> Option<&[f32]> {
        self.bias.as_ref().map(|bias| &bias[..self.rows])
    }

    /// Writes row `row` `[cols]`, as stored, to `out`.
    ///
    /// # Panics
    /// If the row does not exist or `out` is not `[cols]`.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        let (panel, lane) = (self.panel(row / PANEL), row % PANEL);
        match self.format {
            WeightFormat::F32 => {
                let columns = bytemuck::cast_slice::<u8, f32>(panel).chunks_exact(PANEL);
                out.iter_mut().zip(columns).for_each(|(out, column)| *out = column[lane]);
            }
            WeightFormat::F16 => {
                let columns = bytemuck::cast_slice::<u8, f16>(panel).chunks_exact(PANEL);
                out.iter_mut().zip(columns).for_each(|(out, column)| *out = column[lane].to_f32());
            }
            WeightFormat::Block(BlockFormat::Fp8) => fp8::read_row(panel, lane, out),
            WeightFormat::Block(format) => quantized::read_row(format, panel, lane, out),
            WeightFormat::Bf16 => {
                let pairs = bytemuck::cast_slice::<u8, bf16>(panel).chunks_exact(2 * PANEL);
                for (out, pair) in out.chunks_mut(2).zip(pairs) {
                    for (out, weight) in out.iter_mut().zip(&pair[2 * lane..]) {
                        *out = weight.to_f32();
                    }
                }
            }
        }
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    pub(crate) fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(column_multiple(self.format))
    }

    pub(crate) fn panel_bytes(&self) -> usize {
        panel_bytes(self.format, self.padded_cols())
    }

    fn panel(&self, panel: usize) -> &[u8] {
        &self.data.as_slice()[panel * self.panel_bytes()..][..self.panel_bytes()]
    }

    /// The bias of panels `panels`, if there is one.
    pub(crate) fn bias(&self, panels: Range<usize>) -> Option<&[f32]> {
        self.bias.as_ref().map(|bias| &bias[panels.start * PANEL..panels.end * PANEL])
    }

    /// Whole panels.
    pub(crate) fn panel_data(&self, panels: Range<usize>) -> &[u8] {
        &self.data.as_slice()[panels.start * self.panel_bytes()..panels.end * self.panel_bytes()]
    }
}

/// Bytes that a matrix takes when packed, padding included.
pub fn packed_bytes(format: WeightFormat, [rows, cols]: [usize; 2]) -> usize {
    rows.div_ceil(PANEL) * panel_bytes(format, cols.next_multiple_of(column_multiple(format)))
}

/// Columns are padded to a multiple of this.
fn column_multiple(format: WeightFormat) -> usize {
    match format {
        WeightFormat::F32 | WeightFormat::F16 => 2,
        WeightFormat::Bf16 => 32,
        WeightFormat::Block(BlockFormat::Fp8) => fp8::CHUNK_COLS,
        WeightFormat::Block(format) => Layout::of(format).chunk_cols(),
    }
}

fn panel_bytes(format: WeightFormat, padded_cols: usize) -> usize {
    match format {
        WeightFormat::F32 => padded_cols * PANEL * 4,
        WeightFormat::F16 | WeightFormat::Bf16 => padded_cols * PANEL * 2,
        WeightFormat::Block(BlockFormat::Fp8) => padded_cols / fp8::CHUNK_COLS * fp8::CHUNK_BYTES,
        WeightFormat::Block(format) => {
            let layout = Layout::of(format);
            padded_cols / layout.chunk_cols() * layout.chunk_bytes()
        }
    }
}

/// Bytes of the blocks of a panel's rows.
fn encoded_bytes(format: WeightFormat, cols: usize) -> usize {
    match format {
        WeightFormat::Block(format) => PANEL * format.row_bytes(cols),
        _ => 0,
    }
}

fn pack_blocks(isa: Isa, format: BlockFormat, rows: &[&[u8]; PANEL], packed: &mut [u8]) {
    match format {
        BlockFormat::Fp8 => fp8::pack_panel(isa, rows, packed),
        _ => quantized::pack_panel(isa, format, rows, packed),
    }
}

per_isa! {
    /// Column after column, so that the panel is written as one stream.
    fn pack_f32(values: &[f32], cols: usize, packed: &mut [f32]) {
        let rows: [&[f32]; PANEL] = std::array::from_fn(|lane| &values[lane * cols..][..cols]);
        let (columns, _) = packed.as_chunks_mut::<PANEL>();
        for (col, column) in columns.iter_mut().enumerate().take(cols) {
            for lane in 0..PANEL {
                column[lane] = rows[lane][col];
            }
        }
    }
}

per_isa! {
    /// As [`pack_f32`].
    fn pack_f16(values: &[f32], cols: usize, packed: &mut [u16]) {
        let rows: [&[f32]; PANEL] = std::array::from_fn(|lane| &values[lane * cols..][..cols]);
        let (columns, _) = packed.as_chunks_mut::<PANEL>();
        for (col, column) in columns.iter_mut().enumerate().take(cols) {
            for lane in 0..PANEL {
                column[lane] = f16::from_f32(rows[lane][col]).to_bits();
            }
        }
    }
}

per_isa! {
    /// Two columns at a time: each pair is one word.
    fn pack_bf16(values: &[f32], cols: usize, packed: &mut [u32]) {
        let rows: [&[f32]; PANEL] = std::array::from_fn(|lane| &values[lane * cols..][..cols]);
        let (pairs, _) = packed.as_chunks_mut::<PANEL>();
        for (pair, words) in pairs.iter_mut().enumerate().take(cols / 2) {
            for lane in 0..PANEL {
                let (even, odd) = (rows[lane][2 * pair], rows[lane][2 * pair + 1]);
                words[lane] = u32::from(round::to_bf16_bits(even)) | u32::from(round::to_bf16_bits(odd)) << 16;
            }
        }
        if !cols.is_multiple_of(2) {
            for lane in 0..PANEL {
                pairs[cols / 2][lane] = u32::from(round::to_bf16_bits(rows[lane][cols - 1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn rows_come_back_as_stored() {
        let compute = Compute::with_isa(Isa::Scalar, 2);
        for (rows, cols) in [(1, 1), (16, 32), (17, 5), (40, 33)] {
            let values: Vec<f32> = (0..rows * cols).map(|i| i as f32 * 0.37 - 3.0).collect();
            for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16] {
                let matrix = PackedMatrix::from_rows(&compute, format, [rows, cols], &values);
                let mut row = vec![0.0; cols];
                for index in 0..rows {
                    matrix.read_row(index, &mut row);
                    for (stored, &value) in row.iter().zip(&values[index * cols..]) {
                        let expected = match format {
                            WeightFormat::Bf16 => bf16::from_f32(value).to_f32(),
                            WeightFormat::F16 => f16::from_f32(value).to_f32(),
                            _ => value,
                        };
                        assert_eq!(*stored, expected, "{format:?} [{rows}, {cols}] row {index}");
                    }
                }
            }
        }
    }

    /// Bytes that begin on a cache line, as a mapping does.
    struct Pages(AlignedBuffer<u8>);

    impl AsRef<[u8]> for Pages {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }

    #[test]
    fn mapped_panels_are_the_packed_ones_and_nothing_else_is() {
        let compute = Compute::with_isa(Isa::Scalar, 2);
        let plain = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16];
        for format in plain.into_iter().chain(BlockFormat::all().map(WeightFormat::Block)) {
            let (rows, cols) = (21, 256);
            let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
            let bias: Vec<f32> = (0..rows).map(|i| i as f32).collect();
            let packed = PackedMatrix::from_rows(&compute, format, [rows, cols], &values).with_bias(&bias);
            let bytes = packed.data_bytes();
            assert_eq!(bytes.len(), packed_bytes(format, [rows, cols]));
            let mut pages = AlignedBuffer::zeroed(bytes.len() + 2 * 64);
            pages.as_mut_slice()[64..][..bytes.len()].copy_from_slice(bytes);
            let owner: SharedBytes = std::sync::Arc::new(Pages(pages));
            let map = |shape, bias: Option<&[f32]>, range| {
                PackedMatrix::from_mapped(format, shape, bias.map(<[f32]>::to_vec), owner.clone(), range)
            };
            let range = 64..64 + bytes.len();
            let mapped = map([rows, cols], Some(&bias), range.clone()).expect("it fits");
            assert!(mapped.is_mapped() && !packed.is_mapped());
            assert_eq!((mapped.rows(), mapped.cols(), mapped.format()), (rows, cols, format));
            assert_eq!((mapped.data_bytes(), mapped.bias_values()), (bytes, Some(&bias[..])));
            let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
            for row in 0..rows {
                packed.read_row(row, &mut a);
                mapped.read_row(row, &mut b);
                assert_eq!(a, b, "{format} row {row}");
            }
            let bad = [
                (map([rows + 16, cols], None, range.clone()), "rows"),
                (map([rows, cols + 256], None, range.clone()), "columns"),
                (map([rows, usize::MAX], None, range.clone()), "columns beyond everything"),
                (map([usize::MAX, cols], None, range.clone()), "rows beyond everything"),
                (map([rows, cols], Some(&bias[1..]), range.clone()), "bias"),
                (map([rows, cols], None, 65..range.end + 1), "alignment"),
                (map([rows, cols], None, 64..range.end - 64), "too short"),
                (map([rows, cols], None, 128..range.end + 128), "beyond the end"),
            ];
            for (matrix, what) in bad {
                assert!(matrix.is_none(), "{format}: {what}");
            }
        }
    }

    #[test]
    fn an_error_of_the_source_is_returned() {
        let compute = Compute::with_isa(Isa::Scalar, 2);
        let fetch = |panel: usize, _: &mut [f32]| if panel == 3 { Err("third") } else { Ok(()) };
        let result = PackedMatrix::build(&compute, WeightFormat::F32, [100, 8], fetch);
        assert_eq!(result.err(), Some("third"));
    }
}
