//! A run as it is seen in a terminal, or in the log of a job.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use fathom_train::config::Samples;
use fathom_train::metrics::{Record, Step};
use fathom_train::run::{Event, Kind, Observer, Summary};
use indicatif::{ProgressBar, ProgressStyle};

use super::samples;
use crate::interrupt;
use crate::terminal::without_controls;

/// Between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// One line that changes on a terminal; a line now and then elsewhere.
pub(super) struct View {
    bar: Option<ProgressBar>,
    steps: u64,
    last_line: Option<Instant>,
}

impl View {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg}\n{wide_bar} {pos}/{len} steps, {eta} left");
            let bar = ProgressBar::new(0);
            style.map(|style| bar.set_style(style)).ok();
            bar
        });
        Self { bar, steps: 0, last_line: None }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    fn ready(&mut self, summary: &Summary) {
        self.steps = summary.steps;
        if let Some(bar) = &self.bar {
            bar.set_length(summary.steps);
            bar.set_position(summary.first_step);
            // What is left is told from the speed of this sitting.
            bar.reset_eta();
        }
        let million = |count: u64| count as f64 / 1e6;
        let moved = match summary.trained_parameters {
            all if all >= summary.parameters => String::new(),
            some => format!(", {:.2} M trained", million(some)),
        };
        self.line(&format!(
            "{:.2} M parameters ({:.2} M active{moved}); {:.2} M tokens of data; {} steps, {:.2} M tokens{}",
            million(summary.parameters),
            million(summary.active_parameters),
            million(summary.data_tokens),
            summary.steps,
            million(summary.tokens),
            if summary.first_step > 0 {
                format!(", from step {}", summary.first_step)
            } else {
                String::new()
            },
        ));
        self.line(&format!(
            "memory without activations: {:.0} MB; a checkpoint: {:.0} MB{}",
            summary.state_bytes as f64 / 1e6,
            summary.checkpoint_bytes as f64 / 1e6,
            if summary.validation { "" } else { "; no validation: its split is shorter than one sequence" },
        ));
    }

    fn step(&mut self, step: &Step) {
        let text = describe(step);
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.set_position(step.step);
            }
            None => {
                let due = self.last_line.is_none_or(|last| last.elapsed() >= EVERY);
                if due || step.step == self.steps {
                    self.last_line = Some(Instant::now());
                    eprintln!("{}/{} {text}", step.step, self.steps);
                }
            }
        }
    }
}

fn describe(step: &Step) -> String {
    let mut text = format!("loss {:.4}", step.loss);
    if let Some(mtp) = step.mtp_loss {
        text += &format!(", mtp {mtp:.3}");
    }
    text +=
        &format!(", lr {:.2e}, norm {:.2}, {:.0} tokens/s", step.lr, step.grad_norm, step.tokens_per_second);
    if let Some(mfu) = step.mfu {
        text += &format!(", {:.1} % of peak", 100.0 * mfu);
    }
    if let Some(worst) = step.max_violation.iter().copied().reduce(f64::max) {
        text += &format!(", MaxVio {worst:.2}");
    }
    text + &format!(", {:.0} MB", step.memory_bytes as f64 / 1e6)
}

impl Observer for View {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Ready(summary) => self.ready(summary),
            Event::Recorded(Record::Step(step)) => self.step(step),
            Event::Recorded(Record::Validation(validation)) => {
                let bits = validation
                    .bits_per_byte
                    .map_or(String::new(), |bits| format!(", {bits:.4} bits per byte"));
                self.line(&format!("step {}: validation loss {:.4}{bits}", validation.step, validation.loss));
            }
            Event::Recorded(Record::Checkpoint(saved)) => {
                let best = if saved.best { ", the best so far" } else { "" };
                self.line(&format!("step {}: saved {}{best}", saved.step, saved.path));
            }
            Event::Recorded(Record::Sample(sample)) => {
                let (prompt, text) = (without_controls(&sample.prompt), without_controls(&sample.text));
                self.line(&format!("step {}: {prompt:?} → {text:?}", sample.step));
            }
            Event::Recorded(Record::Skip(skip)) => {
                self.line(&format!("step {}: skipped, {}", skip.step, skip.reason));
            }
            Event::Reading(conversations) if self.bar.is_some() => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("{conversations} conversations read"));
                }
            }
            _ => {}
        }
    }

    fn stop(&mut self) -> bool {
        interrupt::pressed()
    }

    fn sample(&mut self, model: &Path, kind: Kind, samples: &Samples) -> Result<Vec<String>, String> {
        samples::write(model, kind, samples).map_err(|error| format!("{error:#}"))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
