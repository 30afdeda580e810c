//! A new layer, written, checked and trained: the program of docs/guides/new-layer.md.
//!
//! The layer is a gated short convolution: every channel is a learnt mixture of its last [`TAPS`] tokens, multiplied by
//! a gate. It is put between an embedding and a head and learns to say the token that stood three places before.

use fathom_kernels::Compute;
use fathom_tensor::{Context, Ids, Parameter, Precision, Tape, Var};
use fathom_train::config::{AdamW, Optimizer as OptimizerConfig};
use fathom_train::optimizer::{Optimizer, Step, gradient_norm};

/// Tokens that a channel mixes.
const TAPS: usize = 4;

/// `y = out(silu(gate(x)) · Σ_t taps[t] · x[−t])`.
struct GatedConvolution {
    /// `[TAPS, hidden]`
    taps: Parameter,
    /// `[hidden, hidden]`
    gate: Parameter,
    /// `[hidden, hidden]`
    out: Parameter,
}

impl GatedConvolution {
    fn new(context: &Context, hidden: usize, seed: u64) -> Self {
        Self {
            taps: normal(context, "taps", [TAPS, hidden], seed),
            gate: normal(context, "gate", [hidden, hidden], seed + 1),
            out: normal(context, "out", [hidden, hidden], seed + 2),
        }
    }

    /// `x [batch, seq, hidden]` gives the same shape. Plain operations: their gradients are known.
    fn forward(x: &Var, taps: &Var, gate: &Var, out: &Var) -> Var {
        let [batch, seq, hidden] = *x.shape() else { panic!("batch, seq and hidden") };
        let nothing = x.tape().constant(x.context().zeros([batch, TAPS - 1, hidden]));
        let padded = Var::concat(&[&nothing, x], 1);
        let mixed = (0..TAPS)
            .map(|tap| {
                // What stood `tap` places before.
                let start = TAPS - 1 - tap;
                padded.slice(1, start..start + seq).mul(&taps.slice(0, tap..tap + 1).reshape([hidden]))
            })
            .reduce(|sum, part| sum.add(&part))
            .expect("there are taps");
        x.linear(gate).silu().mul(&mixed).linear(out)
    }
}

/// Embedding, layer, head.
struct Model {
    embedding: Parameter,
    layer: GatedConvolution,
    head: Parameter,
}

impl Model {
    fn new(context: &Context, vocab: usize, hidden: usize) -> Self {
        Self {
            embedding: normal(context, "embedding", [vocab, hidden], 1),
            layer: GatedConvolution::new(context, hidden, 2),
            head: normal(context, "head", [vocab, hidden], 5),
        }
    }

    fn parameters(&self) -> Vec<Parameter> {
        let layer = &self.layer;
        [&self.embedding, &layer.taps, &layer.gate, &layer.out, &self.head].into_iter().cloned().collect()
    }

    /// The mean loss over the rows whose target is not the padding token 0.
    fn loss(&self, tape: &Tape, tokens: &Ids, targets: &Ids) -> Var {
        let [batch, seq] = *tokens.shape() else { panic!("batch and seq") };
        let embedding = tape.parameter(&self.embedding);
        let hidden = embedding.shape()[1];
        let x = embedding.gather_rows(tokens).reshape([batch, seq, hidden]);
        let layer = &self.layer;
        let [taps, gate, out] = [&layer.taps, &layer.gate, &layer.out].map(|weight| tape.parameter(weight));
        let y = x.add(&GatedConvolution::forward(&x, &taps, &gate, &out)).reshape([batch * seq, hidden]);
        let counted = targets.values().iter().filter(|&&target| target != 0).count().max(1);
        let coefficients: Vec<f32> =
            targets.values().iter().map(|&t| if t == 0 { 0.0 } else { 1.0 / counted as f32 }).collect();
        y.head_cross_entropy(&tape.parameter(&self.head), targets, &coefficients).loss
    }
}

fn normal(context: &Context, name: &str, shape: [usize; 2], seed: u64) -> Parameter {
    let std = (shape[1] as f32).powf(-0.5);
    let values: Vec<f32> = fathom_tensor::testing::random(shape[0] * shape[1], seed)
        .into_iter()
        .map(|value| value * std)
        .collect();
    Parameter::new(name, context.tensor(shape, &values))
}

/// Random tokens, and as targets those that stood three places before.
fn batch(step: u64, [batch, seq]: [usize; 2], vocab: u32) -> (Ids, Ids) {
    let random = fathom_tensor::testing::random(batch * seq, 1000 + step);
    let tokens: Vec<u32> =
        random.iter().map(|value| 1 + ((value + 1.0) / 2.0 * (vocab - 2) as f32) as u32).collect();
    let targets: Vec<u32> =
        (0..batch * seq).map(|at| if at % seq < 3 { 0 } else { tokens[at - 3] }).collect();
    (Ids::new([batch, seq], tokens), Ids::new([batch, seq], targets))
}

/// Trains for some steps; the loss of the first and of the last one.
fn train(steps: u64) -> [f32; 2] {
    let context = Context::new(Compute::new(0).expect("threads"), Precision::F32);
    let (vocab, hidden) = (40, 64);
    let model = Model::new(&context, vocab as usize, hidden);
    let parameters = model.parameters();
    let mut optimizer = Optimizer::new(&OptimizerConfig::Adamw(AdamW::default()), &parameters);
    let mut losses = Vec::new();
    for step in 0..steps {
        let (tokens, targets) = batch(step, [8, 32], vocab);
        parameters.iter().for_each(Parameter::clear_gradient);
        let tape = Tape::new(&context);
        let loss = model.loss(&tape, &tokens, &targets);
        tape.backward(&loss);
        losses.push(loss.value().item());
        drop((tape, loss));
        let norm = gradient_norm(context.compute(), &parameters, 1.0);
        let gradient_scale = norm.clipping(Some(1.0)) as f32;
        optimizer.step(&context, &parameters, Step { learning_rate: 1e-2, gradient_scale });
    }
    [losses[0], losses[losses.len() - 1]]
}

fn main() {
    let [first, last] = train(300);
    println!("loss {first:.3} before training, {last:.3} after 300 steps");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (hidden, shapes) = (3, [&[2, 5, 3][..], &[TAPS, 3], &[3, 3], &[3, 3]]);
        fathom_tensor::testing::check_gradients(&shapes, |vars| {
            assert_eq!(vars[0].shape()[2], hidden);
            GatedConvolution::forward(&vars[0], &vars[1], &vars[2], &vars[3])
        });
    }

    #[test]
    fn it_learns_what_stood_before() {
        let [first, last] = train(300);
        assert!(first > 3.0 && last < 0.3, "{first} to {last}");
    }
}
