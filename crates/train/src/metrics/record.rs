//! The events of a run.

use serde::{Deserialize, Serialize};

use super::number;

/// One line of `metrics.jsonl`; `kind` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// What was begun, the first line.
    Run(Box<Run>),
    /// One step of the optimizer.
    Step(Box<Step>),
    /// A look at the validation set.
    Validation(Validation),
    /// A text that the model wrote.
    Sample(Sample),
    /// A checkpoint was saved.
    Checkpoint(Checkpoint),
    /// The run went on from a checkpoint.
    Resume(Resume),
    /// The policy let a step pass without an update.
    Skip(Skip),
}

impl Record {
    /// The step that the event belongs to; 0 for the beginning of the run.
    pub fn step(&self) -> u64 {
        match self {
            Self::Run(_) => 0,
            Self::Step(event) => event.step,
            Self::Validation(event) => event.step,
            Self::Sample(event) => event.step,
            Self::Checkpoint(event) => event.step,
            Self::Resume(event) => event.step,
            Self::Skip(event) => event.step,
        }
    }
}

/// What is trained, on what, from which state of the code.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What the run is called, for people.
    pub name: String,
    /// When it began: seconds since 1970, UTC.
    pub started: u64,
    /// The configuration as text, with every default and override filled in.
    pub config: String,
    /// Parameters of the model.
    pub parameters: u64,
    /// Parameters that one token uses.
    pub active_parameters: u64,
    /// Steps that the schedule ends after.
    pub total_steps: u64,
    /// Which layers are mixtures of experts, in the order of [`Step::max_violation`].
    pub moe_layers: Vec<usize>,
    /// The code's state, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
    /// Where it runs.
    pub machine: Machine,
}

/// State of a git repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Git {
    /// Hash of the commit.
    pub commit: String,
    /// Name of the branch; `HEAD` if none is checked out.
    pub branch: String,
    /// Whether files differ from the commit.
    pub changed: bool,
}

/// Where a run computes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Threads that compute.
    pub threads: usize,
    /// Instruction set of the kernels.
    pub isa: String,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Measured peak in floating-point operations per second, what `mfu` is a share of.
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub peak_flops: Option<f64>,
}

/// The figures of one step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step; the first is 1.
    pub step: u64,
    /// Tokens trained on so far, this step included.
    pub tokens: u64,
    /// Cross-entropy of the next token, nats per token, mean of the batch.
    #[serde(with = "number")]
    pub loss: f64,
    /// Cross-entropy of the multi-token prediction, mean over its depths, before its weight λ.
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub mtp_loss: Option<f64>,
    /// The balance losses as they enter the total.
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub balance_loss: Option<f64>,
    /// Learning rate.
    #[serde(with = "number")]
    pub lr: f64,
    /// Norm of all gradients, before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// Tokens per second of this step.
    #[serde(with = "number")]
    pub tokens_per_second: f64,
    /// Model FLOPs utilization: share of the machine's measured peak, 0 to 1.
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Resident memory of the process in bytes.
    pub memory_bytes: u64,
    /// Seconds spent training up to here, over all resumptions.
    #[serde(with = "number")]
    pub seconds: f64,
    /// MaxVio, `max load / mean load - 1`, of every MoE layer (Wang et al., arXiv 2408.15664, §4).
    #[serde(with = "number::list", default, skip_serializing_if = "Vec::is_empty")]
    pub max_violation: Vec<f64>,
    /// Share of the routed tokens that each expert got, `[MoE layer][expert]`, each layer summing to 1.
    /// Every few steps only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_load: Option<Vec<Vec<f32>>>,
}

/// A look at the validation set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps done before.
    pub step: u64,
    /// Cross-entropy in nats per token.
    #[serde(with = "number")]
    pub loss: f64,
    /// The same per byte of text, in bits; comparable between tokenizers.
    #[serde(with = "number::option", default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
}

/// A text that the model wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Steps done before.
    pub step: u64,
    /// What it was given.
    pub prompt: String,
    /// What it wrote, without the prompt.
    pub text: String,
}

/// A checkpoint was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Steps done before.
    pub step: u64,
    /// Its folder, relative to the run's.
    pub path: String,
    /// Whether its validation loss is the lowest so far.
    pub best: bool,
}

/// The run went on from a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// Step of the checkpoint.
    pub step: u64,
    /// Its folder, relative to the run's.
    pub path: String,
    /// The code's state now, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
    /// Where it goes on.
    pub machine: Machine,
}

/// The policy let a step pass without an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// The step.
    pub step: u64,
    /// What was wrong with it, and where.
    pub reason: String,
}
