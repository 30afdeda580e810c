//! The gate: which experts a token goes to, and with what weight.
//!
//! V2 (§2.1.2, §2.2.1): softmax affinities, top-k of all (`greedy`) or of the groups with the
//! highest single affinity (`group_limited_greedy`). V3 (§2.1.2): sigmoid affinities, choice by
//! affinity plus a correction bias, groups ranked by the sum of their two best (`noaux_tc`),
//! weights from the unbiased affinities.

use crate::Compute;
use crate::math::{exp, largest, per_isa};
use crate::shared::SharedSlice;

/// Tokens handed to one unit.
const UNIT_TOKENS: usize = 16;

/// `scoring_func`: affinity of a token and an expert from the gate's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each logit.
    Sigmoid,
}

/// `topk_method`: how experts are chosen from affinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopkMethod {
    /// The `num_experts_per_tok` best.
    Greedy,
    /// The best within `topk_group` groups, ranked by their best affinity.
    GroupLimitedGreedy,
    /// As above on affinity + bias, groups ranked by the sum of their two best.
    NoauxTc,
}

/// The gate of one model.
#[derive(Clone, Debug)]
pub struct Router {
    /// `scoring_func`.
    pub scoring: Scoring,
    /// `topk_method`.
    pub method: TopkMethod,
    /// `n_routed_experts`.
    pub experts: usize,
    /// `num_experts_per_tok`.
    pub top_k: usize,
    /// `n_group`.
    pub groups: usize,
    /// `topk_group`.
    pub top_groups: usize,
    /// Divide the chosen weights by their sum.
    pub normalize: bool,
    /// Multiply the weights (after normalisation).
    pub scale: f32,
}

impl Router {
    /// Routes tokens by their gate `logits [tokens, experts]`: `ids` and `weights`
    /// `[tokens, top_k]`, sorted by expert id. `bias [experts]` is
    /// `e_score_correction_bias` (used by `noaux_tc` for the choice only). Ties go to the lower id.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn route(
        &self,
        compute: &Compute,
        logits: &[f32],
        bias: &[f32],
        ids: &mut [u32],
        weights: &mut [f32],
    ) {
        let tokens = logits.len() / self.experts;
        assert!(logits.len() == tokens * self.experts);
        assert!(ids.len() == tokens * self.top_k && weights.len() == ids.len());
        assert!(self.method != TopkMethod::NoauxTc || bias.len() == self.experts);
        let (ids, weights) = (SharedSlice::new(ids), SharedSlice::new(weights));
        compute.pool.run(tokens.div_ceil(UNIT_TOKENS), |unit, scratch| {
            let [affinity, choice] = scratch.floats([self.experts, self.experts]);
            for token in unit * UNIT_TOKENS..tokens.min((unit + 1) * UNIT_TOKENS) {
                // SAFETY: every token belongs to one unit.
                let (ids, weights) = unsafe {
                    (
                        ids.range_mut(token * self.top_k, self.top_k),
                        weights.range_mut(token * self.top_k, self.top_k),
                    )
                };
                let logits = &logits[token * self.experts..][..self.experts];
                match self.scoring {
                    Scoring::Sigmoid => sigmoid(compute.isa, logits, affinity),
                    Scoring::Softmax => softmax(compute.isa, logits, affinity),
                }
                choice.copy_from_slice(affinity);
                if self.method == TopkMethod::NoauxTc {
                    choice.iter_mut().zip(bias).for_each(|(choice, bias)| *choice += bias);
                }
                if self.method != TopkMethod::Greedy && self.top_groups < self.groups {
                    self.mask_groups(choice);
                }
                take_best(compute.isa, choice, ids);
                self.weigh(affinity, ids, weights);
            }
        });
    }

    /// Sets the choice of every expert outside the best groups to -∞.
    fn mask_groups(&self, choice: &mut [f32]) {
        let size = self.experts / self.groups;
        let rank = |group: &[f32]| {
            let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for &value in group {
                (first, second) = if value > first { (value, first) } else { (first, second.max(value)) };
            }
            match self.method {
                TopkMethod::NoauxTc if size > 1 => first + second,
                _ => first,
            }
        };
        // A group stays if fewer than `top_groups` groups come before it: no memory is needed.
        let mut kept = [0u64; 16];
        assert!(self.groups <= 64 * kept.len(), "at most 1024 groups");
        for group in 0..self.groups {
            let own = rank(&choice[group * size..][..size]);
            let before = |other: usize| {
                let rank = rank(&choice[other * size..][..size]);
                rank > own || (rank == own && other < group)
            };
            if (0..self.groups).filter(|&other| before(other)).count() < self.top_groups {
                kept[group / 64] |= 1 << (group % 64);
            }
        }
        for group in (0..self.groups).filter(|group| kept[group / 64] & 1 << (group % 64) == 0) {
            choice[group * size..][..size].fill(f32::NEG_INFINITY);
        }
    }

    fn weigh(&self, affinity: &[f32], ids: &[u32], weights: &mut [f32]) {
        for (weight, &id) in weights.iter_mut().zip(ids) {
            *weight = affinity[id as usize];
        }
        if self.normalize {
            let sum = weights.iter().sum::<f32>() + 1e-20;
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        weights.iter_mut().for_each(|weight| *weight *= self.scale);
    }
}

per_isa! {
    fn sigmoid(logits: &[f32], affinity: &mut [f32]) {
        affinity.iter_mut().zip(logits).for_each(|(affinity, logit)| *affinity = 1.0 / (1.0 + exp(-logit)));
    }
}

per_isa! {
    fn softmax(logits: &[f32], affinity: &mut [f32]) {
        let max = largest(logits);
        affinity.iter_mut().zip(logits).for_each(|(affinity, logit)| *affinity = exp(logit - max));
        let sum: f32 = affinity.iter().sum();
        affinity.iter_mut().for_each(|affinity| *affinity /= sum);
    }
}

per_isa! {
    /// The ids of the largest values, in ascending order of id; ties go to the lower id.
    fn take_best(choice: &mut [f32], ids: &mut [u32]) {
        for id in ids.iter_mut() {
            // NaN marks what was taken: no comparison with it is true.
            let max = largest(choice);
            let best = choice.iter().position(|value| *value == max).unwrap_or(0);
            *id = best as u32;
            choice[best] = f32::NAN;
        }
        ids.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn route(router: &Router, logits: &[f32], bias: &[f32]) -> (Vec<u32>, Vec<f32>) {
        route_on(Isa::Scalar, router, logits, bias)
    }

    fn route_on(isa: Isa, router: &Router, logits: &[f32], bias: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let tokens = logits.len() / router.experts;
        let mut ids = vec![0; tokens * router.top_k];
        let mut weights = vec![0.0; ids.len()];
        router.route(&Compute::with_isa(isa, 2), logits, bias, &mut ids, &mut weights);
        (ids, weights)
    }

    /// One token's affinities in f64, and the best experts by sorting.
    fn reference(router: &Router, logits: &[f32], bias: &[f32]) -> (Vec<u32>, Vec<f64>) {
        let exps: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
        let affinity: Vec<f64> = match router.scoring {
            Scoring::Sigmoid => exps.iter().map(|exp| exp / (1.0 + exp)).collect(),
            Scoring::Softmax => exps.iter().map(|exp| exp / exps.iter().sum::<f64>()).collect(),
        };
        let mut ids: Vec<u32> = (0..router.experts as u32).collect();
        let choice =
            |id: u32| affinity[id as usize] + bias.get(id as usize).map_or(0.0, |&bias| f64::from(bias));
        ids.sort_by(|&a, &b| choice(b).total_cmp(&choice(a)));
        ids.truncate(router.top_k);
        ids.sort_unstable();
        let weights = ids.iter().map(|&id| affinity[id as usize]).collect();
        (ids, weights)
    }

    proptest::proptest! {
        #[test]
        fn every_isa_takes_what_sorting_takes(experts in 1..=300_usize, share in 0.0..1.0_f64, seed: u64, sigmoid: bool) {
            let (scoring, method) = match sigmoid {
                true => (Scoring::Sigmoid, TopkMethod::NoauxTc),
                false => (Scoring::Softmax, TopkMethod::Greedy),
            };
            let top_k = 1 + (share * experts.min(16) as f64) as usize;
            let (groups, top_groups) = (1, 1);
            let router = Router { experts, top_k, groups, top_groups, ..router(method, scoring) };
            // Steps of 1/64 in another order each time: no two alike, however they are rounded.
            let values = |seed: u64| -> Vec<f32> {
                let mut order: Vec<usize> = (0..experts).collect();
                order.sort_by_key(|&at| (at as u64 + 1).wrapping_mul(seed | 1).rotate_left(29));
                order.iter().map(|&step| (step as f32 - experts as f32 / 2.0) / 64.0).collect()
            };
            let logits = values(seed);
            let bias = if sigmoid { vec![0.25; experts] } else { Vec::new() };
            let (ids, weights) = reference(&router, &logits, &bias);
            for isa in Isa::available() {
                let found = route_on(isa, &router, &logits, &bias);
                proptest::prop_assert_eq!(&found.0, &ids, "{:?}", isa);
                for (found, weight) in found.1.iter().zip(&weights) {
                    proptest::prop_assert!((f64::from(*found) - weight).abs() <= 1e-6 * weight, "{:?}", isa);
                }
            }
        }
    }

    fn router(method: TopkMethod, scoring: Scoring) -> Router {
        Router {
            scoring,
            method,
            experts: 6,
            top_k: 2,
            groups: 3,
            top_groups: 1,
            normalize: false,
            scale: 1.0,
        }
    }

    #[test]
    fn greedy_takes_the_best_of_all_and_ties_go_to_the_lower_id() {
        let router = router(TopkMethod::Greedy, Scoring::Softmax);
        let (ids, weights) = route(&router, &[0.0, 3.0, 1.0, 3.0, 0.0, 3.0], &[]);
        assert_eq!(ids, [1, 3]);
        let sum = 3.0 * 3f32.exp() + 1f32.exp() + 2.0;
        assert!(weights.iter().all(|w| (w - 3f32.exp() / sum).abs() < 1e-6));
    }

    #[test]
    fn groups_are_ranked_by_one_or_by_two_experts() {
        // Group 0 has the best single expert, group 2 the best pair.
        let logits = [5.0, -9.0, 0.0, 0.0, 4.0, 4.0];
        let greedy = router(TopkMethod::GroupLimitedGreedy, Scoring::Softmax);
        assert_eq!(route(&greedy, &logits, &[]).0, [0, 1]);
        let noaux = router(TopkMethod::NoauxTc, Scoring::Sigmoid);
        assert_eq!(route(&noaux, &logits, &[0.0; 6]).0, [4, 5]);
    }

    #[test]
    fn the_bias_chooses_but_does_not_weigh() {
        let mut router = router(TopkMethod::NoauxTc, Scoring::Sigmoid);
        (router.normalize, router.scale, router.groups) = (true, 2.5, 1);
        let (ids, weights) =
            route(&router, &[0.0, 0.0, 0.0, 0.0, 1.0, -1.0], &[0.0, 0.0, 9.0, 0.0, 0.0, 9.0]);
        assert_eq!(ids, [2, 5]);
        let (a, b) = (0.5, 1.0 / (1.0 + 1f32.exp()));
        assert!(
            (weights[0] - 2.5 * a / (a + b)).abs() < 1e-6 && (weights[1] - 2.5 * b / (a + b)).abs() < 1e-6
        );
    }
}
