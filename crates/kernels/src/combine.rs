//! Joining what blocks computed: the residual add, and the weighted sum of experts (V2 eq. 20).

use crate::Compute;
use crate::math::add_scaled;
use crate::shared::SharedSlice;

/// Numbers handed to one unit of the residual add.
const UNIT: usize = 1 << 14;

/// Tokens handed to one unit of the sum of experts.
const UNIT_TOKENS: usize = 16;

/// `x += delta`.
///
/// # Panics
/// If the lengths differ.
pub fn add(compute: &Compute, x: &mut [f32], delta: &[f32]) {
    assert_eq!(x.len(), delta.len());
    let x = SharedSlice::new(x);
    compute.pool.run(delta.len().div_ceil(UNIT), |unit, _| {
        let delta = &delta[unit * UNIT..delta.len().min((unit + 1) * UNIT)];
        // SAFETY: units cut the slice without overlap.
        let x = unsafe { x.range_mut(unit * UNIT, delta.len()) };
        add_scaled(compute.isa, x, delta, 1.0);
    });
}

/// Which expert outputs a token sums.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    /// `[tokens, each]`: rows of the expert outputs.
    pub slots: &'a [u32],
    /// Slots per token.
    pub each: usize,
    /// `[tokens, weighted]`: weights of the first `weighted` slots; the others count whole.
    pub weights: &'a [f32],
    /// Weighted slots per token (`num_experts_per_tok`); the rest are shared experts.
    pub weighted: usize,
}

/// `out[token] = Σ weight · outputs[slot]` over the token's slots in order; `outputs [slots, cols]`,
/// `out [tokens, cols]`.
///
/// # Panics
/// If a length does not fit or a slot is not there.
pub fn sum_experts(compute: &Compute, choices: Choices<'_>, outputs: &[f32], cols: usize, out: &mut [f32]) {
    let Choices { slots, each, weights, weighted } = choices;
    let tokens = out.len() / cols;
    assert!(out.len() == tokens * cols && slots.len() == tokens * each);
    assert!(weights.len() == tokens * weighted && weighted <= each);
    let out = SharedSlice::new(out);
    compute.pool.run(tokens.div_ceil(UNIT_TOKENS), |unit, _| {
        for token in unit * UNIT_TOKENS..tokens.min((unit + 1) * UNIT_TOKENS) {
            // SAFETY: every token belongs to one unit.
            let out = unsafe { out.range_mut(token * cols, cols) };
            out.fill(0.0);
            for (choice, &slot) in slots[token * each..][..each].iter().enumerate() {
                let weight = if choice < weighted { weights[token * weighted + choice] } else { 1.0 };
                let output = &outputs[slot as usize * cols..][..cols];
                add_scaled(compute.isa, out, output, weight);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn experts_are_summed_with_their_weights() {
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2);
            let outputs: Vec<f32> = (0..4 * 5).map(|i| i as f32).collect();
            let choices = Choices { slots: &[2, 0, 3, 1], each: 2, weights: &[0.5, 2.0], weighted: 1 };
            let mut out = vec![f32::NAN; 2 * 5];
            sum_experts(&compute, choices, &outputs, 5, &mut out);
            for col in 0..5 {
                assert_eq!(out[col], 0.5 * outputs[10 + col] + outputs[col], "{isa}");
                assert_eq!(out[5 + col], 2.0 * outputs[15 + col] + outputs[5 + col], "{isa}");
            }
        }
    }

    #[test]
    fn the_residual_is_added_to_the_end() {
        let compute = Compute::with_isa(Isa::best(), 2);
        let (mut x, delta) = (vec![1.0; 2 * UNIT + 3], vec![0.5; 2 * UNIT + 3]);
        add(&compute, &mut x, &delta);
        assert!(x.iter().all(|value| *value == 1.5));
    }
}
