//! Operands become panels.

#[cfg(vector_kernels)]
mod amx;
#[cfg(vector_kernels)]
mod avx2;

use fathom_numeric::round::to_bf16_precision;

use super::layout::{Layout, Side};
use super::{MatmulPrecision, View};
use crate::Isa;

/// Packs an operand of any form; `out` has [`Layout::len`] words.
///
/// # Panics
/// If `out` is of another length, or the operand leaves its memory.
pub(crate) fn pack(layout: Layout, side: Side, operand: View<'_>, out: &mut [f32]) {
    // Both sides are panels of lanes; only the axis differs.
    let view = match side {
        Side::Left => operand,
        Side::Right => operand.transposed(),
    };
    assert_eq!(out.len(), layout.len(side, view.rows, view.cols), "panels of [{}, {}]", view.rows, view.cols);
    if out.is_empty() || vectors(layout, side, view, out) {
        return;
    }
    let lanes = layout.lanes(side);
    #[cfg(vector_kernels)]
    if layout.in_tiles() {
        return portable_tiles(view, side, out);
    }
    for (panel, out) in out.chunks_exact_mut(lanes * layout.words(view.cols)).enumerate() {
        let first = panel * lanes;
        portable(view.sub(first..view.rows.min(first + lanes), 0..view.cols), layout.precision, lanes, out);
    }
}

/// With the ISA's vectors, if they know the form.
#[cfg(vector_kernels)]
fn vectors(layout: Layout, side: Side, view: View<'_>, out: &mut [f32]) -> bool {
    view.check("a packed operand");
    // SAFETY: the view was just checked; `pack` compared the length of `out`; the layout's ISA is this
    // machine's.
    unsafe {
        match (layout.isa, side, layout.precision) {
            (Isa::Scalar, ..) => false,
            (Isa::Amx, ..) if layout.in_tiles() => amx::pack(side, view, out),
            (Isa::Avx2, Side::Left, MatmulPrecision::F32) => avx2::pack::<6, false>(view, out),
            (Isa::Avx2, Side::Left, MatmulPrecision::Bf16) => avx2::pack::<6, true>(view, out),
            (Isa::Avx2, Side::Right, MatmulPrecision::F32) => avx2::pack::<16, false>(view, out),
            (Isa::Avx2, Side::Right, MatmulPrecision::Bf16) => avx2::pack::<16, true>(view, out),
            (_, Side::Left, MatmulPrecision::F32) => avx2::pack::<12, false>(view, out),
            (_, Side::Left, MatmulPrecision::Bf16) => avx2::pack::<12, true>(view, out),
            (_, Side::Right, MatmulPrecision::F32) => avx2::pack::<32, false>(view, out),
            (_, Side::Right, MatmulPrecision::Bf16) => avx2::pack::<32, true>(view, out),
        }
    }
}

#[cfg(not(vector_kernels))]
fn vectors(_: Layout, _: Side, _: View<'_>, _: &mut [f32]) -> bool {
    false
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

/// All panels of tiles, element by element.
#[cfg(vector_kernels)]
fn portable_tiles(view: View<'_>, side: Side, out: &mut [f32]) {
    use super::amx::{LANES, STEP, TILE_WORDS};
    let steps = view.cols.div_ceil(STEP);
    let halves: &mut [u16] = bytemuck::cast_slice_mut(out);
    halves.fill(0);
    for lane in 0..view.rows {
        for depth in 0..view.cols {
            let tile = (lane / LANES * steps + depth / STEP) * 2 + lane % LANES / 16;
            let (lane_in, step) = (lane % 16, depth % STEP);
            let within = match side {
                Side::Left => lane_in * STEP + step,
                Side::Right => step / 2 * STEP + 2 * lane_in + step % 2,
            };
            let value = to_bf16_precision(view.at(lane, depth));
            halves[tile * 2 * TILE_WORDS + within] = (value.to_bits() >> 16) as u16;
        }
    }
}
