//! Weights move: optimizers, schedules, the loop.
#![forbid(unsafe_code)]
