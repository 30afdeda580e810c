//! A run's records, gathered into what the page shows.

use crate::metrics::{Checkpoint, Record, Resume, Run, Sample, Skip, Step};

use super::curve::Curve;
use super::load::Load;

/// Samples that the page shows.
const SAMPLES: usize = 60;
/// Events of a kind that the page lists or marks.
const EVENTS: usize = 100;

/// Everything that the page shows of a run.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) run: Option<Box<Run>>,
    pub(super) last: Option<Box<Step>>,
    pub(super) loss: Curve,
    pub(super) mtp_loss: Curve,
    pub(super) balance_loss: Curve,
    pub(super) validation_loss: Curve,
    pub(super) bits_per_byte: Curve,
    pub(super) lr: Curve,
    pub(super) grad_norm: Curve,
    pub(super) tokens_per_second: Curve,
    pub(super) mfu: Curve,
    pub(super) memory: Curve,
    /// The layer with the largest MaxVio.
    pub(super) worst_violation: Curve,
    /// Mean MaxVio over the layers.
    pub(super) mean_violation: Curve,
    pub(super) load: Load,
    pub(super) samples: Vec<Sample>,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) best_checkpoint: Option<Checkpoint>,
    pub(super) resumes: Vec<Resume>,
    pub(super) skips: Vec<Skip>,
    /// How many steps were skipped, those not listed included.
    pub(super) skipped: usize,
}

impl History {
    pub(super) fn add(&mut self, record: Record) {
        match record {
            Record::Run(run) => self.run = Some(run),
            Record::Step(step) => self.add_step(step),
            Record::Validation(validation) => {
                self.validation_loss.push(validation.step, validation.loss);
                if let Some(bits) = validation.bits_per_byte {
                    self.bits_per_byte.push(validation.step, bits);
                }
            }
            Record::Sample(sample) => {
                self.samples.push(sample);
                thin_samples(&mut self.samples);
            }
            Record::Checkpoint(checkpoint) => {
                if checkpoint.best {
                    self.best_checkpoint = Some(checkpoint.clone());
                }
                keep_last(&mut self.checkpoints, checkpoint);
            }
            Record::Resume(resume) => keep_last(&mut self.resumes, resume),
            Record::Skip(skip) => {
                self.skipped += 1;
                keep_last(&mut self.skips, skip);
            }
        }
    }

    fn add_step(&mut self, mut step: Box<Step>) {
        let number = step.step;
        self.loss.push(number, step.loss);
        self.lr.push(number, step.lr);
        self.grad_norm.push(number, step.grad_norm);
        self.tokens_per_second.push(number, step.tokens_per_second);
        self.memory.push(number, step.memory_bytes as f64);
        let optional = [
            (&mut self.mtp_loss, step.mtp_loss),
            (&mut self.balance_loss, step.balance_loss),
            (&mut self.mfu, step.mfu),
        ];
        for (curve, value) in optional {
            if let Some(value) = value {
                curve.push(number, value);
            }
        }
        if !step.max_violation.is_empty() {
            let layers = step.max_violation.len() as f64;
            self.worst_violation.push(number, step.max_violation.iter().copied().fold(f64::NAN, f64::max));
            self.mean_violation.push(number, step.max_violation.iter().sum::<f64>() / layers);
        }
        if let Some(load) = step.expert_load.take() {
            self.load.push(number, load);
        }
        self.last = Some(step);
    }
}

fn keep_last<T>(list: &mut Vec<T>, event: T) {
    if list.len() == EVENTS {
        list.remove(0);
    }
    list.push(event);
}

/// Leaves out every second step of the samples when there are too many; the first and the newest stay.
fn thin_samples(samples: &mut Vec<Sample>) {
    if samples.len() <= SAMPLES {
        return;
    }
    let mut steps: Vec<u64> = samples.iter().map(|sample| sample.step).collect();
    steps.dedup();
    if steps.len() < 3 {
        // Very many prompts at one step.
        samples.remove(samples.len() / 2);
        return;
    }
    let last = steps.len() - 1;
    let dropped: Vec<u64> = steps
        .iter()
        .enumerate()
        .filter(|(index, _)| index % 2 == 1 && *index != last)
        .map(|(_, &step)| step)
        .collect();
    samples.retain(|sample| !dropped.contains(&sample.step));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_thinned_to_the_first_the_newest_and_some_between() {
        let mut history = History::default();
        for step in 0..500 {
            for prompt in ["a", "b"] {
                history.add(Record::Sample(Sample { step, prompt: prompt.into(), text: String::new() }));
            }
        }
        let steps: Vec<u64> = history.samples.iter().map(|sample| sample.step).collect();
        assert!(steps.len() <= SAMPLES && steps.len() > 10, "{steps:?}");
        assert_eq!((steps[0], steps[steps.len() - 1]), (0, 499));

        let mut one_step = History::default();
        for _ in 0..500 {
            one_step.add(Record::Sample(Sample { step: 1, prompt: "a".into(), text: String::new() }));
        }
        assert_eq!(one_step.samples.len(), SAMPLES);
    }

    #[test]
    fn a_layer_without_a_number_does_not_hide_the_others() {
        let mut history = History::default();
        let step = Step { step: 1, max_violation: vec![f64::NAN, 0.5], ..Step::default() };
        history.add(Record::Step(Box::new(step)));
        assert_eq!(history.worst_violation.last(), Some((1, 0.5)));
        assert_eq!(history.mean_violation.not_finite, [1]);
    }
}
