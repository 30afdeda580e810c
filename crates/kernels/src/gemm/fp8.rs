//! Products with E4M3 weights kept at one byte: V3's checkpoint as it is stored.
//!
//! A panel is a stream of chunks of 128 columns: `[16]` f32 scales, then `[64] × [2 columns] × [16 rows]`
//! codes. Within a chunk codes meet activations rounded to bf16, products are exact and sums f32, as with
//! bf16 weights; the chunk's sum times its scale is added to the result (V3 §3.3.2: promotion every 128).
//! Few rows decode the codes in registers (`pairs.rs`, if the processor multiplies bf16); many rows share a chunk
//! decoded to bf16 pairs, which holds every E4M3 number exactly, and run the bf16 product of the ISA, tile unit
//! included. On AVX2 codes become f16 numbers instead, 2⁸ times too small, which the scales make good.

use std::ops::Range;

use fathom_numeric::blocks::BlockFormat;
use fathom_numeric::fp8::F8E4M3;

use super::activations::Operand;
use super::packed::PackedMatrix;
use super::{PANEL, STREAM_ROWS, TILE_PANELS, Tile, UNIT_ROWS, WeightFormat, multiply};
#[cfg(vector_kernels)]
use super::{pairs, reading};
use crate::Isa;
use crate::math::per_isa;

/// Columns of a chunk: those of a scale block of the released checkpoints.
pub(crate) const CHUNK_COLS: usize = 128;

/// Bytes of the scales of a chunk.
pub(super) const SCALES: usize = PANEL * size_of::<f32>();

/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: usize = SCALES + CHUNK_COLS * PANEL;

/// Bytes of a panel of a chunk in bf16 pairs.
const PAIR_BYTES: usize = CHUNK_COLS * PANEL * 2;

/// f32-sized words of working memory that [`block_product`] wants: decoded panels, the chunk's scales, its
/// sums.
pub(super) const WORK: usize =
    TILE_PANELS * (PAIR_BYTES / size_of::<f32>() + PANEL) + UNIT_ROWS * TILE_PANELS * PANEL;

/// `block [rows, panels · 16] = x · W[panels]ᵀ` on one thread; `x` begins at the first row and column.
pub(super) fn block_product(
    isa: Isa,
    (x, x_stride): (Operand<'_>, usize),
    (weights, panels): (&PackedMatrix, Range<usize>),
    block: &mut [f32],
    work: &mut [f32],
) {
    let (width, panel_bytes) = (panels.len() * PANEL, weights.panel_bytes());
    let rows = block.len() / width;
    let data = weights.panel_data(panels.clone());
    let (wide, work) = work.split_at_mut(TILE_PANELS * PAIR_BYTES / size_of::<f32>());
    let (scales, sums) = work.split_at_mut(TILE_PANELS * PANEL);
    let wide: &mut [u8] = bytemuck::cast_slice_mut(wide);
    let (scales, sums) = (&mut scales[..width], &mut sums[..block.len()]);
    #[cfg(vector_kernels)]
    if let Operand::Halves(x) = x
        && isa == Isa::Avx512
        && rows <= pairs::FP8_ROWS
    {
        let (panels, chunks) = (panels.len(), weights.padded_cols() / CHUNK_COLS);
        let job = pairs::Fp8 { x, x_stride, rows, data, panel_bytes, panels, chunks };
        return pairs::multiply_fp8(&job, block);
    }
    block.fill(0.0);
    for chunk in 0..weights.padded_cols() / CHUNK_COLS {
        let at = |panel: usize| &data[panel * panel_bytes + chunk * CHUNK_BYTES..][..CHUNK_BYTES];
        for (panel, scales) in scales.chunks_exact_mut(PANEL).enumerate() {
            scales.copy_from_slice(bytemuck::cast_slice(&at(panel)[..SCALES]));
        }
        let format = multiplied(isa, x, rows);
        let decoded = format != WeightFormat::Block(BlockFormat::Fp8);
        if decoded {
            for (panel, wide) in wide.chunks_exact_mut(PAIR_BYTES).enumerate().take(panels.len()) {
                let codes = &at(panel)[SCALES..];
                match format {
                    WeightFormat::F16 => move_up(isa, codes, bytemuck::cast_slice_mut(wide)),
                    _ => widen(isa, codes, wide),
                }
            }
        }
        if isa == Isa::Avx2 {
            scales.iter_mut().for_each(|scale| *scale *= MOVED_UP);
        }
        let tile = Tile {
            x: match x {
                Operand::Floats(x) => Operand::Floats(&x[chunk * CHUNK_COLS..]),
                Operand::Halves(x) => Operand::Halves(&x[chunk * CHUNK_COLS..]),
            },
            x_stride,
            rows,
            format,
            weights: if decoded { &*wide } else { &data[chunk * CHUNK_BYTES + SCALES..] },
            panel_bytes: if decoded { PAIR_BYTES } else { panel_bytes },
            first_col: 0,
            panels: panels.len(),
            cols: CHUNK_COLS,
            accumulate: false,
        };
        multiply(isa, &tile, sums);
        add_scaled(isa, block, sums, scales);
    }
}

per_isa! {
    /// `block [rows, scales.len()] += sums · scales`, the same scales for every row.
    fn add_scaled(block: &mut [f32], sums: &[f32], scales: &[f32]) {
        for (block, sums) in block.chunks_exact_mut(scales.len()).zip(sums.chunks_exact(scales.len())) {
            for ((value, sum), scale) in block.iter_mut().zip(sums).zip(scales) {
                *value += sum * scale;
            }
        }
    }
}

/// Columns of codes `[64] × [2][16]` to bf16 pairs `[64] × [16][2]`.
fn widen(isa: Isa, codes: &[u8], wide: &mut [u8]) {
    #[cfg(vector_kernels)]
    if isa >= Isa::Avx512 && pairs::available() {
        return pairs::decode_fp8(codes, wide);
    }
    decode(isa, codes, bytemuck::cast_slice_mut(wide));
}

/// As what codes are multiplied: few rows as they are, many decoded to bf16. On AVX2 f16 costs least, which it loads into
/// lanes of f32 in one instruction.
fn multiplied(isa: Isa, x: Operand<'_>, rows: usize) -> WeightFormat {
    match x {
        Operand::Floats(_) if rows <= STREAM_ROWS => WeightFormat::Block(BlockFormat::Fp8),
        Operand::Floats(_) if isa == Isa::Avx2 => WeightFormat::F16,
        _ => WeightFormat::Bf16,
    }
}

per_isa! {
    /// Codes as f16 numbers, [`MOVED_UP`] times too small, in the same order: subnormal ones too are the same bits moved up by 7.
    fn move_up(codes: &[u8], halves: &mut [u16]) {
        for (line, halves) in codes.as_chunks::<64>().0.iter().zip(halves.as_chunks_mut::<64>().0) {
            #[cfg(vector_kernels)]
            reading::fetch::<4>(line.as_ptr().wrapping_add(2 * CHUNK_BYTES));
            for (code, half) in line.iter().zip(halves) {
                // The sign goes into all upper bits; bit 14 is the exponent's.
                *half = (i16::from(*code as i8) << 7) as u16 & 0xbfff;
            }
        }
    }
}

/// 2 to the difference of the exponents' biases, 15 and 7.
pub(super) const MOVED_UP: f32 = 256.0;

per_isa! {
    /// Columns of codes `[64] × [2][16]` to bf16 pairs `[64] × [16][2]`, as words.
    fn decode(codes: &[u8], pairs: &mut [u32]) {
        let (columns, _) = codes.as_chunks::<{ 2 * PANEL }>();
        let (words, _) = pairs.as_chunks_mut::<PANEL>();
        for (columns, words) in columns.iter().zip(words) {
            for lane in 0..PANEL {
                let (even, odd) = (value_bits(columns[lane]), value_bits(columns[PANEL + lane]));
                words[lane] = even >> 16 | odd & 0xffff_0000;
            }
        }
    }
}

/// The f32 bits of a code: those of a normal number moved into place, or `m · 2^-9`.
#[inline(always)]
pub(super) const fn value_bits(code: u8) -> u32 {
    let code = code as u32;
    let (sign, magnitude) = ((code & 0x80) << 24, code & 0x7f);
    let normal = (magnitude << 20) + (120 << 23);
    let subnormal = (magnitude as i32 as f32 * (1.0 / 512.0)).to_bits();
    sign | if magnitude < 8 { subnormal } else { normal }
}

per_isa! {
    /// Packs a panel from the blocks of its 16 rows (an empty slice is a row of zeroes); `panel` is all
    /// zeroes.
    pub(super) fn pack_panel(rows: &[&[u8]; PANEL], panel: &mut [u8]) {
        let block_bytes = BlockFormat::Fp8.block_bytes();
        for (index, chunk) in panel.chunks_exact_mut(CHUNK_BYTES).enumerate() {
            let (scales, codes) = chunk.split_at_mut(SCALES);
            for (lane, row) in rows.iter().enumerate() {
                if let Some(block) = row.get(index * block_bytes..(index + 1) * block_bytes) {
                    scales[4 * lane..4 * lane + 4].copy_from_slice(&block[..4]);
                    for (column, code) in codes.chunks_exact_mut(PANEL).zip(&block[4..]) {
                        column[lane] = *code;
                    }
                }
            }
        }
    }
}

/// One row, read back: `out [cols]`.
pub(super) fn read_row(panel: &[u8], lane: usize, out: &mut [f32]) {
    for (out, chunk) in out.chunks_mut(CHUNK_COLS).zip(panel.chunks_exact(CHUNK_BYTES)) {
        let (scales, codes) = chunk.split_at(SCALES);
        let scale = bytemuck::pod_read_unaligned::<f32>(&scales[4 * lane..4 * lane + 4]);
        for (out, column) in out.iter_mut().zip(codes.chunks_exact(PANEL)) {
            *out = F8E4M3(column[lane]).to_f32() * scale;
        }
    }
}
