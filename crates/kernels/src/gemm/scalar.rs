//! The meaning of a tile product, one output at a time.

use fathom_numeric::blocks::BlockFormat;
use fathom_numeric::fp8::F8E4M3;
use fathom_numeric::{bf16, f16};

use super::{Operand, PANEL, Tile, WeightFormat};

pub(super) fn multiply(tile: &Tile<'_>, block: &mut [f32]) {
    let width = tile.panels * PANEL;
    for row in 0..tile.rows {
        for n in 0..width {
            let panel = &tile.weights[n / PANEL * tile.panel_bytes..];
            let out = &mut block[row * width + n];
            let mut sum = if tile.accumulate { *out } else { 0.0 };
            for col in 0..tile.cols {
                let x = match tile.x {
                    Operand::Floats(x) => x[row * tile.x_stride + col],
                    Operand::Halves(x) => bf16::from_bits(x[row * tile.x_stride + col]).to_f32(),
                };
                sum += x * weight(tile.format, panel, n % PANEL, tile.first_col + col);
            }
            *out = sum;
        }
    }
}

/// Column `col` of row `lane` of a panel.
fn weight(format: WeightFormat, panel: &[u8], lane: usize, col: usize) -> f32 {
    match format {
        WeightFormat::F32 => bytemuck::cast_slice::<u8, f32>(panel)[col * PANEL + lane],
        WeightFormat::F16 => bytemuck::cast_slice::<u8, f16>(panel)[col * PANEL + lane].to_f32(),
        WeightFormat::Block(BlockFormat::Fp8) => F8E4M3(panel[col * PANEL + lane]).to_f32(),
        WeightFormat::Block(_) => unreachable!("codes have kernels of their own"),
        WeightFormat::Bf16 => {
            bytemuck::cast_slice::<u8, bf16>(panel)[col / 2 * 2 * PANEL + lane * 2 + col % 2].to_f32()
        }
    }
}
