//! Weights move: optimizers, schedules, the loop.
//!
//! [`run`] is the loop. What it joins stands beside it, each part tested by itself: [`config`] (a run file, checked),
//! [`schedule`] (what changes with the step), [`optimizer`] (AdamW and Muon), [`checkpoints`] (whole or not there),
//! [`metrics`] and [`report`].
//!
//! **Invariant:** never generates text: who wants samples hands in a closure.
#![forbid(unsafe_code)]

pub mod checkpoints;
pub mod config;
mod error;
pub mod metrics;
pub mod optimizer;
pub mod report;
pub mod run;
pub mod schedule;

pub use config::RunConfig;
pub use error::{Error, Result};
