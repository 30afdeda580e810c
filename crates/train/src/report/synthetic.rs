//! A run that looks like a real one, for the report's tests.

use crate::metrics::{Checkpoint, Git, Machine, Record, Resume, Run, Sample, Skip, Step, Validation};

/// Noise of a fixed stream: xorshift, uniform in -1 to 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

/// Shape of a synthetic run.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) steps: u64,
    pub(super) moe_layers: usize,
    pub(super) experts: usize,
}

/// The records of a run with a warm-up, a spike that was skipped, a resumption, and experts that find their balance.
pub(super) fn run(shape: Shape) -> Vec<Record> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut records = vec![Record::Run(Box::new(begin(shape)))];
    let tastes: Vec<Vec<f64>> =
        (0..shape.moe_layers).map(|_| (0..shape.experts).map(|_| noise.next()).collect()).collect();
    let every = (shape.steps / 24).max(1);
    for number in 1..=shape.steps {
        let progress = number as f64 / shape.steps as f64;
        if number == shape.steps * 3 / 5 {
            records.push(Record::Skip(Skip {
                step: number,
                reason: "the gradient norm is 48.1, usual is 0.6".into(),
            }));
        }
        records.push(Record::Step(Box::new(step(shape, number, &tastes, &mut noise))));
        if number % every == 0 {
            records.extend(looked(number, progress, loss(progress, shape.steps)));
        }
        if number == shape.steps * 4 / 5 {
            records.push(Record::Resume(Resume {
                step: number,
                path: format!("checkpoints/step-{number}"),
                git: Some(git()),
                machine: machine(),
            }));
        }
    }
    records
}

fn loss(progress: f64, steps: u64) -> f64 {
    let step = progress * steps as f64;
    1.75 + 8.6 * (1.0 + step / 40.0).powf(-0.62) - 0.25 * progress
}

fn lr(progress: f64) -> f64 {
    let decayed = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
    4.2e-4 * (progress / 0.02).min(1.0) * (0.1 + 0.9 * decayed)
}

fn step(shape: Shape, number: u64, tastes: &[Vec<f64>], noise: &mut Noise) -> Step {
    let progress = number as f64 / shape.steps as f64;
    let spike = number == shape.steps * 3 / 5;
    let loss = loss(progress, shape.steps) + 0.09 * noise.next() + if spike { 3.5 } else { 0.0 };
    let imbalance = 0.12 + 1.3 * (-progress * 9.0).exp();
    let load: Vec<Vec<f32>> = tastes.iter().map(|taste| shares(taste, imbalance, noise)).collect();
    let max_violation = load
        .iter()
        .map(|shares| f64::from(shares.iter().copied().fold(0.0, f32::max)) * shape.experts as f64 - 1.0);
    Step {
        step: number,
        tokens: number * 65_536,
        loss,
        mtp_loss: Some(loss * 1.12 + 0.1 + 0.06 * noise.next()),
        balance_loss: Some(1e-4 * (1.0 + imbalance)),
        lr: lr(progress),
        grad_norm: (0.35 + 3.0 * (-progress * 60.0).exp()) * (1.0 + 0.3 * noise.next())
            + if spike { 48.0 } else { 0.0 },
        tokens_per_second: 11_800.0
            * (1.0 + 0.03 * noise.next())
            * if number.is_multiple_of(97) { 0.7 } else { 1.0 },
        mfu: Some(0.43 * (1.0 + 0.03 * noise.next())),
        memory_bytes: 6_700_000_000 + (progress * 3e8) as u64,
        seconds: number as f64 * 5.6,
        max_violation: max_violation.collect(),
        expert_load: number.is_multiple_of((shape.steps / 300).max(1)).then_some(load),
    }
}

fn shares(taste: &[f64], imbalance: f64, noise: &mut Noise) -> Vec<f32> {
    let loads: Vec<f64> =
        taste.iter().map(|taste| (imbalance * (1.6 * taste + 0.3 * noise.next())).exp()).collect();
    let sum: f64 = loads.iter().sum();
    loads.iter().map(|load| (load / sum) as f32).collect()
}

fn looked(number: u64, progress: f64, loss: f64) -> Vec<Record> {
    let text = match (progress * 4.0) as u32 {
        0 => " the the a, of the and was\n the it. He and and to said",
        1 => " there was a little girl named Lily. She like to play with the big the ball in the park.",
        2 => {
            " there was a little girl named Lily. She liked to play in the park with her dog. One day she saw a big red ball."
        }
        _ => {
            " there was a little girl named Lily. She loved to play outside in the park.\n\nOne day, she found a big red \
             ball under a tree. \"Whose ball is this?\" she asked. A boy came and said, \"It is mine, but we can share it!\""
        }
    };
    let bits = Some(loss * 0.41);
    let sample = |prompt: &str, text: &str| {
        Record::Sample(Sample { step: number, prompt: prompt.into(), text: text.into() })
    };
    vec![
        Record::Validation(Validation { step: number, loss: loss + 0.04, bits_per_byte: bits }),
        sample("Once upon a time", text),
        sample("fn main() {", "\n    println!(\"<b>hello</b> & good-bye\");\n}"),
        Record::Checkpoint(Checkpoint {
            step: number,
            path: format!("checkpoints/step-{number}"),
            best: true,
        }),
    ]
}

fn begin(shape: Shape) -> Run {
    Run {
        name: "stories-26m-aux-free".into(),
        started: 1_764_083_045,
        config: "[model]\nhidden_size = 384\nnum_hidden_layers = 8\nn_routed_experts = 64\n\n[optimizer]\nkind = \"muon\"\n\
                 lr = 4.2e-4\nweight_decay = 0.1\nbetas = [0.9, 0.95]\n\n[schedule]\nkind = \"cosine\"\nwarmup_steps = 400\n"
            .into(),
        parameters: 171_300_000,
        active_parameters: 26_100_000,
        total_steps: shape.steps,
        moe_layers: (1..=shape.moe_layers).collect(),
        git: Some(git()),
        machine: machine(),
    }
}

fn git() -> Git {
    Git { commit: "fb48622c0ffee5eedc0dedeadbeef00112233445".into(), branch: "main".into(), changed: true }
}

fn machine() -> Machine {
    Machine {
        processor: "AMD EPYC 7B13".into(),
        threads: 32,
        isa: "avx2".into(),
        memory_bytes: 128 << 30,
        peak_flops: Some(1.62e12),
    }
}
