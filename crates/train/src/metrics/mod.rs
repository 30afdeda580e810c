//! What a run writes down while it trains: one JSON line per event, and the same figures for
//! TensorBoard.
//!
//! `metrics.jsonl` is the record; the report, the terminal view and TensorBoard's files are made
//! from the same [`Record`]s.

mod error;
mod git;
mod log;
mod number;
mod record;
mod tensorboard;

pub use error::{Error, Result};
pub use log::{FILE_NAME, Log, Records};
pub use record::{Checkpoint, Git, Machine, Record, Resume, Run, Sample, Skip, Step, Validation};
pub use tensorboard::TensorBoard;
