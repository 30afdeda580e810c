//! What happens to parameters once a step: AdamW, the norm of gradients, moving averages, factors.
//!
//! **Roofline.** One pass over memory each. AdamW reads parameter, gradient and two moments and writes three of
//! them: 28 bytes per parameter with f32 moments, 20 with bf16 ones, against a dozen operations.
//!
//! **Numbers.** [`adamw_update`] does PyTorch's operations (`torch.optim.AdamW`, one tensor at a time) in
//! PyTorch's order, each rounded to f32. No result depends on the number of threads.

use fathom_numeric::bf16;
use fathom_numeric::round::{from_bf16_bits, to_bf16_bits};

use crate::Compute;
use crate::math::per_isa;
use crate::shared::SharedSlice;

/// Numbers of a piece: four operands of 16 KiB pass through the first two levels of cache.
const PIECE: usize = 4096;

/// Numbers whose squares one unit sums.
const SUM_PIECE: usize = 1 << 16;

/// One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101), the same for all parameters of a group.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decays of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Parameters shrink by `lr · weight_decay` per step, apart from their gradient.
    pub weight_decay: f64,
    /// `1 - beta^t` of both moments at step `t = 1, 2, …`: see [`AdamW::bias_corrections`].
    pub bias_corrections: [f64; 2],
    /// Factor of the gradient: what clipping makes of it. At 1 it changes no bit.
    pub gradient_scale: f32,
}

impl AdamW {
    /// `1 - beta^step` for both moments; the first step is 1.
    pub fn bias_corrections(betas: [f64; 2], step: u64) -> [f64; 2] {
        betas.map(|beta| 1.0 - beta.powf(step as f64))
    }
}

/// First and second moment of every parameter.
#[derive(Debug)]
pub enum Moments<'a> {
    /// As the parameters are.
    F32([&'a mut [f32]; 2]),
    /// Half the memory. DeepSeek-V3 trains like this (arXiv 2412.19437, section 3.3.2), with a second decay of
    /// 0.95: one above 0.998 changes a moment by less than bf16 resolves, and it would stand still.
    Bf16([&'a mut [bf16]; 2]),
}

/// One step for one tensor: `parameter` and both moments change, `gradient` is read.
///
/// # Panics
/// If lengths differ.
pub fn adamw_update(
    compute: &Compute,
    step: &AdamW,
    parameter: &mut [f32],
    gradient: &[f32],
    moments: Moments<'_>,
) {
    let len = parameter.len();
    let (first, second) = match &moments {
        Moments::F32([first, second]) => (first.len(), second.len()),
        Moments::Bf16([first, second]) => (first.len(), second.len()),
    };
    assert!(
        gradient.len() == len && first == len && second == len,
        "{len} parameters, {} gradients, moments of {first} and {second}",
        gradient.len()
    );
    let (factors, parameter) = (Factors::of(step), SharedSlice::new(parameter));
    match moments {
        Moments::F32(moments) => {
            let [first, second] = moments.map(SharedSlice::new);
            pieces(compute, len, |start, len| {
                // SAFETY: pieces do not overlap.
                let (parameter, first, second) = unsafe {
                    (
                        parameter.range_mut(start, len),
                        first.range_mut(start, len),
                        second.range_mut(start, len),
                    )
                };
                adamw_f32(compute.isa, &factors, parameter, &gradient[start..start + len], [first, second]);
            });
        }
        Moments::Bf16(moments) => {
            let [first, second] = moments.map(SharedSlice::new);
            pieces(compute, len, |start, len| {
                // SAFETY: pieces do not overlap.
                let (parameter, first, second) = unsafe {
                    (
                        parameter.range_mut(start, len),
                        first.range_mut(start, len),
                        second.range_mut(start, len),
                    )
                };
                adamw_bf16(compute.isa, &factors, parameter, &gradient[start..start + len], [first, second]);
            });
        }
    }
}

/// The sum of all squares, in f64: pieces of a fixed length, each in lanes, then one after another.
pub fn sum_of_squares(compute: &Compute, values: &[f32]) -> f64 {
    let mut sums = vec![0.0f64; values.len().div_ceil(SUM_PIECE)];
    compute.for_pieces(&mut sums, 1, |piece, sum| {
        let start = piece * SUM_PIECE;
        sum[0] = squares(compute.isa, &values[start..values.len().min(start + SUM_PIECE)]);
    });
    sums.iter().sum()
}

/// `average = average + (1 - decay) · (values - average)`: an exponential moving average of the parameters.
///
/// # Panics
/// If lengths differ.
pub fn ema_update(compute: &Compute, decay: f64, average: &mut [f32], values: &[f32]) {
    assert_eq!(average.len(), values.len(), "an average of as many parameters");
    let weight = (1.0 - decay) as f32;
    compute.for_pieces(average, PIECE, |piece, average| {
        lerp(compute.isa, average, &values[piece * PIECE..][..average.len()], weight);
    });
}

/// `values *= factor`.
pub fn scale(compute: &Compute, values: &mut [f32], factor: f32) {
    compute.for_pieces(values, PIECE, |_, values| crate::math::multiply_by(compute.isa, values, factor));
}

/// Calls `work(start, len)` for every piece of `len` numbers.
fn pieces(compute: &Compute, len: usize, work: impl Fn(usize, usize) + Sync) {
    compute.pool.run(len.div_ceil(PIECE), |piece, _| {
        let start = piece * PIECE;
        work(start, PIECE.min(len - start));
    });
}

/// The scalars of a step, computed in f64 and rounded once, as PyTorch does it.
struct Factors {
    gradient: f32,
    decay: f32,
    /// `1 - beta1`.
    first: f32,
    second_old: f32,
    second_new: f32,
    second_root: f32,
    eps: f32,
    step: f32,
}

impl Factors {
    fn of(step: &AdamW) -> Self {
        let [beta1, beta2] = step.betas;
        let [correction1, correction2] = step.bias_corrections;
        Self {
            gradient: step.gradient_scale,
            decay: (1.0 - step.lr * step.weight_decay) as f32,
            first: (1.0 - beta1) as f32,
            second_old: beta2 as f32,
            second_new: (1.0 - beta2) as f32,
            second_root: correction2.sqrt() as f32,
            eps: step.eps as f32,
            step: -(step.lr / correction1) as f32,
        }
    }

    /// New parameter and moments of one number.
    #[inline(always)]
    fn update(&self, parameter: f32, gradient: f32, [first, second]: [f32; 2]) -> (f32, [f32; 2]) {
        let gradient = gradient * self.gradient;
        let parameter = parameter * self.decay;
        let first = lerp_one(first, gradient, self.first);
        let second = second * self.second_old + self.second_new * gradient * gradient;
        let root = second.sqrt() / self.second_root + self.eps;
        (parameter + self.step * first / root, [first, second])
    }
}

/// `torch.lerp`: from the nearer end.
#[inline(always)]
fn lerp_one(start: f32, end: f32, weight: f32) -> f32 {
    if weight < 0.5 { start + weight * (end - start) } else { end - (end - start) * (1.0 - weight) }
}

per_isa! {
    fn adamw_f32(factors: &Factors, parameter: &mut [f32], gradient: &[f32], moments: [&mut [f32]; 2]) {
        let [first, second] = moments;
        let moments = first.iter_mut().zip(second);
        for ((parameter, gradient), (first, second)) in parameter.iter_mut().zip(gradient).zip(moments) {
            (*parameter, [*first, *second]) = factors.update(*parameter, *gradient, [*first, *second]);
        }
    }
}

per_isa! {
    fn adamw_bf16(factors: &Factors, parameter: &mut [f32], gradient: &[f32], moments: [&mut [bf16]; 2]) {
        let [first, second] = moments;
        let moments = first.iter_mut().zip(second);
        for ((parameter, gradient), (first, second)) in parameter.iter_mut().zip(gradient).zip(moments) {
            let old = [from_bf16_bits(first.to_bits()), from_bf16_bits(second.to_bits())];
            let (new, moments) = factors.update(*parameter, *gradient, old);
            (*parameter, [*first, *second]) = (new, moments.map(|moment| bf16::from_bits(to_bf16_bits(moment))));
        }
    }
}

per_isa! {
    /// In lanes, whose order is the same on every ISA.
    fn squares(values: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 16];
        let (chunks, rest) = values.as_chunks::<16>();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*value) * f64::from(*value);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>()
    }
}

per_isa! {
    fn lerp(start: &mut [f32], end: &[f32], weight: f32) {
        start.iter_mut().zip(end).for_each(|(start, end)| *start = lerp_one(*start, *end, weight));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Deterministic numbers in [-1, 1).
    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    const LEN: usize = 3 * PIECE + 37;

    fn step(count: u64) -> AdamW {
        let betas = [0.9, 0.95];
        let bias_corrections = AdamW::bias_corrections(betas, count);
        AdamW { lr: 1e-3, betas, eps: 1e-8, weight_decay: 0.1, bias_corrections, gradient_scale: 0.5 }
    }

    /// The paper's algorithm 2 in f64, five steps.
    #[test]
    fn adamw_is_the_papers() {
        for isa in Isa::available() {
            for threads in [1, 3] {
                let compute = Compute::with_isa(isa, threads);
                let (mut ours, mut first, mut second) = (numbers(LEN, 1), vec![0.0; LEN], vec![0.0; LEN]);
                let mut exact: Vec<[f64; 3]> = ours.iter().map(|&p| [f64::from(p), 0.0, 0.0]).collect();
                for count in 1..=5 {
                    let (gradient, step) = (numbers(LEN, 10 + count), step(count));
                    let moments = Moments::F32([&mut first, &mut second]);
                    adamw_update(&compute, &step, &mut ours, &gradient, moments);
                    for ([p, m, v], g) in exact.iter_mut().zip(&gradient) {
                        let g = 0.5 * f64::from(*g);
                        (*m, *v) = (0.9 * *m + 0.1 * g, 0.95 * *v + 0.05 * g * g);
                        let t = count as i32;
                        let (m, v) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.95f64.powi(t)));
                        *p -= 1e-3 * (m / (v.sqrt() + 1e-8) + 0.1 * *p);
                    }
                }
                for (ours, [exact, ..]) in ours.iter().zip(&exact) {
                    // Steps are at most 1e-3 each and know six digits; a parameter is rounded five times.
                    assert!((f64::from(*ours) - exact).abs() < 6e-7, "{isa}: {ours}, not {exact}");
                }
            }
        }
    }

    /// The rounded moments are those of the f32 step, and the parameter moves by the unrounded ones.
    #[test]
    fn moments_in_bf16_are_rounded_after_the_step() {
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2);
            let (gradient, before) = (numbers(LEN, 2), numbers(LEN, 1));
            let moments: [Vec<bf16>; 2] =
                [3, 4].map(|seed| numbers(LEN, seed).iter().map(|x| bf16::from_f32(x.abs())).collect());
            let [mut first, mut second] = moments.clone();
            let mut parameter = before.clone();
            let halves = Moments::Bf16([&mut first, &mut second]);
            adamw_update(&compute, &step(3), &mut parameter, &gradient, halves);
            let [mut m, mut v] =
                moments.map(|moments| moments.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
            let mut expected = before;
            adamw_update(&compute, &step(3), &mut expected, &gradient, Moments::F32([&mut m, &mut v]));
            assert_eq!(parameter, expected, "{isa}");
            for (halves, floats) in [(first, m), (second, v)] {
                assert!(
                    halves.iter().zip(floats).all(|(half, float)| *half == bf16::from_f32(float)),
                    "{isa}"
                );
            }
        }
    }

    #[test]
    fn squares_are_summed_in_f64_whatever_the_threads() {
        for len in [0, 1, 15, 17, SUM_PIECE, 2 * SUM_PIECE + 5] {
            let values = numbers(len, 7);
            let exact: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let sums: Vec<f64> = Isa::available()
                .flat_map(|isa| [1, 3].map(|threads| Compute::with_isa(isa, threads)))
                .map(|compute| sum_of_squares(&compute, &values))
                .collect();
            assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
            // The plain sum is the worse one: 131,077 roundings of 1e-16.
            assert!((sums[0] - exact).abs() <= 1e-12 * exact, "{} of {len}, not {exact}", sums[0]);
        }
    }

    #[test]
    fn averages_and_factors() {
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2);
            for (decay, weight) in [(0.75, 0.25), (0.25, 0.75)] {
                let (mut average, values) = (numbers(LEN, 1), numbers(LEN, 2));
                let before = average.clone();
                ema_update(&compute, decay, &mut average, &values);
                for ((new, old), value) in average.iter().zip(before).zip(values) {
                    let exact = f64::from(old) * decay + f64::from(value) * weight;
                    assert!((f64::from(*new) - exact).abs() < 2e-7, "{isa}: {new}, not {exact}");
                }
            }
            let mut values = numbers(LEN, 3);
            scale(&compute, &mut values, 0.5);
            assert!(values.iter().zip(numbers(LEN, 3)).all(|(new, old)| *new == 0.5 * old));
        }
    }

    #[test]
    #[should_panic(expected = "3 parameters, 2 gradients, moments of 3 and 3")]
    fn lengths_must_agree() {
        let compute = Compute::with_isa(Isa::Scalar, 1);
        let (mut parameter, mut first, mut second) = ([0.0; 3], [0.0; 3], [0.0; 3]);
        adamw_update(&compute, &step(1), &mut parameter, &[0.0; 2], Moments::F32([&mut first, &mut second]));
    }
}
