//! The tokens that may be drawn, with their weights: temperature, top-k, top-p, min-p, and the draw.
//!
//! Tokens are ranked by logit, equal logits by the lower id. That order is total, so whatever a truncation
//! keeps is a beginning of the ranking, and the three truncations together keep the shortest of three
//! beginnings: all that is sought is the rank key of the last token kept, the *cut*. Nothing here sorts a
//! vocabulary:
//!
//! 1. The maxima of 64-token blocks are found once; a block whose maximum lies below a bound is skipped.
//! 2. top-k: the k-th largest maximum is a lower bound for the k-th largest logit, because k different
//!    tokens reach it. Only the few tokens above it are selected from.
//! 3. top-p: the tokens above the 256-th largest maximum nearly always have enough weight. If they do not:
//!    all tokens lighter than (1 − p) · total / n together weigh less than 1 − p of the total, so the kept
//!    ones are among the others. Either list is halved by selection until the cut is found.
//! 4. min-p is a bound itself.
//! 5. The draw walks the candidates by ascending id, sums of 512 at a time. A truncation that removes
//!    nothing therefore changes nothing, not even the token drawn.

use crate::softmax::{self, Scale};

const MAXIMA_BLOCK: usize = 64;
const DRAW_BLOCK: usize = 512;
/// How many block maxima the first attempt at top-p goes down.
const FIRST_LOOK: usize = 256;
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
    sorted_maxima: Vec<f32>,
    /// Rank key (the greater, the better) and weight.
    ranked: Vec<(u64, f32)>,
}

impl Candidates {
    /// Finds the candidates among `logits` [vocab_size], which are finite or −inf with the finite maximum
    /// `best`.
    pub(crate) fn select(&mut self, logits: &[f32], best: f32, truncation: &Truncation) {
        let scale = Scale::new(best, truncation.temperature);
        self.ids.clear();
        let top_k = truncation.top_k.filter(|&top_k| top_k < logits.len());
        if top_k.is_none() && truncation.top_p == 1.0 && truncation.min_p == 0.0 {
            self.ids.extend(0..logits.len() as u32);
            self.weights.resize(logits.len(), 0.0);
            scale.weights(logits, &mut self.weights);
            return;
        }
        self.block_maxima.clear();
        self.block_maxima.extend(logits.chunks(MAXIMA_BLOCK).map(softmax::max));
        let mut cut = rank_key(f32::MIN, u32::MAX);
        if let Some(top_k) = top_k {
            cut = self.cut_top_k(logits, &scale, top_k);
            if truncation.top_p < 1.0 {
                let mass = f64::from(truncation.top_p) * mass(&self.ranked);
                cut = cut_at_mass(&mut self.ranked, mass);
            }
        } else if truncation.top_p < 1.0 {
            cut = self.cut_top_p(logits, &scale, truncation);
        }
        if truncation.min_p > 0.0 {
            // In the domain of logits, where the weight of the best needs no exponential.
            let least = logit_at(best, truncation.temperature, f64::from(truncation.min_p));
            cut = cut.max(rank_key(least, u32::MAX));
        }
        self.gather(logits, cut);
        self.weights.clear();
        self.weights.extend(self.ids.iter().map(|&id| scale.weight(logits[id as usize])));
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

    /// The cut after the best `top_k` tokens; `ranked` are these.
    fn cut_top_k(&mut self, logits: &[f32], scale: &Scale, top_k: usize) -> u64 {
        let bound = self.maximum_at(top_k);
        self.rank_above(logits, scale, bound);
        if top_k < self.ranked.len() {
            self.ranked.select_nth_unstable_by(top_k - 1, best_first);
            self.ranked.truncate(top_k);
        }
        self.ranked.iter().map(|&(key, _)| key).min().unwrap_or(0)
    }

    /// The cut after the shortest beginning of the ranking that has at least `top_p` of the total weight.
    fn cut_top_p(&mut self, logits: &[f32], scale: &Scale, truncation: &Truncation) -> u64 {
        let top_p = f64::from(truncation.top_p);
        let total = scale.total(logits);
        let bound = self.maximum_at(FIRST_LOOK);
        self.rank_above(logits, scale, bound);
        if mass(&self.ranked) < top_p * total {
            // A little lower than the bound itself, so that rounding cannot exclude a needed token.
            let lightest = 0.99 * (1.0 - top_p) * total / logits.len() as f64;
            let bound = logit_at(scale.best(), truncation.temperature, lightest).next_down();
            self.rank_above(logits, scale, bound);
        }
        cut_at_mass(&mut self.ranked, top_p * total)
    }

    /// The `rank`-th largest of the block maxima (from 1), −inf if there are fewer: at least `rank` tokens
    /// reach it.
    fn maximum_at(&mut self, rank: usize) -> f32 {
        if rank > self.block_maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.sorted_maxima.clone_from(&self.block_maxima);
        *self.sorted_maxima.select_nth_unstable_by(rank - 1, |a, b| b.total_cmp(a)).1
    }

    /// Sets `ranked` to all possible tokens with a logit of at least `bound`, in no order.
    fn rank_above(&mut self, logits: &[f32], scale: &Scale, bound: f32) {
        let bound = bound.max(f32::MIN);
        self.ranked.clear();
        for (block, _) in self.block_maxima.iter().enumerate().filter(|&(_, &max)| max >= bound) {
            let start = block * MAXIMA_BLOCK;
            for (id, &logit) in logits.iter().enumerate().skip(start).take(MAXIMA_BLOCK) {
                if logit >= bound {
                    self.ranked.push((rank_key(logit, id as u32), scale.weight(logit)));
                }
            }
        }
    }

    /// Sets `ids` to the tokens that rank at least as high as `cut`.
    fn gather(&mut self, logits: &[f32], cut: u64) {
        let bound = logit_of(cut);
        for (block, _) in self.block_maxima.iter().enumerate().filter(|&(_, &max)| max >= bound) {
            let start = block * MAXIMA_BLOCK;
            for (id, &logit) in logits.iter().enumerate().skip(start).take(MAXIMA_BLOCK) {
                if logit >= bound && rank_key(logit, id as u32) >= cut {
                    self.ids.push(id as u32);
                }
            }
        }
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
        [self.ids.capacity(), self.weights.capacity(), self.sorted_maxima.capacity(), self.ranked.capacity()]
    }
}

/// The key of the first of `ranked`, best first, at which the sum of the weights reaches `mass`; the last
/// one's if rounding keeps the sum below it.
fn cut_at_mass(ranked: &mut [(u64, f32)], mut mass: f64) -> u64 {
    let mut rest = ranked;
    while rest.len() > SORT_MAX {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, best_first);
        let (better, worse) = rest.split_at_mut(middle);
        let better_mass = self::mass(better);
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

/// The logit of a rank key; +0 for both zeros.
fn logit_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// The logit at which a token has `weight` ∈ (0, 1] relative to the best.
fn logit_at(best: f32, temperature: f32, weight: f64) -> f32 {
    (f64::from(best) + f64::from(temperature) * weight.ln()) as f32
}

fn mass(ranked: &[(u64, f32)]) -> f64 {
    ranked.iter().map(|&(_, weight)| f64::from(weight)).sum()
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
        assert!(ranking.iter().all(|&(logit, id)| logit_of(rank_key(logit, id)) == logit));
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
        // The same where halving finds the boundary.
        check(&[0.0; 256], Truncation { top_p: 0.5, ..OFF }, &Vec::from_iter(0..128));
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
