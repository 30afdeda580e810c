//! Weights move: optimizers, schedules, the loop.
//!
//! **Invariant:** never generates text: who wants samples hands in a closure.
#![forbid(unsafe_code)]

pub mod metrics;
pub mod report;
