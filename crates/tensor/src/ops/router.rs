//! The gate of a mixture of experts: affinities, the choice, and the weights of what was chosen.
//!
//! Gradients flow through the affinities of the chosen experts (and, normalised, through their sum); the choice
//! itself has none. V2 §2.2.1 (softmax), V3 §2.1.2 (sigmoid with a bias that only chooses).

use fathom_kernels::router::{Router, Scoring};

use crate::{Ids, Var};

/// What a gate decided.
pub struct Routed {
    /// Affinities of all experts, `[tokens, experts]`: what balance losses are made of.
    pub scores: Var,
    /// Chosen experts, ascending, `[tokens, top_k]`.
    pub ids: Ids,
    /// Their weights, `[tokens, top_k]`.
    pub weights: Var,
}

impl Var {
    /// Routes tokens by the gate's logits: `self [tokens, experts]`; `bias [experts]` is V3's
    /// `e_score_correction_bias` and empty elsewhere.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn route(&self, router: &Router, bias: &[f32]) -> Routed {
        let (tokens, experts) = self.value().rows();
        assert_eq!(experts, router.experts, "route of {self:?}");
        let context = self.context();
        let mut ids = vec![0; tokens * router.top_k];
        let weights = context.build([tokens, router.top_k], |weights| {
            router.route(context.compute(), self.value().values(), bias, &mut ids, weights);
        });
        let scores = match router.scoring {
            Scoring::Softmax => self.softmax(),
            Scoring::Sigmoid => self.sigmoid(),
        };
        let ids = Ids::new([tokens, router.top_k], ids);
        let rule = WeightRule { top_k: router.top_k, normalize: router.normalize, scale: router.scale };
        let (slot, chosen, affinities) = (scores.slot(), ids.clone(), scores.value().clone());
        let weights = self.tape().record(weights, &[&scores], move |dweights, gradients| {
            let context = gradients.context().clone();
            let (chosen, affinities) = (chosen.values(), affinities.values());
            let dweights = dweights.values();
            gradients.write(&slot, |dscores, accumulate| {
                context.compute().for_pieces(dscores, experts, |token, dscores| {
                    if !accumulate {
                        dscores.fill(0.0);
                    }
                    let ids = &chosen[token * rule.top_k..][..rule.top_k];
                    let scores = &affinities[token * experts..][..experts];
                    rule.backward(ids, scores, &dweights[token * rule.top_k..], dscores);
                });
            });
        });
        Routed { scores, ids, weights }
    }
}

/// How weights come from the affinities of the chosen.
#[derive(Clone, Copy)]
struct WeightRule {
    top_k: usize,
    normalize: bool,
    scale: f32,
}

impl WeightRule {
    /// Adds to the gradients of one token's affinities. With `S = Σ s + 1e-20` and `w = c · s / S`:
    /// `ds = c / S · (dw - Σ dw · s / S)`; without normalisation `ds = c · dw`.
    fn backward(self, ids: &[u32], scores: &[f32], dweights: &[f32], dscores: &mut [f32]) {
        let (mut sum, mut mean) = (1.0, 0.0);
        if self.normalize {
            sum = ids.iter().map(|&id| scores[id as usize]).sum::<f32>() + 1e-20;
            mean = ids.iter().zip(dweights).map(|(&id, dw)| dw * scores[id as usize]).sum::<f32>() / sum;
        }
        for (&id, dw) in ids.iter().zip(dweights) {
            dscores[id as usize] += self.scale / sum * (dw - mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use fathom_kernels::router::{Router, Scoring, TopkMethod};

    use crate::testing::{check_gradients_at, random};

    fn router(scoring: Scoring, normalize: bool) -> Router {
        let method = TopkMethod::Greedy;
        Router { scoring, method, experts: 6, top_k: 3, groups: 1, top_groups: 1, normalize, scale: 1.7 }
    }

    /// Logits far enough apart that no step of the differences changes a choice.
    fn logits(tokens: usize) -> Vec<f32> {
        let ranks = [2.0, 0.0, 3.0, 5.0, 1.0, 4.0];
        random(tokens * 6, 3)
            .iter()
            .enumerate()
            .map(|(i, r)| ranks[(i + i / 6) % 6] * 0.4 + r * 0.1)
            .collect()
    }

    #[test]
    fn gradients_of_weights_and_scores() {
        for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
            for normalize in [false, true] {
                let router = router(scoring, normalize);
                check_gradients_at(&[&[4, 6]], &[logits(4)], |vars| vars[0].route(&router, &[]).weights);
                check_gradients_at(&[&[4, 6]], &[logits(4)], |vars| {
                    let routed = vars[0].route(&router, &[]);
                    routed.weights.sum_all().mul(&routed.scores.mul(&routed.scores).sum_all())
                });
            }
        }
    }
}
