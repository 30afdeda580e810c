//! Checkpoints of a running run, and the way back.

use std::path::Path;

use fathom_model::differentiable::DifferentiableModel;

use super::{Observer, Trainer, adapters, model_files};
use crate::checkpoints::{Best, Saved, TrainingState};
use crate::metrics::{Checkpoint, Record, Sample};
use crate::optimizer::{Average, Optimizer};
use crate::{Error, Result};

/// The optimizer's file in a checkpoint.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
/// The directory of the averaged weights in a checkpoint.
const AVERAGE: &str = "ema";

impl Trainer<'_> {
    /// Saves, unless this very step is saved already; removes old checkpoints; writes samples.
    pub(super) fn save(&mut self, observer: &mut dyn Observer) -> Result<Saved> {
        if let Some(saved) = self.progress.saved.as_ref().filter(|saved| saved.step == self.progress.step) {
            return Ok(saved.clone());
        }
        let step = self.progress.step;
        let best = match (self.progress.validated, self.progress.best) {
            (Some(loss), best) if best.is_none_or(|best| loss < best.loss) => Some(Best { loss, step }),
            (_, best) => best,
        };
        self.progress.best = best;
        let needed = checkpoint_bytes(&self.model, &self.optimizer, self.average.as_ref());
        let checkpoints = self.checkpoints.clone();
        let saved = checkpoints.save(self.state(), needed, |directory| self.write(directory))?;
        let keep_best = best.filter(|_| self.config().checkpoint.keep_best).map(|best| best.step);
        checkpoints.prune(self.config().checkpoint.keep_last, keep_best)?;
        self.progress.saved = Some(saved.clone());
        let path = saved.path.strip_prefix(&self.plan.out).unwrap_or(&saved.path).display().to_string();
        let best = best.is_some_and(|best| best.step == step);
        self.records.add(Record::Checkpoint(Checkpoint { step, path, best }), observer)?;
        self.samples(&saved.path, observer)?;
        Ok(saved)
    }

    fn state(&self) -> TrainingState {
        TrainingState {
            version: TrainingState::VERSION,
            step: self.progress.step,
            optimizer_steps: self.optimizer.steps(),
            tokens: self.progress.tokens,
            position: self.loader.position(),
            best: self.progress.best,
            recent_losses: self.trouble.losses(),
            skips: self.trouble.skips(),
            seconds: self.progress.seconds,
            config: self.config().to_json(),
            files: Vec::new(),
        }
    }

    /// Everything but `state.json`.
    fn write(&mut self, directory: &Path) -> Result<()> {
        self.write_model(directory)?;
        self.optimizer.save(&directory.join(OPTIMIZER), self.average.as_ref())?;
        if let Some(mut average) = self.average.take() {
            average.swap(self.model.trainable());
            let averaged = directory.join(AVERAGE);
            let written = std::fs::create_dir(&averaged)
                .map_err(Error::io(&averaged, "create"))
                .and_then(|()| self.write_model(&averaged));
            average.swap(self.model.trainable());
            self.average = Some(average);
            written?;
        }
        Ok(())
    }

    /// A model that others can load, or adapters.
    fn write_model(&self, directory: &Path) -> Result<()> {
        match &self.config().lora {
            Some(lora) => {
                self.model.save_adapters(directory)?;
                let base = self.source.weights.as_deref().unwrap_or(Path::new(""));
                adapters::AdapterConfig::new(lora, base).write(directory)
            }
            None => {
                self.model.save_weights(directory)?;
                model_files::write(directory, &self.source, &self.model, self.dataset.directory())
            }
        }
    }

    /// Texts by the model as it was saved; what fails there does not end a run.
    fn samples(&mut self, model: &Path, observer: &mut dyn Observer) -> Result<()> {
        let samples = self.config().samples.clone();
        if samples.prompts.is_empty() {
            return Ok(());
        }
        match observer.sample(model, self.plan.kind, &samples) {
            Ok(texts) => {
                for (prompt, text) in samples.prompts.into_iter().zip(texts) {
                    let sample = Sample { step: self.progress.step, prompt, text };
                    self.records.add(Record::Sample(sample), observer)?;
                }
            }
            Err(reason) => tracing::warn!(reason, "no samples"),
        }
        Ok(())
    }
}

/// Bytes of a checkpoint: weights, once more for their average, and what the optimizer remembers.
pub(super) fn checkpoint_bytes(
    model: &DifferentiableModel,
    optimizer: &Optimizer,
    average: Option<&Average>,
) -> u64 {
    let weights = match model.adapters() {
        [] => model.saved_bytes(),
        adapters => adapters.iter().map(|parameter| 4 * parameter.value().values().len() as u64).sum(),
    };
    weights * (1 + u64::from(average.is_some())) + optimizer.saved_bytes(average)
}
