//! The sampling pipeline in the plainest form, in `f64` with a full sort: what the fast one must equal.

use crate::params::SamplingParams;

/// The final distribution as the pipeline defines it.
pub(crate) struct Reference {
    /// Ids and probabilities after temperature and top-k, best first: what top-p and min-p cut.
    pub(crate) ranked: Vec<(u32, f64)>,
    /// How many of `ranked` remain; a range, because a boundary closer than rounding may fall either way.
    pub(crate) kept: std::ops::RangeInclusive<usize>,
}

/// Bias and penalties in `f32`, in the documented order: that rounding is part of the definition.
pub(crate) fn adjusted(params: &SamplingParams, logits: &[f32], prompt: &[u32], answer: &[u32]) -> Vec<f32> {
    let mut out = logits.to_vec();
    for (id, logit) in out.iter_mut().enumerate() {
        let is_this = |&&other: &&u32| other as usize == id;
        let count = answer.iter().filter(is_this).count();
        let in_prompt = prompt.iter().filter(is_this).count() > 0;
        for &(_, bias) in params.logit_bias.iter().filter(|&&(biased, _)| biased as usize == id) {
            *logit += bias;
        }
        if in_prompt || count > 0 {
            *logit = if *logit > 0.0 {
                *logit / params.repetition_penalty
            } else {
                *logit * params.repetition_penalty
            };
        }
        if count > 0 {
            *logit -= params.frequency_penalty * count as f32;
            *logit -= params.presence_penalty;
        }
    }
    out
}

/// Natural log-probabilities.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - f64::from(max) - sum.ln()).collect()
}

/// Temperature and truncation of adjusted logits.
pub(crate) fn truncated(params: &SamplingParams, adjusted: &[f32]) -> Reference {
    let mut ranked: Vec<(u32, f64)> =
        (0u32..).zip(adjusted).map(|(id, &logit)| (id, f64::from(logit))).collect();
    ranked.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("no NaN").then(a.0.cmp(&b.0)));
    ranked.retain(|&(_, logit)| logit > f64::NEG_INFINITY);
    ranked.truncate(params.top_k.unwrap_or(usize::MAX));
    let best = ranked[0].1;
    for (_, value) in &mut ranked {
        *value = ((*value - best) / f64::from(params.temperature)).exp();
    }
    let total: f64 = ranked.iter().map(|&(_, weight)| weight).sum();
    for (_, value) in &mut ranked {
        *value /= total;
    }
    let kept = count_kept(&ranked, params, -1e-6)..=count_kept(&ranked, params, 1e-6);
    Reference { ranked, kept }
}

fn count_kept(ranked: &[(u32, f64)], params: &SamplingParams, slack: f64) -> usize {
    let mut sum = 0.0;
    let mut top_p = ranked.len();
    if params.top_p < 1.0 {
        for (index, &(_, p)) in ranked.iter().enumerate() {
            sum += p;
            if sum >= f64::from(params.top_p) + slack {
                top_p = index + 1;
                break;
            }
        }
    }
    let least = f64::from(params.min_p) * ranked[0].1 * (1.0 - slack);
    let min_p = ranked.iter().take_while(|&&(_, p)| p >= least).count();
    top_p.min(min_p)
}
