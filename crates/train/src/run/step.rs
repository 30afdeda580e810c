//! One step: gradients of some micro-batches, and what the optimizer makes of them.

use std::time::Instant;

use fathom_data::Batch;
use fathom_model::differentiable::{self as model, Balance, PassOptions};
use fathom_tensor::Tape;

use super::trouble::Fault;
use super::{Observer, Trainer, machine};
use crate::Result;
use crate::metrics::{self, Record};
use crate::optimizer::{self, gradient_norm};
use crate::schedule;

/// Steps between two records of what every expert got.
const LOAD_EVERY: u64 = 10;

/// What the micro-batches of a step added up to.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) loss: f64,
    mtp: Option<f64>,
    balance: f64,
    /// Tokens that each expert got, by MoE layer.
    expert_tokens: Vec<Vec<u32>>,
}

impl Trainer<'_> {
    /// Takes the next batches and makes one step, or skips it.
    pub(super) fn step(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let started = Instant::now();
        let place = self.place();
        let batches = self.next_batches()?;
        self.model.trainable().iter().for_each(|parameter| parameter.clear_gradient());
        let sums = self.gradients(&batches)?;
        let norm = gradient_norm(self.model.context().compute(), self.model.trainable(), 1.0);
        let fault = self.fault(&batches, &sums, &norm)?;
        let tokens: usize = batches.iter().map(|batch| batch.batch * batch.seq).sum();
        let learning_rate = self.config().schedule.learning_rate(place, self.length.steps);
        self.progress.step += 1;
        self.progress.tokens += tokens as u64;
        self.progress.validated = None;
        if let Some(fault) = fault {
            self.progress.seconds += started.elapsed().as_secs_f64();
            let step = self.progress.step;
            let safe = self.safe();
            let reason = self.trouble.decide(step, fault, &safe)?;
            return self.records.add(Record::Skip(metrics::Skip { step, reason }), observer);
        }
        let gradient_scale = norm.clipping(self.config().optimizer.clip()) as f32;
        self.update(optimizer::Step { learning_rate, gradient_scale }, &sums.expert_tokens, place);
        self.trouble.passed(sums.loss);
        let seconds = started.elapsed().as_secs_f64();
        self.progress.seconds += seconds;
        let tokens_per_second = tokens as f64 / seconds;
        let record = metrics::Step {
            step: self.progress.step,
            tokens: self.progress.tokens,
            loss: sums.loss,
            mtp_loss: sums.mtp,
            balance_loss: self.balance().is_some().then_some(sums.balance),
            lr: learning_rate,
            grad_norm: norm.norm,
            tokens_per_second,
            mfu: self
                .work
                .peak
                .is_finite()
                .then(|| tokens_per_second * self.work.flops_per_token / self.work.peak),
            memory_bytes: machine::resident_bytes(),
            seconds: self.progress.seconds,
            max_violation: sums.expert_tokens.iter().map(|tokens| max_violation(tokens)).collect(),
            expert_load: self.progress.step.is_multiple_of(LOAD_EVERY).then(|| shares(&sums.expert_tokens)),
        };
        self.records.add(Record::Step(Box::new(record)), observer)
    }

    /// All micro-batches of a step: together they say how much each token counts.
    fn next_batches(&mut self) -> Result<Vec<Batch>> {
        let count = self.config().batch.micro_batches(self.progress.tokens);
        (0..count).map(|_| Ok(self.loader.next_batch()?)).collect()
    }

    /// Runs the passes and leaves the gradients of their mean loss with the parameters.
    fn gradients(&self, batches: &[Batch]) -> Result<Sums> {
        let options = self.pass_options(true);
        let counts: Vec<f64> = batches.iter().map(|batch| learnt(batch) as f64).collect();
        let total: f64 = counts.iter().sum::<f64>().max(1.0);
        let mut sums = Sums::default();
        for (batch, count) in batches.iter().zip(counts) {
            let tape = Tape::new(self.model.context());
            let losses = self.model.losses(&tape, &self.pass_batch(batch), &options)?;
            let weight = count / total;
            sums.add(&losses, weight);
            let scaled = if batches.len() == 1 { losses.total } else { losses.total.scale(weight as f32) };
            tape.backward(&scaled);
        }
        Ok(sums)
    }

    /// The batch as the model takes it.
    pub(super) fn pass_batch(&self, batch: &Batch) -> model::Batch {
        model::Batch {
            batch: batch.batch,
            seq: batch.seq,
            tokens: batch.tokens.clone(),
            documents: self.plan.document_mask().then(|| batch.document.clone()),
            learn: batch.loss_mask.clone(),
        }
    }

    /// What a pass computes: everything for a step, the plain loss for validation.
    pub(super) fn pass_options(&self, training: bool) -> PassOptions {
        if !training {
            return PassOptions::PLAIN;
        }
        PassOptions {
            mtp_weight: schedule::mtp_lambda(&self.config().mtp, self.place()) as f32,
            balance: self.balance().unwrap_or(Balance::NONE),
            recompute: self.config().recompute,
        }
    }

    /// The factors of the balance terms, if one is in use.
    fn balance(&self) -> Option<Balance> {
        let given = &self.config().balance;
        let balance = Balance {
            expert: given.expert as f32,
            device: given.device as f32,
            communication: given.communication as f32,
            sequence: given.sequence as f32,
        };
        (balance != Balance::NONE).then_some(balance)
    }

    /// What is wrong with what the passes yielded.
    fn fault(&self, batches: &[Batch], sums: &Sums, norm: &optimizer::GradientNorm) -> Result<Option<Fault>> {
        if !sums.loss.is_finite() {
            let place = self.first_not_finite(batches)?;
            return Ok(Some(Fault::NotFinite { what: "the loss is not a finite number: it began", place }));
        }
        if let Some(name) = &norm.not_finite {
            let what = "a gradient is not a finite number: the first is";
            return Ok(Some(Fault::NotFinite { what, place: format!("that of {name}") }));
        }
        Ok(self.trouble.spike(sums.loss))
    }

    fn first_not_finite(&self, batches: &[Batch]) -> Result<String> {
        for batch in batches {
            let rows = batch.tokens.chunks_exact(batch.seq + 1);
            let inputs: Vec<u32> = rows.flat_map(|row| &row[..batch.seq]).copied().collect();
            if let Some(place) = self.model.first_not_finite(&inputs, batch.batch)? {
                return Ok(place);
            }
        }
        Ok("the output head, an MTP module or a balance term".to_owned())
    }

    /// What to go back to after a step that ended the run.
    fn safe(&self) -> String {
        match &self.progress.saved {
            Some(saved) => {
                format!("nothing was changed by it: the last good checkpoint is {}", saved.path.display())
            }
            None => "nothing was saved before it".to_owned(),
        }
    }

    /// Moves weights, average and biases.
    fn update(&mut self, step: optimizer::Step, expert_tokens: &[Vec<u32>], place: schedule::Place) {
        let context = self.model.context().clone();
        self.optimizer.step(&context, self.model.trainable(), step);
        if let Some(average) = &mut self.average {
            average.update(context.compute(), self.model.trainable());
        }
        let speed = schedule::bias_update(&self.config().balance, place) as f32;
        if speed > 0.0 && self.model.adapters().is_empty() {
            self.model.update_biases(expert_tokens, speed);
        }
    }
}

impl Sums {
    /// Adds a micro-batch that is `weight` of the step.
    fn add(&mut self, losses: &model::Losses, weight: f64) {
        self.loss += weight * f64::from(losses.main);
        self.balance += weight * f64::from(losses.balance);
        if !losses.mtp.is_empty() {
            let mean = losses.mtp.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.mtp.len() as f64;
            *self.mtp.get_or_insert(0.0) += weight * mean;
        }
        self.expert_tokens.resize_with(losses.expert_tokens.len(), Vec::new);
        for (sum, tokens) in self.expert_tokens.iter_mut().zip(&losses.expert_tokens) {
            sum.resize(tokens.len(), 0);
            sum.iter_mut().zip(tokens).for_each(|(sum, tokens)| *sum += tokens);
        }
    }
}

/// Targets of a batch that count.
pub(super) fn learnt(batch: &Batch) -> usize {
    match &batch.loss_mask {
        Some(mask) => mask.iter().filter(|learn| **learn).count(),
        None => batch.batch * batch.seq,
    }
}

/// MaxVio of one layer (Wang et al., arXiv 2408.15664, §4).
fn max_violation(tokens: &[u32]) -> f64 {
    let sum: f64 = tokens.iter().map(|&count| f64::from(count)).sum();
    let most = f64::from(tokens.iter().copied().max().unwrap_or(0));
    if sum > 0.0 { most * tokens.len() as f64 / sum - 1.0 } else { 0.0 }
}

fn shares(layers: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let share = |tokens: &Vec<u32>| {
        let sum: u32 = tokens.iter().sum();
        tokens.iter().map(|&count| count as f32 / sum.max(1) as f32).collect()
    };
    layers.iter().map(share).collect()
}
