//! Operands become panels.

use fathom_numeric::round::to_bf16_precision;

use super::layout::{Layout, Side};
use super::{MatmulPrecision, View};

/// Packs an operand of any form; `out` has [`Layout::len`] words.
///
/// # Panics
/// If `out` is of another length.
pub(crate) fn pack(layout: Layout, side: Side, operand: View<'_>, out: &mut [f32]) {
    // Both sides are panels of lanes; only the axis differs.
    let view = match side {
        Side::Left => operand,
        Side::Right => operand.transposed(),
    };
    assert_eq!(out.len(), layout.len(side, view.rows, view.cols), "panels of [{}, {}]", view.rows, view.cols);
    let lanes = layout.lanes(side);
    let panel_len = (lanes * layout.words(view.cols)).max(1);
    for (panel, out) in out.chunks_exact_mut(panel_len).enumerate() {
        let first = panel * lanes;
        portable(view.sub(first..view.rows.min(first + lanes), 0..view.cols), layout.precision, lanes, out);
    }
}

/// One panel, element by element.
fn portable(view: View<'_>, precision: MatmulPrecision, lanes: usize, out: &mut [f32]) {
    for (step, out) in out.chunks_exact_mut(lanes).enumerate() {
        for (lane, out) in out.iter_mut().enumerate() {
            let value = if lane < view.rows { view.at(lane, step) } else { 0.0 };
            *out = match precision {
                MatmulPrecision::F32 => value,
                MatmulPrecision::Bf16 => to_bf16_precision(value),
            };
        }
    }
}
