//! How far one model is from another: accumulators that take token after token.

use fathom_engine::logprob;

use crate::error::Result;

/// Two distributions over the next token, compared at many places of a text.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    /// KL(source ‖ result) of each token, in nats.
    kl: Vec<f32>,
    agreed: usize,
    source_nll: f64,
    result_nll: f64,
}

impl Divergence {
    /// Takes the logits `[vocab_size]` of both before `target`.
    ///
    /// # Errors
    /// Logits that are NaN or +inf, or all −inf.
    ///
    /// # Panics
    /// If the two differ in length, or `target` is outside.
    pub fn add(&mut self, source: &[f32], result: &[f32], target: u32) -> Result<()> {
        assert_eq!(source.len(), result.len(), "both models have one vocabulary");
        self.source_nll -= logprob(source, target)?;
        self.result_nll -= logprob(result, target)?;
        self.kl.push(kl(source, result) as f32);
        self.agreed += usize::from(best(source) == best(result));
        Ok(())
    }

    /// Tokens taken.
    pub fn tokens(&self) -> usize {
        self.kl.len()
    }

    /// Mean of KL(source ‖ result) = Σ p ln(p / q), in nats.
    pub fn mean_kl(&self) -> f64 {
        self.kl.iter().map(|&kl| f64::from(kl)).sum::<f64>() / self.tokens() as f64
    }

    /// The KL that `share` of the tokens stay below or at (nearest rank); 0 without tokens.
    pub fn kl_quantile(&self, share: f64) -> f64 {
        let mut sorted = self.kl.clone();
        sorted.sort_by(f32::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).map_or(0.0, |&kl| f64::from(kl))
    }

    /// Share of the tokens at which both find the same token likeliest.
    pub fn top1_agreement(&self) -> f64 {
        self.agreed as f64 / self.tokens() as f64
    }

    /// Perplexity of source and result.
    pub fn perplexities(&self) -> [f64; 2] {
        [self.source_nll, self.result_nll].map(|nll| (nll / self.tokens() as f64).exp())
    }
}

/// Σ p ln(p / q), at least 0; infinite where the source allows what the result excludes.
fn kl(source: &[f32], result: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
        f64::from(max) + sum.ln()
    };
    let (of_source, of_result) = (log_sum(source), log_sum(result));
    let term = |(&p, &q): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(p) - of_source, f64::from(q) - of_result);
        if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * (log_p - log_q) }
    };
    source.iter().zip(result).map(term).sum::<f64>().max(0.0)
}

/// The place of the greatest; the first of equals.
fn best(logits: &[f32]) -> usize {
    let better = |best: usize, (at, value): (usize, &f32)| if *value > logits[best] { at } else { best };
    logits.iter().enumerate().fold(0, better)
}

/// Relative error of hidden states, layer by layer.
#[derive(Clone, Debug, Default)]
pub struct LayerErrors {
    /// Per layer: Σ (y - x)² and Σ x².
    sums: Vec<[f64; 2]>,
}

impl LayerErrors {
    /// Takes what both models have after layer `layer`, numbers of the same rows.
    pub fn add(&mut self, layer: usize, source: &[f32], result: &[f32]) {
        if self.sums.len() <= layer {
            self.sums.resize(layer + 1, [0.0; 2]);
        }
        let [error, size] = &mut self.sums[layer];
        for (&x, &y) in source.iter().zip(result) {
            let (x, y) = (f64::from(x), f64::from(y));
            *error += (y - x) * (y - x);
            *size += x * x;
        }
    }

    /// Root mean square of the difference over that of the source, after each layer.
    pub fn relative(&self) -> Vec<f64> {
        self.sums
            .iter()
            .map(|&[error, size]| if error == 0.0 { 0.0 } else { (error / size).sqrt() })
            .collect()
    }

    /// By how much each layer's error exceeds that of the layer before, worst first: (layer, growth). Errors are
    /// carried on from layer to layer, so the last is nearly always the largest; the growth says whose they are.
    pub fn worst(&self) -> Vec<(usize, f64)> {
        let relative = self.relative();
        let before = std::iter::once(0.0).chain(relative.iter().copied());
        let mut growth: Vec<(usize, f64)> =
            relative.iter().zip(before).map(|(after, before)| after - before).enumerate().collect();
        growth.sort_by(|a, b| b.1.total_cmp(&a.1));
        growth
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_divergences() {
        // p = (1/2, 1/2), q = (1/4, 3/4): ½ ln 2 + ½ ln ⅔.
        let (p, q) = ([0.0, 0.0], [0.0, 3f32.ln()]);
        let want = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((kl(&p, &q) - want).abs() < 1e-7, "{}", kl(&p, &q));
        assert_eq!(kl(&p, &p), 0.0);
        // Adding to all logits changes nothing; an impossible token of the source adds nothing.
        assert!((kl(&[5.0, 5.0], &q) - want).abs() < 1e-6);
        assert!((kl(&[0.0, 0.0, f32::NEG_INFINITY], &[0.0, 3f32.ln(), -50.0]) - want).abs() < 1e-6);
        assert_eq!(kl(&p, &[0.0, f32::NEG_INFINITY]), f64::INFINITY);
    }

    #[test]
    fn sums_over_tokens() {
        let mut divergence = Divergence::default();
        divergence.add(&[0.0, 0.0], &[0.0, 0.0], 1).unwrap();
        divergence.add(&[1.0, 0.0], &[0.0, 1.0], 0).unwrap();
        let second = kl(&[1.0, 0.0], &[0.0, 1.0]);
        assert_eq!((divergence.tokens(), divergence.top1_agreement()), (2, 0.5));
        assert!((divergence.mean_kl() - second / 2.0).abs() < 1e-7);
        assert_eq!(divergence.kl_quantile(0.5), 0.0);
        assert!((divergence.kl_quantile(0.99) - second).abs() < 1e-7);
        let nll = |logit: f64| (1.0 + (-logit).exp()).ln();
        let [source, result] = divergence.perplexities();
        assert!((source - ((2f64.ln() + nll(1.0)) / 2.0).exp()).abs() < 1e-6, "{source}");
        assert!((result - ((2f64.ln() + nll(-1.0)) / 2.0).exp()).abs() < 1e-6, "{result}");
        assert!(divergence.add(&[f32::NAN, 0.0], &[0.0, 0.0], 0).is_err());
    }

    #[test]
    fn layers_are_told_apart() {
        let mut errors = LayerErrors::default();
        errors.add(1, &[3.0, 4.0], &[3.0, 4.5]);
        errors.add(0, &[1.0, 0.0], &[1.0, 0.0]);
        errors.add(2, &[3.0, 4.0], &[3.0, 4.5]);
        assert_eq!(errors.relative(), [0.0, 0.1, 0.1]);
        assert_eq!(errors.worst()[0], (1, 0.1));
    }

    proptest! {
        #[test]
        fn never_negative(p in prop::collection::vec(-20f32..20.0, 5), q in prop::collection::vec(-20f32..20.0, 5)) {
            let value = kl(&p, &q);
            prop_assert!(value >= 0.0 && value.is_finite());
            prop_assert!(kl(&p, &p).abs() < 1e-12);
        }
    }
}
