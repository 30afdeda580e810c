//! The meaning of the integer product, one output at a time.

use fathom_numeric::f16;

use super::layout::{Codes, LEVELS, QUAD_BYTES, QUADS, RUN, Scales};
use super::{Layout, SCALES_MAX, Tile, Unpacked};
use crate::gemm::PANEL;

pub(super) fn unpack(tile: &Tile<'_>, first: usize, stretch: &mut Unpacked<'_>) {
    let layout = stretch.layout;
    let (chunk_runs, per_run) = (layout.chunk_cols() / RUN, layout.scales.per_run());
    for panel in 0..tile.panels {
        let codes = &mut stretch.codes[panel * Unpacked::PANEL_CODES..][..Unpacked::PANEL_CODES];
        let scales = &mut stretch.scales[panel * SCALES_MAX..][..SCALES_MAX];
        let minima = &mut stretch.minima[panel * SCALES_MAX..][..SCALES_MAX];
        for run in 0..stretch.cols / RUN {
            let chunk = tile.chunk(panel, first + run / chunk_runs * layout.chunk_cols());
            let within = run % chunk_runs;
            for quad in 0..QUADS {
                for i in 0..QUAD_BYTES {
                    codes[(run * QUADS + quad) * QUAD_BYTES + i] = code(layout, chunk, within, quad, i);
                }
            }
            for lane in 0..PANEL {
                for half in 0..per_run {
                    scales[(run * per_run + half) * PANEL + lane] = scale(layout, chunk, within, half, lane);
                }
                if layout.scales.minimum() {
                    minima[run * PANEL + lane] = minimum(layout, chunk, within, lane);
                }
            }
        }
    }
}

pub(super) fn multiply(tile: &Tile<'_>, first: usize, stretch: &Unpacked<'_>, block: &mut [f32]) {
    let (layout, width) = (stretch.layout, tile.panels * PANEL);
    let per_run = layout.scales.per_run();
    let half = RUN / per_run;
    for (index, sum) in block.iter_mut().enumerate() {
        let (row, panel, lane) = (index / width, index % width / PANEL, index % PANEL);
        let (x, heads) = tile.row(row, first);
        let codes = &stretch.codes[panel * Unpacked::PANEL_CODES..];
        for (run, head) in heads[..stretch.cols / RUN].iter().enumerate() {
            for part in 0..per_run {
                let columns = run * RUN + part * half..run * RUN + (part + 1) * half;
                let products = columns.map(|col| {
                    let code = i32::from(codes[col / 4 * QUAD_BYTES + lane * 4 + col % 4]);
                    (code - layout.offset()) * i32::from(x[col])
                });
                let scale = stretch.scales[panel * SCALES_MAX + (run * per_run + part) * PANEL + lane];
                *sum = (products.sum::<i32>() as f32).mul_add(scale * head.scale, *sum);
            }
            if layout.scales.minimum() {
                let minimum = stretch.minima[panel * SCALES_MAX + run * PANEL + lane];
                *sum = (-minimum).mul_add(head.scaled_sum, *sum);
            }
        }
    }
}

pub(super) fn read_row(layout: Layout, panel: &[u8], lane: usize, out: &mut [f32]) {
    let chunks = panel.chunks_exact(layout.chunk_bytes());
    for (out, chunk) in out.chunks_mut(layout.chunk_cols()).zip(chunks) {
        for (col, out) in out.iter_mut().enumerate() {
            let (run, within) = (col / RUN, col % RUN);
            let code = i32::from(code(layout, chunk, run, within / 4, lane * 4 + within % 4));
            let scale = scale(layout, chunk, run, within * layout.scales.per_run() / RUN, lane);
            let minimum = if layout.scales.minimum() { minimum(layout, chunk, run, lane) } else { 0.0 };
            *out = scale * (code - layout.offset()) as f32 - minimum;
        }
    }
}

/// Byte `i` of a quad of a chunk's run.
fn code(layout: Layout, chunk: &[u8], run: usize, quad: usize, i: usize) -> u8 {
    let run = &chunk[layout.scales.bytes() + run * layout.codes.run_bytes()..];
    let four = || run[quad % 4 * QUAD_BYTES + i] >> (quad / 4 * 4) & 15;
    let upper = &run[256.min(run.len())..];
    match layout.codes {
        Codes::Eight => run[quad * QUAD_BYTES + i],
        Codes::Four => four(),
        Codes::Table => LEVELS[usize::from(four())],
        Codes::Five => four() | (upper[i] >> quad & 1) << 4,
        Codes::Six => four() | (upper[quad / 4 * QUAD_BYTES + i] >> (quad % 4 * 2) & 3) << 4,
    }
}

fn half_at(chunk: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([chunk[2 * index], chunk[2 * index + 1]]).to_f32()
}

fn scale(layout: Layout, chunk: &[u8], run: usize, half: usize, lane: usize) -> f32 {
    let sub = |index: usize| chunk[64 + index * PANEL + lane];
    match layout.scales {
        Scales::Group(group) => half_at(chunk, run * RUN / group * PANEL + lane),
        Scales::RunAndMinimum => half_at(chunk, lane),
        Scales::Super => half_at(chunk, lane) * f32::from(sub(run) as i8),
        Scales::SuperHalves => half_at(chunk, lane) * f32::from(sub(2 * run + half) as i8),
        Scales::SuperAndMinimum => half_at(chunk, lane) * f32::from(sub(2 * run)),
    }
}

fn minimum(layout: Layout, chunk: &[u8], run: usize, lane: usize) -> f32 {
    let minimum = half_at(chunk, PANEL + lane);
    match layout.scales {
        Scales::SuperAndMinimum => minimum * f32::from(chunk[64 + (2 * run + 1) * PANEL + lane]),
        _ => minimum,
    }
}
