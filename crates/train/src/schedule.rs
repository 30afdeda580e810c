//! What changes over a run, as pure functions of where it stands: learning rate, λ, γ.
//!
//! A place in the run is a step (warm-up counts steps) and the share of all tokens seen before it (everything else:
//! the papers give their turning points in tokens).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::config::{Balance, Mtp};

/// Where a run stands before a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Steps made.
    pub step: u64,
    /// Tokens seen, as a share of all that will be.
    pub share: f64,
}

/// The learning rate over the run. Each begins with `warmup_steps` of a linear rise from 0; `lr` is the peak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// The peak for ever.
    Constant {
        /// Peak.
        lr: f64,
        /// Steps of the rise.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// V2 and V2-Lite: at each share of the run the rate is multiplied by `factor`.
    Step {
        /// Peak.
        lr: f64,
        /// Steps of the rise.
        #[serde(default)]
        warmup_steps: u64,
        /// Shares of the run (V2: 0.6, 0.9; V2-Lite: 0.8, 0.9).
        #[serde(default = "defaults::at")]
        at: Vec<f64>,
        /// 0.316, so that two make a tenth.
        #[serde(default = "defaults::factor")]
        factor: f64,
    },
    /// V3 §4.2: constant, a cosine down to `cosine_to · lr`, constant, and `tail_to · lr` for the rest.
    V3 {
        /// Peak.
        lr: f64,
        /// Steps of the rise.
        #[serde(default)]
        warmup_steps: u64,
        /// End of the constant part (10 of 14.8 trillion tokens).
        #[serde(default = "defaults::constant_until")]
        constant_until: f64,
        /// End of the cosine (14.3 of 14.8).
        #[serde(default = "defaults::cosine_until")]
        cosine_until: f64,
        /// End of the first tail (14.633 of 14.8).
        #[serde(default = "defaults::tail_until")]
        tail_until: f64,
        /// Of the peak: 2.2e-5 of 2.2e-4.
        #[serde(default = "defaults::tenth")]
        cosine_to: f64,
        /// Of the peak: 7.3e-6 of 2.2e-4.
        #[serde(default = "defaults::tail_to")]
        tail_to: f64,
    },
    /// A cosine from the end of the warm-up to the end of the run.
    Cosine {
        /// Peak.
        lr: f64,
        /// Steps of the rise.
        #[serde(default)]
        warmup_steps: u64,
        /// Of the peak, at the end.
        #[serde(default = "defaults::tenth")]
        to: f64,
    },
    /// Warm-up, stable, decay (Hu et al., arXiv 2404.06395): the last `decay` of the run goes down.
    Wsd {
        /// Peak.
        lr: f64,
        /// Steps of the rise.
        #[serde(default)]
        warmup_steps: u64,
        /// The last share of the run.
        #[serde(default = "defaults::tenth")]
        decay: f64,
        /// Of the peak, at the end.
        #[serde(default)]
        to: f64,
        /// How it goes down.
        #[serde(default)]
        shape: DecayShape,
    },
}

/// How a rate goes from one to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayShape {
    /// Evenly.
    #[default]
    Linear,
    /// Half a cosine.
    Cosine,
    /// 1 - √x (Hägele et al., arXiv 2405.18392).
    Sqrt,
}

mod defaults {
    pub(super) fn at() -> Vec<f64> {
        vec![0.6, 0.9]
    }
    pub(super) fn factor() -> f64 {
        0.316
    }
    pub(super) fn constant_until() -> f64 {
        10.0 / 14.8
    }
    pub(super) fn cosine_until() -> f64 {
        14.3 / 14.8
    }
    pub(super) fn tail_until() -> f64 {
        14.633 / 14.8
    }
    pub(super) fn tenth() -> f64 {
        0.1
    }
    pub(super) fn tail_to() -> f64 {
        7.3e-6 / 2.2e-4
    }
}

impl Schedule {
    /// The highest rate.
    pub fn peak(&self) -> f64 {
        match self {
            Self::Constant { lr, .. }
            | Self::Step { lr, .. }
            | Self::V3 { lr, .. }
            | Self::Cosine { lr, .. }
            | Self::Wsd { lr, .. } => *lr,
        }
    }

    /// Steps of the rise.
    pub fn warmup_steps(&self) -> u64 {
        match self {
            Self::Constant { warmup_steps, .. }
            | Self::Step { warmup_steps, .. }
            | Self::V3 { warmup_steps, .. }
            | Self::Cosine { warmup_steps, .. }
            | Self::Wsd { warmup_steps, .. } => *warmup_steps,
        }
    }

    /// The rate of the step that is made at `place`. `total_steps` is the run's length.
    pub fn learning_rate(&self, place: Place, total_steps: u64) -> f64 {
        let warmup = self.warmup_steps();
        if place.step < warmup {
            return self.peak() * (place.step + 1) as f64 / warmup as f64;
        }
        self.peak() * self.of_peak(place, warmup as f64 / total_steps.max(1) as f64)
    }

    /// The rate as a share of the peak, after the warm-up, which took `warmed` of the run.
    fn of_peak(&self, place: Place, warmed: f64) -> f64 {
        let share = place.share;
        match self {
            Self::Constant { .. } => 1.0,
            Self::Step { at, factor, .. } => {
                at.iter().filter(|&&at| share >= at).fold(1.0, |rate, _| rate * factor)
            }
            Self::V3 { constant_until, cosine_until, tail_until, cosine_to, tail_to, .. } => {
                if share < *constant_until {
                    1.0
                } else if share < *cosine_until {
                    let passed = (share - constant_until) / (cosine_until - constant_until);
                    DecayShape::Cosine.between(*cosine_to, passed)
                } else if share < *tail_until {
                    *cosine_to
                } else {
                    *tail_to
                }
            }
            Self::Cosine { to, .. } => {
                let passed = (share - warmed).max(0.0) / (1.0 - warmed).max(f64::MIN_POSITIVE);
                DecayShape::Cosine.between(*to, passed)
            }
            Self::Wsd { decay, to, shape, .. } => {
                let begins = 1.0 - decay;
                if share < begins || *decay == 0.0 {
                    1.0
                } else {
                    shape.between(*to, (share - begins) / decay)
                }
            }
        }
    }
}

impl DecayShape {
    /// From 1 down to `end`, of which `passed` (0 to 1) is done.
    fn between(self, end: f64, passed: f64) -> f64 {
        let passed = passed.clamp(0.0, 1.0);
        let left = match self {
            Self::Linear => 1.0 - passed,
            Self::Cosine => 0.5 * (1.0 + (PI * passed).cos()),
            Self::Sqrt => 1.0 - passed.sqrt(),
        };
        end + (1.0 - end) * left
    }
}

/// λ of the MTP loss at `place`.
pub fn mtp_lambda(mtp: &Mtp, place: Place) -> f64 {
    if place.share < mtp.switch { mtp.lambda } else { mtp.lambda_later }
}

/// γ of the router's bias at `place`.
pub fn bias_update(balance: &Balance, place: Place) -> f64 {
    if place.share < balance.bias_update_until { balance.bias_update } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate of step `step` of a hundred equal ones.
    fn at(schedule: &Schedule, step: u64) -> f64 {
        schedule.learning_rate(Place { step, share: step as f64 / 100.0 }, 100)
    }

    #[track_caller]
    fn check(schedule: &Schedule, rows: &[(u64, f64)]) {
        for &(step, want) in rows {
            let got = at(schedule, step);
            assert!((got - want).abs() < 1e-12, "step {step}: {got}, expected {want}");
        }
    }

    #[test]
    fn warm_up_and_constant() {
        let schedule = Schedule::Constant { lr: 1.0, warmup_steps: 4 };
        check(&schedule, &[(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (99, 1.0)]);
        check(&Schedule::Constant { lr: 2.0, warmup_steps: 0 }, &[(0, 2.0)]);
    }

    #[test]
    fn v2_steps() {
        let schedule = Schedule::Step { lr: 1.0, warmup_steps: 2, at: vec![0.6, 0.9], factor: 0.316 };
        check(&schedule, &[(0, 0.5), (2, 1.0), (59, 1.0), (60, 0.316), (89, 0.316), (90, 0.099856)]);
    }

    #[test]
    fn v3_constant_cosine_and_two_tails() {
        let schedule = Schedule::V3 {
            lr: 1.0,
            warmup_steps: 0,
            constant_until: 0.5,
            cosine_until: 0.9,
            tail_until: 0.95,
            cosine_to: 0.1,
            tail_to: 0.03,
        };
        // Half-way down a cosine from 1 to 0.1; a quarter is at 0.1 + 0.9 · (1 + cos 45°)/2.
        check(&schedule, &[(0, 1.0), (49, 1.0), (50, 1.0), (70, 0.55), (90, 0.1), (94, 0.1), (95, 0.03)]);
        check(&schedule, &[(60, 0.1 + 0.45 * (1.0 + 0.5f64.sqrt()))]);
    }

    #[test]
    fn cosine_begins_where_the_warm_up_ends() {
        let schedule = Schedule::Cosine { lr: 1.0, warmup_steps: 20, to: 0.0 };
        check(&schedule, &[(19, 1.0), (20, 1.0), (60, 0.5), (80, 0.5 * (1.0 - 0.5f64.sqrt()))]);
        let end = schedule.learning_rate(Place { step: 100, share: 1.0 }, 100);
        assert!(end.abs() < 1e-12, "{end}");
    }

    #[test]
    fn wsd_decays_at_the_end() {
        let wsd = |shape| Schedule::Wsd { lr: 1.0, warmup_steps: 0, decay: 0.2, to: 0.1, shape };
        check(&wsd(DecayShape::Linear), &[(79, 1.0), (80, 1.0), (90, 0.55), (95, 0.325)]);
        check(&wsd(DecayShape::Cosine), &[(90, 0.55)]);
        check(&wsd(DecayShape::Sqrt), &[(85, 0.55), (80, 1.0)]);
    }

    #[test]
    fn lambda_and_gamma_switch() {
        let mtp = Mtp { lambda: 0.3, lambda_later: 0.1, switch: 0.5 };
        let balance = Balance { bias_update: 0.001, bias_update_until: 0.9, ..Balance::default() };
        let place = |share| Place { step: 0, share };
        assert_eq!([0.0, 0.49, 0.5].map(|share| mtp_lambda(&mtp, place(share))), [0.3, 0.3, 0.1]);
        assert_eq!([0.0, 0.89, 0.9].map(|share| bias_update(&balance, place(share))), [0.001, 0.001, 0.0]);
    }
}
