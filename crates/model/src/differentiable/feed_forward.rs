//! Dense layers and DeepSeekMoE (V2 §2.2, V3 §2.1.2).

use std::rc::Rc;

use fathom_checkpoint::names::{self, Ffn};
use fathom_kernels::router::Router;
use fathom_tensor::ops::experts::{Dispatch, ExpertWeights};
use fathom_tensor::{Parameter, Tape, Var};

use super::parameters::{Linear, Origin, Store};
use super::{Aside, Pass};
use crate::config::ModelType;
use crate::{Config, Result};

/// What follows attention in a layer.
#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(Mlp),
    Experts(Experts),
}

/// `down(silu(gate(x)) · up(x))`.
#[derive(Debug)]
pub(super) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// A gate, routed experts, and perhaps shared ones.
#[derive(Debug)]
pub(super) struct Experts {
    gate: Parameter,
    /// V3's `e_score_correction_bias [experts]`: no gradient, moved by [`Experts::update_bias`].
    bias: Option<Parameter>,
    /// Stacked: `[experts, width, hidden]` twice, `[experts, hidden, width]`.
    stacked: [Parameter; 3],
    shared: Option<Mlp>,
    router: Router,
}

impl FeedForward {
    pub(super) fn build(
        config: &Config,
        store: &mut Store,
        origin: &Origin<'_>,
        layer: usize,
    ) -> Result<Self> {
        let names = names::Layer(layer);
        if !config.is_moe(layer) {
            return Ok(Self::Dense(Mlp::build(store, origin, |part| names.mlp(part), config.mlp_bias)?));
        }
        let gate = store.parameter(origin, &names.router())?;
        let bias = match config.model_type {
            ModelType::DeepseekV3 => Some(store.buffer(origin, &names.e_score_correction_bias())?),
            ModelType::DeepseekV2 | ModelType::Deepseek => None,
        };
        let mut stack = |part| {
            let members: Vec<String> =
                (0..config.n_routed_experts).map(|expert| names.expert(expert, part)).collect();
            store.stacked(origin, &names.router().replace("gate.weight", &stack_name(part)), members)
        };
        let stacked = [stack(Ffn::GateProj)?, stack(Ffn::UpProj)?, stack(Ffn::DownProj)?];
        let shared = match config.n_shared_experts {
            0 => None,
            _ => Some(Mlp::build(store, origin, |part| names.shared_experts(part), config.mlp_bias)?),
        };
        Ok(Self::Experts(Experts { gate, bias, stacked, shared, router: config.router() }))
    }

    pub(super) fn experts(&self) -> Option<&Experts> {
        match self {
            Self::Dense(_) => None,
            Self::Experts(experts) => Some(experts),
        }
    }

    /// `x [tokens, hidden]`, normed, gives `[tokens, hidden]`.
    pub(super) fn forward(&self, tape: &Tape, pass: &Pass, x: &Var) -> (Var, Aside) {
        match self {
            Self::Dense(mlp) => (mlp.forward(tape, x), Aside::default()),
            Self::Experts(experts) => experts.forward(tape, pass, x),
        }
    }
}

/// A layer's stack of experts: the checkpoint's name without the expert's number.
fn stack_name(part: Ffn) -> String {
    let module = match part {
        Ffn::GateProj => "gate_proj",
        Ffn::UpProj => "up_proj",
        Ffn::DownProj => "down_proj",
    };
    format!("experts.{module}.weight")
}

impl Mlp {
    fn build(
        store: &mut Store,
        origin: &Origin<'_>,
        name: impl Fn(Ffn) -> String,
        bias: bool,
    ) -> Result<Self> {
        let mut linear = |part| store.linear(origin, &name(part), bias);
        Ok(Self {
            gate_proj: linear(Ffn::GateProj)?,
            up_proj: linear(Ffn::UpProj)?,
            down_proj: linear(Ffn::DownProj)?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Var {
        let hidden = self.gate_proj.forward(tape, x).swiglu(&self.up_proj.forward(tape, x));
        self.down_proj.forward(tape, &hidden)
    }
}

impl Experts {
    fn forward(&self, tape: &Tape, pass: &Pass, x: &Var) -> (Var, Aside) {
        // In f32 whatever the precision: a choice must not hang on rounding.
        let logits = x.linear_f32(&tape.parameter(&self.gate));
        let bias = self.bias.as_ref().map(Parameter::value);
        let routed = logits.route(&self.router, bias.as_ref().map_or(&[], |bias| bias.values()));
        let dispatch = Rc::new(Dispatch::new(&routed.ids, self.router.experts));
        let [gate_proj, up_proj, down_proj] = self.stacked.each_ref().map(|stack| tape.parameter(stack));
        let weights = ExpertWeights { gate_proj: &gate_proj, up_proj: &up_proj, down_proj: &down_proj };
        let mut out = x.experts(&dispatch, &routed.weights, weights);
        if let Some(shared) = &self.shared {
            out = out.add(&shared.forward(tape, x));
        }
        let balance = pass.balance.term(&self.router, &routed, pass.shape.seq);
        (out, Aside { balance, expert_tokens: Some(dispatch.counts()) })
    }

    /// See [`super::DifferentiableModel::update_biases`].
    pub(super) fn update_bias(&self, tokens: &[u32], speed: f32) {
        let Some(bias) = &self.bias else { return };
        let mean = tokens.iter().map(|&count| f64::from(count)).sum::<f64>() / tokens.len() as f64;
        bias.update(|bias, _| {
            for (bias, &count) in bias.iter_mut().zip(tokens) {
                match f64::from(count).total_cmp(&mean) {
                    std::cmp::Ordering::Less => *bias += speed,
                    std::cmp::Ordering::Greater => *bias -= speed,
                    std::cmp::Ordering::Equal => {}
                }
            }
        });
    }
}
