//! SwiGLU: `silu(gate) · up`.

use crate::gemm::PANEL;
use crate::math::{per_isa, silu};

per_isa! {
    /// `values` holds panels of 16 gates and 16 ups in turn; writes `out.len()` products.
    ///
    /// # Panics
    /// If `values` holds fewer than `out.len()` gates.
    pub(crate) fn interleaved(values: &[f32], out: &mut [f32]) {
        let (pairs, _) = values.as_chunks::<{ 2 * PANEL }>();
        assert!(out.len() <= pairs.len() * PANEL);
        for (out, pair) in out.chunks_mut(PANEL).zip(pairs) {
            let (gate, up) = pair.split_at(PANEL);
            for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
                *out = silu(*gate) * up;
            }
        }
    }
}
