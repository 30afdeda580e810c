//! From the blocks of a file to the chunks of a panel; nothing is rounded.

use fathom_numeric::blocks::BlockFormat;

use super::layout::{CHUNK_COLS_MAX, Codes, Layout, QUAD_BYTES, QUADS, RUN, Scales};
use crate::gemm::PANEL;
use crate::math::per_isa;

/// Codes of a chunk, row by row.
type Rows = [[u8; CHUNK_COLS_MAX]; PANEL];

per_isa! {
    /// Packs a panel from the blocks of its 16 rows (an empty slice is a row of zeroes); `panel` is all
    /// zeroes. Chunks beyond a row's blocks hold zeroes too.
    pub(crate) fn pack_panel(format: BlockFormat, rows: &[&[u8]; PANEL], panel: &mut [u8]) {
        let layout = Layout::of(format);
        let (block_len, block_bytes) = (format.block_len(), format.block_bytes());
        let blocks = layout.chunk_cols() / block_len;
        let mut codes: Rows = [[0; CHUNK_COLS_MAX]; PANEL];
        for (index, chunk) in panel.chunks_exact_mut(layout.chunk_bytes()).enumerate() {
            let (scales, runs) = chunk.split_at_mut(layout.scales.bytes());
            for lane in 0..PANEL {
                for block in 0..blocks {
                    let at = (index * blocks + block) * block_bytes;
                    let out = &mut codes[lane][block * block_len..][..block_len];
                    match rows[lane].get(at..at + block_bytes) {
                        Some(bytes) => {
                            read_codes(format, bytes, out);
                            write_scales(format, bytes, lane, block, scales);
                        }
                        None => out.fill(layout.offset() as u8),
                    }
                }
            }
            for (run, bytes) in runs.chunks_exact_mut(layout.codes.run_bytes()).enumerate() {
                write_run(layout.codes, &codes, run, bytes);
            }
        }
    }
}

/// Two lower and upper halves of 16 bytes: the runs of the four-bit formats.
#[inline(always)]
fn nibbles(bytes: &[u8], out: &mut [u8]) {
    let half = bytes.len();
    for i in 0..half {
        out[i] = bytes[i] & 15;
        out[half + i] = bytes[i] >> 4;
    }
}

/// Codes of a block in the order of its columns, unsigned.
#[inline(always)]
fn read_codes(format: BlockFormat, block: &[u8], out: &mut [u8]) {
    match format {
        BlockFormat::Q8_0 | BlockFormat::Int8G64 | BlockFormat::Int8G128 => {
            out.iter_mut().zip(&block[2..]).for_each(|(out, code)| *out = code ^ 0x80);
        }
        BlockFormat::Q4_0 | BlockFormat::Int4G64 | BlockFormat::Int4G128 | BlockFormat::Iq4Nl => {
            out.chunks_exact_mut(RUN)
                .zip(block[2..].chunks_exact(RUN / 2))
                .for_each(|(out, b)| nibbles(b, out));
        }
        BlockFormat::Iq4Xs => {
            out.chunks_exact_mut(RUN)
                .zip(block[8..].chunks_exact(RUN / 2))
                .for_each(|(out, b)| nibbles(b, out));
        }
        BlockFormat::Q4_1 => nibbles(&block[4..20], out),
        BlockFormat::Q5_0 | BlockFormat::Q5_1 => {
            let codes = block.len() - 16;
            nibbles(&block[codes..], out);
            let fifth = &block[codes - 4..codes];
            for (i, out) in out.iter_mut().enumerate() {
                *out |= (fifth[i / 8] >> (i % 8) & 1) << 4;
            }
        }
        BlockFormat::Q4K => {
            out.chunks_exact_mut(64).zip(block[16..].chunks_exact(32)).for_each(|(out, b)| nibbles(b, out));
        }
        BlockFormat::Q5K => {
            let (fifth, codes) = block[16..].split_at(32);
            for (j, (out, bytes)) in out.chunks_exact_mut(64).zip(codes.chunks_exact(32)).enumerate() {
                nibbles(bytes, out);
                for i in 0..32 {
                    out[i] |= (fifth[i] >> (2 * j) & 1) << 4;
                    out[32 + i] |= (fifth[i] >> (2 * j + 1) & 1) << 4;
                }
            }
        }
        BlockFormat::Q6K => {
            for (n, out) in out.chunks_exact_mut(128).enumerate() {
                let (lower, upper) = (&block[64 * n..][..64], &block[128 + 32 * n..][..32]);
                nibbles(lower, out);
                for i in 0..32 {
                    for part in 0..4 {
                        out[32 * part + i] |= (upper[i] >> (2 * part) & 3) << 4;
                    }
                }
            }
        }
        BlockFormat::Fp8 => unreachable!("FP8 has no integer codes"),
    }
}

/// Scales of block `block` of a chunk, for row `lane`.
#[inline(always)]
fn write_scales(format: BlockFormat, bytes: &[u8], lane: usize, block: usize, scales: &mut [u8]) {
    let f16_at = |from: usize, place: usize, scales: &mut [u8]| {
        scales[32 * place + 2 * lane..][..2].copy_from_slice(&bytes[from..from + 2]);
    };
    match Layout::of(format).scales {
        Scales::Group(_) => f16_at(0, block, scales),
        Scales::RunAndMinimum => {
            f16_at(0, 0, scales);
            f16_at(2, 1, scales);
            // The format adds its minimum; the layout subtracts.
            scales[32 + 2 * lane + 1] ^= 0x80;
        }
        Scales::Super => {
            f16_at(0, 0, scales);
            let upper = u16::from_le_bytes([bytes[2], bytes[3]]);
            for run in 0..8 {
                let lower = bytes[4 + run / 2] >> (4 * (run % 2)) & 15;
                let scale = lower as i8 | ((upper >> (2 * run) & 3) << 4) as i8;
                scales[64 + run * PANEL + lane] = (scale - 32) as u8;
            }
        }
        Scales::SuperHalves => {
            f16_at(208, 0, scales);
            for half in 0..16 {
                scales[64 + half * PANEL + lane] = bytes[192 + half];
            }
        }
        Scales::SuperAndMinimum => {
            f16_at(0, 0, scales);
            f16_at(2, 1, scales);
            let packed = &bytes[4..16];
            for run in 0..8 {
                let [scale, minimum] = match run {
                    0..4 => [packed[run] & 63, packed[run + 4] & 63],
                    _ => [
                        packed[run + 4] & 15 | packed[run - 4] >> 6 << 4,
                        packed[run + 4] >> 4 | packed[run] >> 6 << 4,
                    ],
                };
                scales[64 + 2 * run * PANEL + lane] = scale;
                scales[64 + (2 * run + 1) * PANEL + lane] = minimum;
            }
        }
    }
}

/// Codes of run `run` of 16 rows, quad by quad.
#[inline(always)]
fn write_run(kind: Codes, codes: &Rows, run: usize, out: &mut [u8]) {
    let mut quads = [[0u8; QUAD_BYTES]; QUADS];
    for (lane, row) in codes.iter().enumerate() {
        for (q, quad) in quads.iter_mut().enumerate() {
            quad[4 * lane..4 * lane + 4].copy_from_slice(&row[RUN * run + 4 * q..][..4]);
        }
    }
    if kind == Codes::Eight {
        out.copy_from_slice(quads.as_flattened());
        return;
    }
    let (four, upper) = out.split_at_mut(4 * QUAD_BYTES);
    let (lines, _) = four.as_chunks_mut::<QUAD_BYTES>();
    for (q, line) in lines.iter_mut().enumerate() {
        for i in 0..QUAD_BYTES {
            line[i] = quads[q][i] & 15 | quads[q + 4][i] << 4;
        }
    }
    let (upper, _) = upper.as_chunks_mut::<QUAD_BYTES>();
    for (q, quad) in quads.iter().enumerate() {
        for i in 0..QUAD_BYTES {
            match kind {
                Codes::Five => upper[0][i] |= (quad[i] >> 4 & 1) << q,
                Codes::Six => upper[q / 4][i] |= (quad[i] >> 4 & 3) << (2 * (q % 4)),
                Codes::Four | Codes::Table | Codes::Eight => {}
            }
        }
    }
}
