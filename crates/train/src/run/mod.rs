//! The loop: a run file becomes a trained model.
//!
//! [`train`] checks everything that can be known before the first step (`start.rs`), then repeats: batches and their
//! gradients (`step.rs`), what is to be done about nonsense (`trouble.rs`), now and then a look at the validation split
//! (`validate.rs`) and a checkpoint (`save.rs`). Everything that happens is told to an [`Observer`] and written to
//! `metrics.jsonl`, TensorBoard's files and `report.html` (`events.rs`).
//!
//! A run that stops and goes on from its checkpoint computes the same numbers as one that never stopped: weights,
//! moments, average and the loader's position are saved exactly, and nothing else decides a step.

mod adapters;
mod conversations;
mod events;
mod machine;
mod model_files;
mod resume;
mod save;
mod start;
mod step;
#[cfg(test)]
mod tests;
mod trouble;
mod validate;

use std::path::{Path, PathBuf};

use fathom_data::{Dataset, Loader};
use fathom_model::differentiable::DifferentiableModel;

use crate::checkpoints::{Best, Checkpoints, Saved};
use crate::config::{ModelSource, Samples};
use crate::metrics;
use crate::optimizer::{Average, Optimizer};
use crate::schedule::Place;
use crate::{Result, RunConfig};
pub use adapters::{AdapterConfig, merge};
use events::Records;
use machine::Work;
use trouble::Trouble;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run file, as it is called in errors.
    pub file: PathBuf,
    /// What it says.
    pub config: RunConfig,
    /// Where everything goes.
    pub out: PathBuf,
    /// What kind of text is learnt.
    pub kind: Kind,
    /// Whether a run is begun or continued.
    pub resume: Resume,
}

/// What kind of text is learnt; decides some defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Prepared token shards, every token of them.
    Pretraining,
    /// Conversations: loss on answers only, each seen by itself.
    FineTuning,
}

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the first step; there must be no run yet.
    No,
    /// At the newest checkpoint.
    Newest,
    /// At this one.
    From(PathBuf),
}

/// What happens in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Conversations read so far, while they become tokens.
    Reading(u64),
    /// All is checked and loaded.
    Ready(&'a Summary),
    /// A record was written.
    Recorded(&'a metrics::Record),
}

/// A run before its first step.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Parameters of the model, and what one token meets of them.
    pub parameters: u64,
    /// Active parameters.
    pub active_parameters: u64,
    /// Parameters that are moved.
    pub trained_parameters: u64,
    /// Tokens of the training split.
    pub data_tokens: u64,
    /// Whether there is a validation split of one row at least.
    pub validation: bool,
    /// The run's length.
    pub steps: u64,
    /// The same in tokens.
    pub tokens: u64,
    /// Steps made before, if it goes on.
    pub first_step: u64,
    /// Bytes of a checkpoint.
    pub checkpoint_bytes: u64,
    /// Bytes of weights, gradients, moments and average: without activations.
    pub state_bytes: u64,
}

/// Whoever started the run.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);

    /// Asked after every step: whether to save and stop.
    fn stop(&mut self) -> bool;

    /// Goes on from `samples.prompts` with the model in `model`, one text for each.
    ///
    /// # Errors
    /// What went wrong, in words; the run goes on without.
    fn sample(
        &mut self,
        model: &Path,
        kind: Kind,
        samples: &Samples,
    ) -> std::result::Result<Vec<String>, String>;
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether all steps were made.
    pub finished: bool,
    /// The last checkpoint.
    pub saved: Saved,
    /// The page about it.
    pub report: PathBuf,
}

/// Trains to the end, or until the observer says stop. With `dry`, only up to the first step: then there is no outcome, and
/// nothing is written but the tokens of conversations.
///
/// # Errors
/// Whatever is wrong with the run file, model, data or checkpoint, before the first step; a step that yields nonsense
/// where the policy is to stop; a full disk.
pub fn train(plan: &Plan, dry: bool, observer: &mut dyn Observer) -> Result<Option<Outcome>> {
    let start = start::Start::check(plan, observer)?;
    if dry {
        return Ok(None);
    }
    let mut trainer = start.begin(observer)?;
    let stopped = trainer.run(observer)?;
    let saved = trainer.save(observer)?;
    let report = crate::report::write(&plan.out)?;
    Ok(Some(Outcome { finished: !stopped, saved, report }))
}

/// A run that is going on.
struct Trainer<'a> {
    plan: &'a Plan,
    source: ModelSource,
    dataset: Dataset,
    validates: bool,
    model: DifferentiableModel,
    optimizer: Optimizer,
    average: Option<Average>,
    loader: Loader,
    checkpoints: Checkpoints,
    records: Records,
    trouble: Trouble,
    work: Work,
    progress: Progress,
    length: Length,
    /// Keeps other processes out of the directory.
    _lock: std::fs::File,
}

/// How far a run is.
#[derive(Clone, Debug, Default)]
struct Progress {
    step: u64,
    tokens: u64,
    seconds: f64,
    best: Option<Best>,
    /// The validation loss of this very step, if it was measured.
    validated: Option<f64>,
    /// The step that was saved last.
    saved: Option<Saved>,
}

/// How long it is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Length {
    steps: u64,
    tokens: u64,
}

impl Trainer<'_> {
    fn config(&self) -> &RunConfig {
        &self.plan.config
    }

    fn place(&self) -> Place {
        Place {
            step: self.progress.step,
            share: self.progress.tokens as f64 / self.length.tokens.max(1) as f64,
        }
    }

    /// Steps until the end; true if it was told to stop before.
    fn run(&mut self, observer: &mut dyn Observer) -> Result<bool> {
        while self.progress.step < self.length.steps {
            self.step(observer)?;
            let (step, last) = (self.progress.step, self.progress.step == self.length.steps);
            if self.validates && (last || step.is_multiple_of(self.config().validation.every)) {
                self.validate(observer)?;
            }
            if !last && step.is_multiple_of(self.config().checkpoint.every) {
                self.save(observer)?;
                crate::report::write(&self.plan.out)?;
            }
            if !last && observer.stop() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
