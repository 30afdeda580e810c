//! The tokens that may be drawn, with their weights: temperature, top-k, top-p, min-p, and the draw.
//!
//! Tokens are ranked by logit, equal logits by the lower id. That order is total, so whatever a truncation
//! keeps is a beginning of the ranking, and the three truncations together keep the shortest of three
//! beginnings. Nothing here sorts a vocabulary:
//!
//! 1. top-k: the k-th largest of the maxima of 64-token blocks is a lower bound for the k-th largest logit,
//!    because k different tokens reach it. Only the few tokens above it are selected from.
//! 2. top-p: the weights are added up in bins by distance from the best logit. The bin in which the sum
//!    reaches p is known then, and only its tokens are halved by selection until the boundary is found.
//! 3. The draw walks the candidates by ascending id, sums of 512 at a time. A truncation that removes
//!    nothing therefore changes nothing, not even the token drawn.

use crate::softmax;

const MAXIMA_BLOCK: usize = 64;
const DRAW_BLOCK: usize = 512;
/// Bins of top-p: together 88 nats, beyond which a weight is 0.
const BINS: usize = 1024;
const BINS_PER_NAT: f32 = BINS as f32 / 88.0;
/// Up to this length, sorting beats halving.
const SORT_MAX: usize = 64;

/// What decides which tokens may be drawn. `temperature` is not 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Truncation {
    pub(crate) temperature: f32,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
}

/// The candidates of one step, ids ascending, and the scratch space to find them. Reused for every token.
#[derive(Debug, Clone, Default)]
pub(crate) struct Candidates {
    ids: Vec<u32>,
    /// e^((logit − best) / temperature): the best token weighs 1.
    weights: Vec<f32>,
    block_maxima: Vec<f32>,
    /// Rank key (the greater, the better) and weight.
    ranked: Vec<(u64, f32)>,
}

impl Candidates {
    /// Finds the candidates among `logits` [vocab_size], which are finite or −inf with the finite maximum
    /// `best`.
    pub(crate) fn select(&mut self, logits: &[f32], best: f32, cut: &Truncation) {
        // A subnormal temperature has no finite inverse; 0 · inf would be NaN for the best token.
        let inverse = cut.temperature.recip().min(f32::MAX);
        self.ids.clear();
        self.weights.clear();
        match cut.top_k.filter(|&top_k| top_k < logits.len()) {
            Some(top_k) => {
                self.find_top_k(logits, top_k);
                let kept = self.ids.iter().map(|&id| logits[id as usize]);
                self.weights.extend(kept.map(|logit| softmax::exp_nonpositive((logit - best) * inverse)));
            }
            None => {
                self.ids.extend(0..logits.len() as u32);
                self.weights.resize(logits.len(), 0.0);
                softmax::weights(logits, best, inverse, &mut self.weights);
            }
        }
        if cut.top_p < 1.0 {
            let bin = |id: u32| ((best - logits[id as usize]) * inverse * BINS_PER_NAT) as usize;
            let boundary = self.find_top_p(logits, f64::from(cut.top_p), |id| bin(id).min(BINS - 1));
            self.keep(|id| rank_key(logits[id as usize], id) >= boundary);
        }
        if cut.min_p > 0.0 {
            // In the domain of logits: p ≥ min_p · p_best without the rounding of an exponential.
            let drop_max = f64::from(cut.temperature) * f64::from(cut.min_p).ln();
            self.keep(|id| f64::from(logits[id as usize]) - f64::from(best) >= drop_max);
        }
    }

    /// The candidate at the fraction `u` ∈ [0, 1) of the total weight.
    pub(crate) fn draw(&self, u: f64) -> u32 {
        let blocks = || self.weights.chunks(DRAW_BLOCK).map(softmax::sum);
        let mut left = u * blocks().sum::<f64>();
        // Rounding can leave a target beyond the end; the answer is then the last one with a weight.
        let mut chosen = 0;
        for (block, block_sum) in blocks().enumerate() {
            if left >= block_sum {
                left -= block_sum;
                continue;
            }
            let start = block * DRAW_BLOCK;
            for (index, &weight) in self.weights.iter().enumerate().skip(start).take(DRAW_BLOCK) {
                if weight > 0.0 {
                    chosen = index;
                    left -= f64::from(weight);
                    if left < 0.0 {
                        return self.ids[index];
                    }
                }
            }
            return self.ids[chosen];
        }
        let last = self.weights.iter().rposition(|&weight| weight > 0.0);
        self.ids[last.unwrap_or(chosen)]
    }

    /// Sets `ids` to the best `top_k` tokens that are possible at all.
    fn find_top_k(&mut self, logits: &[f32], top_k: usize) {
        self.block_maxima.clear();
        self.block_maxima.extend(logits.chunks(MAXIMA_BLOCK).map(softmax::max));
        let bound = if top_k <= self.block_maxima.len() {
            // The order of the blocks is needed below, that of this copy is not.
            self.weights.extend_from_slice(&self.block_maxima);
            *self.weights.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a)).1
        } else {
            f32::NEG_INFINITY
        };
        self.weights.clear();
        self.ranked.clear();
        for (block, _) in self.block_maxima.iter().enumerate().filter(|&(_, &max)| max >= bound) {
            let start = block * MAXIMA_BLOCK;
            for (id, &logit) in logits.iter().enumerate().skip(start).take(MAXIMA_BLOCK) {
                if logit >= bound && logit > f32::NEG_INFINITY {
                    self.ranked.push((rank_key(logit, id as u32), 0.0));
                }
            }
        }
        if top_k < self.ranked.len() {
            self.ranked.select_nth_unstable_by(top_k - 1, best_first);
            self.ranked.truncate(top_k);
        }
        self.ids.extend(self.ranked.iter().map(|&(key, _)| id_of(key)));
        self.ids.sort_unstable();
    }

    /// The rank key of the last candidate of the shortest beginning of the ranking that has at least `top_p`
    /// of the total weight. `bin` never falls from a better token to a worse one.
    fn find_top_p(&mut self, logits: &[f32], top_p: f64, bin: impl Fn(u32) -> usize) -> u64 {
        let mut masses = [0.0f64; BINS];
        for (&id, &weight) in self.ids.iter().zip(&self.weights) {
            masses[bin(id)] += f64::from(weight);
        }
        let mut missing = top_p * masses.iter().sum::<f64>();
        let reaches = |&mass: &f64| {
            let reached = mass >= missing;
            if !reached {
                missing -= mass;
            }
            reached
        };
        let Some(boundary) = masses.iter().position(reaches) else {
            // Rounding left a rest beyond the last bin: keep everything.
            return 0;
        };
        self.ranked.clear();
        for (&id, &weight) in self.ids.iter().zip(&self.weights).filter(|&(&id, _)| bin(id) == boundary) {
            self.ranked.push((rank_key(logits[id as usize], id), weight));
        }
        key_at_mass(&mut self.ranked, missing)
    }

    /// Keeps the candidates for which `keep` holds, in their order.
    fn keep(&mut self, keep: impl Fn(u32) -> bool) {
        let mut kept = 0;
        for index in 0..self.ids.len() {
            // Written always and counted if kept: no branch to mispredict.
            let id = self.ids[index];
            self.ids[kept] = id;
            self.weights[kept] = self.weights[index];
            kept += usize::from(keep(id));
        }
        self.ids.truncate(kept);
        self.weights.truncate(kept);
    }

    /// The final distribution: ids ascending, with probabilities. Tokens of probability 0 are left out.
    #[cfg(test)]
    pub(crate) fn distribution(&self) -> Vec<(u32, f64)> {
        let total: f64 = self.weights.iter().map(|&weight| f64::from(weight)).sum();
        let pairs = self.ids.iter().zip(&self.weights).filter(|&(_, &weight)| weight > 0.0);
        pairs.map(|(&id, &weight)| (id, f64::from(weight) / total)).collect()
    }

    #[cfg(test)]
    pub(crate) fn capacities(&self) -> [usize; 4] {
        [self.ids.capacity(), self.weights.capacity(), self.block_maxima.capacity(), self.ranked.capacity()]
    }
}

/// The key of the first of `ranked`, best first, at which the sum of the weights reaches `mass`; the last
/// one's if rounding keeps the sum below it.
fn key_at_mass(ranked: &mut [(u64, f32)], mut mass: f64) -> u64 {
    let mut rest = ranked;
    while rest.len() > SORT_MAX {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, best_first);
        let (better, worse) = rest.split_at_mut(middle);
        let better_mass: f64 = better.iter().map(|&(_, weight)| f64::from(weight)).sum();
        if better_mass >= mass {
            rest = better;
        } else {
            mass -= better_mass;
            rest = worse;
        }
    }
    rest.sort_unstable_by(best_first);
    let reaches = |&&(_, weight): &&(u64, f32)| {
        mass -= f64::from(weight);
        mass <= 0.0
    };
    rest.iter().find(reaches).or(rest.last()).map_or(0, |&(key, _)| key)
}

/// A number that is the greater, the better the token ranks: the logit's bits in the order of the numbers,
/// then the inverted id.
fn rank_key(logit: f32, id: u32) -> u64 {
    // −0 + 0 = +0, so that the two zeros tie.
    let bits = (logit + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(!id)
}

fn id_of(key: u64) -> u32 {
    !(key as u32)
}

fn best_first(a: &(u64, f32), b: &(u64, f32)) -> std::cmp::Ordering {
    b.0.cmp(&a.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Truncation = Truncation { temperature: 1.0, top_k: None, top_p: 1.0, min_p: 0.0 };

    #[track_caller]
    fn check(logits: &[f32], cut: Truncation, ids: &[u32]) {
        let mut candidates = Candidates::default();
        candidates.select(logits, softmax::max(logits), &cut);
        let got: Vec<u32> = candidates.distribution().iter().map(|&(id, _)| id).collect();
        assert_eq!(got, ids, "{cut:?} of {logits:?}");
    }

    #[test]
    fn rank_keys_follow_logits_then_lower_ids() {
        let ranking =
            [(1e30, 7), (1.0, 3), (1.0, 4), (0.0, 0), (-0.0, 1), (0.0, 2), (-1.0, 0), (f32::NEG_INFINITY, 0)];
        assert!(ranking.windows(2).all(|w| rank_key(w[0].0, w[0].1) > rank_key(w[1].0, w[1].1)));
        assert!(ranking.iter().all(|&(logit, id)| id_of(rank_key(logit, id)) == id));
    }

    #[test]
    fn truncations_at_their_boundaries() {
        let inf = f32::INFINITY;
        let equal = [0.0f32; 8];
        check(&equal, OFF, &[0, 1, 2, 3, 4, 5, 6, 7]);
        // Exactly k, the lower ids first.
        check(&equal, Truncation { top_k: Some(3), ..OFF }, &[0, 1, 2]);
        check(&equal, Truncation { top_k: Some(8), ..OFF }, &[0, 1, 2, 3, 4, 5, 6, 7]);
        check(&[0.0, 2.0, 1.0], Truncation { top_k: Some(2), ..OFF }, &[1, 2]);
        check(&[-inf, 2.0, -inf], Truncation { top_k: Some(2), ..OFF }, &[1]);
        // The token that reaches p is the last one kept, and one is always kept.
        check(&equal, Truncation { top_p: 0.5, ..OFF }, &[0, 1, 2, 3]);
        check(&equal, Truncation { top_p: 0.51, ..OFF }, &[0, 1, 2, 3, 4]);
        check(&equal, Truncation { top_p: 1e-9, ..OFF }, &[0]);
        // p is a share of what top-k left.
        check(&equal, Truncation { top_k: Some(4), top_p: 0.5, ..OFF }, &[0, 1]);
        // Temperature changes the share, not the ranking: 1 : e^-2 against 1 : e^-0.2.
        let two = [0.0, -2.0];
        check(&two, Truncation { top_p: 0.6, ..OFF }, &[0]);
        check(&two, Truncation { top_p: 0.6, temperature: 10.0, ..OFF }, &[0, 1]);
        check(&two, Truncation { min_p: 0.135, ..OFF }, &[0, 1]);
        check(&two, Truncation { min_p: 0.136, ..OFF }, &[0]);
        check(&two, Truncation { min_p: 0.136, temperature: 1.1, ..OFF }, &[0, 1]);
        // 1 keeps what ties with the best.
        check(&[1.0, 0.0, 1.0], Truncation { min_p: 1.0, ..OFF }, &[0, 2]);
        // The smallest temperature there is.
        check(&[1.0, 0.0, 1.0], Truncation { temperature: f32::from_bits(1), ..OFF }, &[0, 2]);
        check(&[f32::MIN, f32::MAX], Truncation { temperature: 2.0, ..OFF }, &[1]);
    }

    #[test]
    fn the_draw_splits_the_unit_interval_by_weight() {
        // 1200 tokens, of which every third is impossible: 800 equal ones.
        let logits: Vec<f32> =
            (0..1200).map(|id| if id % 3 == 1 { f32::NEG_INFINITY } else { 0.5 }).collect();
        let mut candidates = Candidates::default();
        candidates.select(&logits, 0.5, &OFF);
        let possible: Vec<u32> = (0..1200).filter(|id| id % 3 != 1).collect();
        for (index, &id) in possible.iter().enumerate() {
            for offset in [0.001, 0.5, 0.999] {
                assert_eq!(candidates.draw((index as f64 + offset) / 800.0), id);
            }
        }
        assert_eq!(candidates.draw(1.0 - f64::EPSILON / 2.0), 1199);
        assert_eq!(candidates.draw(1.0), 1199, "beyond the end");
    }
}
