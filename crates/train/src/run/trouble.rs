//! Steps that yield nonsense: what is told apart, and what the policy makes of it.

use std::collections::VecDeque;

use crate::config::{self, Policy, SpikePolicy};
use crate::{Error, Result};

/// Losses that a new one is compared with.
const WINDOW: usize = 100;
/// Fewer tell nothing.
const ENOUGH: usize = 20;

/// What was wrong with a step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    NotFinite { what: &'static str, place: String },
    Spike { loss: f64, usual: f64 },
}

/// The last losses and skips.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    config: config::Trouble,
    losses: VecDeque<f64>,
    /// Steps skipped one after another.
    skips: u64,
}

impl Trouble {
    pub(super) fn new(config: &config::Trouble, losses: &[f64], skips: u64) -> Self {
        Self { config: config.clone(), losses: losses.iter().copied().collect(), skips }
    }

    pub(super) fn losses(&self) -> Vec<f64> {
        self.losses.iter().copied().collect()
    }

    pub(super) fn skips(&self) -> u64 {
        self.skips
    }

    /// Whether `loss` is far above the usual, where somebody wants to know.
    pub(super) fn spike(&self, loss: f64) -> Option<Fault> {
        if self.config.on_spike == SpikePolicy::Ignore || self.losses.len() < ENOUGH {
            return None;
        }
        let count = self.losses.len() as f64;
        let usual = self.losses.iter().sum::<f64>() / count;
        let variance = self.losses.iter().map(|loss| (loss - usual).powi(2)).sum::<f64>() / count;
        let far = usual + (self.config.spike_deviations * variance.sqrt()).max(self.config.spike_margin);
        (loss > far).then_some(Fault::Spike { loss, usual })
    }

    /// A good step.
    pub(super) fn passed(&mut self, loss: f64) {
        self.skips = 0;
        self.losses.push_back(loss);
        if self.losses.len() > WINDOW {
            self.losses.pop_front();
        }
    }

    /// Decides about `fault` in `step`: the reason why it is skipped, or the error that ends the run. `safe` says what to
    /// go back to.
    pub(super) fn decide(&mut self, step: u64, fault: Fault, safe: &str) -> Result<String> {
        let skip = match fault {
            Fault::NotFinite { .. } => self.config.on_nan == Policy::Skip,
            Fault::Spike { .. } => self.config.on_spike == SpikePolicy::Skip,
        };
        self.skips += u64::from(skip);
        let too_many = self.skips > self.config.max_skips;
        if skip && !too_many {
            return Ok(fault.to_string());
        }
        let after = if too_many {
            format!("{} steps one after another were skipped (trouble.max_skips); {safe}", self.skips - 1)
        } else {
            safe.to_owned()
        };
        Err(match fault {
            Fault::NotFinite { what, place } => Error::NotFinite { step, what, place, after },
            Fault::Spike { loss, usual } => Error::Spike { step, loss, usual, after },
        })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFinite { what, place } => write!(f, "{what} in {place}"),
            Self::Spike { loss, usual } => write!(f, "the loss jumped to {loss:.4} from {usual:.4}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(on_spike: SpikePolicy, on_nan: Policy) -> Trouble {
        let config = config::Trouble { on_spike, on_nan, max_skips: 2, ..config::Trouble::default() };
        let losses: Vec<f64> = (0..40).map(|step| 3.0 + f64::from(step % 2) * 0.1).collect();
        Trouble::new(&config, &losses, 0)
    }

    #[test]
    fn a_spike_is_far_above_the_last_losses() {
        let watched = trouble(SpikePolicy::Skip, Policy::Stop);
        assert_eq!(watched.spike(3.5), None, "six deviations, but less than the margin");
        assert_eq!(watched.spike(1.0), None);
        assert!(matches!(watched.spike(3.6), Some(Fault::Spike { .. })));
        assert_eq!(trouble(SpikePolicy::Ignore, Policy::Stop).spike(99.0), None);
        let young = Trouble::new(
            &config::Trouble { on_spike: SpikePolicy::Stop, ..Default::default() },
            &[3.0; 19],
            0,
        );
        assert_eq!(young.spike(99.0), None, "too few to know");
    }

    #[test]
    fn the_policy_decides_and_has_a_limit() {
        let fault = || Fault::NotFinite { what: "NaN", place: "layer 3".to_owned() };
        let stopped = trouble(SpikePolicy::Skip, Policy::Stop).decide(7, fault(), "go back").unwrap_err();
        assert_eq!(stopped.to_string(), "step 7: NaN in layer 3; go back");
        let mut skipping = trouble(SpikePolicy::Stop, Policy::Skip);
        for _ in 0..2 {
            assert_eq!(skipping.decide(7, fault(), "go back").unwrap(), "NaN in layer 3");
        }
        let stopped = skipping.decide(9, fault(), "go back").unwrap_err().to_string();
        assert!(stopped.contains("2 steps one after another were skipped"), "{stopped}");
        let mut recovered = trouble(SpikePolicy::Stop, Policy::Skip);
        recovered.decide(1, fault(), "").unwrap();
        recovered.passed(3.0);
        assert_eq!(recovered.skips(), 0);
    }
}
