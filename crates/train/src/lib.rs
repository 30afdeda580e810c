//! Weights move: optimizers, schedules, the loop.
//!
//! What a run is made of stands here, each part tested by itself: [`config`] (a run file, checked), [`schedule`] (what
//! changes with the step), [`optimizer`] (AdamW and Muon), [`checkpoints`] (whole or not there), [`metrics`] and [`report`].
//! The loop that joins them, and `fathom train`, do not exist yet.
//!
//! **Invariant:** never generates text: who wants samples hands in a closure.
#![forbid(unsafe_code)]

pub mod checkpoints;
pub mod config;
mod error;
pub mod metrics;
pub mod optimizer;
pub mod report;
pub mod schedule;

pub use config::RunConfig;
pub use error::{Error, Result};
