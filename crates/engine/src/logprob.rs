//! The log-probability of a token that is given, not chosen: scoring.

use crate::error::{Error, Result};
use crate::softmax::{self, Scale};

/// Natural logarithm of the probability of `token` under `logits`, `[vocab_size]`.
///
/// # Errors
/// [`Error::NonFiniteLogits`] for NaN or +inf, [`Error::NoPossibleToken`] if all are −inf.
///
/// # Panics
/// If `token` is outside the vocabulary.
pub fn logprob(logits: &[f32], token: u32) -> Result<f64> {
    let max = greatest(logits)?;
    let log_sum = Scale::new(max, 1.0).total(logits).ln();
    Ok(f64::from(logits[token as usize]) - f64::from(max) - log_sum)
}

/// The greatest logit, after checking that there is one and that nothing is NaN or +inf.
///
/// # Errors
/// As [`logprob`].
pub(crate) fn greatest(logits: &[f32]) -> Result<f32> {
    if !softmax::all_below_infinity(logits) {
        let bad = |&(_, value): &(usize, &f32)| value.is_nan() || *value == f32::INFINITY;
        if let Some((token, &value)) = logits.iter().enumerate().find(bad) {
            return Err(Error::NonFiniteLogits { token: token as u32, value });
        }
    }
    let max = softmax::max(logits);
    if max == f32::NEG_INFINITY {
        return Err(Error::NoPossibleToken { vocab_size: logits.len() });
    }
    Ok(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let logits = [1.0, -2.0, 0.5, f32::NEG_INFINITY];
        let exact = crate::reference::log_softmax(&logits);
        for (token, exact) in exact.into_iter().enumerate() {
            let got = logprob(&logits, token as u32).unwrap();
            assert!(got == exact || (got - exact).abs() < 1e-6, "token {token}: {got}, expected {exact}");
        }
        assert!(matches!(logprob(&[0.0, f32::NAN], 0), Err(Error::NonFiniteLogits { token: 1, .. })));
        assert!(matches!(logprob(&[f32::NEG_INFINITY; 2], 0), Err(Error::NoPossibleToken { .. })));
    }
}
