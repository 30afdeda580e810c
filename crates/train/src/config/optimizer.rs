//! `[optimizer]`.

use serde::{Deserialize, Serialize};

/// How weights move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Optimizer {
    /// Every parameter by AdamW.
    Adamw(AdamW),
    /// Matrices by Muon, the others (embedding, head, norms, biases) by AdamW.
    Muon(Muon),
}

/// AdamW (Loshchilov & Hutter, arXiv 1711.05101).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// What the two moments keep of themselves per step (V2, V3: 0.9, 0.95).
    pub betas: [f64; 2],
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Decoupled: weights shrink by `lr · weight_decay` per step.
    pub weight_decay: f64,
    /// Parameters that do not shrink.
    pub without_decay: Vec<WithoutDecay>,
    /// How moments are held (V3 §3.3.3: bf16).
    pub moments: Moments,
    /// The norm that all gradients together are scaled down to (V2, V3: 1.0); 0 switches it off.
    pub clip: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            without_decay: vec![WithoutDecay::Norms, WithoutDecay::Biases],
            moments: Moments::F32,
            clip: 1.0,
        }
    }
}

/// Muon as in the V4 report §2.4, with AdamW for what is no hidden matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Muon {
    /// What the momentum keeps of itself per step.
    pub momentum: f64,
    /// Whether the step looks ahead by its own gradient once more.
    pub nesterov: bool,
    /// The root mean square that an update is scaled to, so that AdamW's learning rates fit.
    pub update_rms: f64,
    /// Decoupled, for matrices.
    pub weight_decay: f64,
    /// As AdamW's, for all gradients together.
    pub clip: f64,
    /// How the momentum is held.
    pub moments: Moments,
    /// For the others.
    pub adamw: AdamW,
}

impl Default for Muon {
    fn default() -> Self {
        let adamw = AdamW { eps: 1e-20, ..AdamW::default() };
        Self {
            momentum: 0.95,
            nesterov: true,
            update_rms: 0.18,
            weight_decay: 0.1,
            clip: 1.0,
            moments: Moments::F32,
            adamw,
        }
    }
}

/// Kinds of parameters that may be spared from weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutDecay {
    /// RMSNorm weights.
    Norms,
    /// Biases.
    Biases,
    /// Token embedding and output head.
    Embeddings,
}

/// How an optimizer holds what it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moments {
    /// Exactly.
    F32,
    /// Rounded to bf16, in half the memory.
    Bf16,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::Adamw(AdamW::default())
    }
}

impl Optimizer {
    /// The norm that gradients are scaled down to, if there is one.
    pub fn clip(&self) -> Option<f64> {
        let clip = match self {
            Self::Adamw(adamw) => adamw.clip,
            Self::Muon(muon) => muon.clip,
        };
        (clip > 0.0).then_some(clip)
    }

    /// AdamW's part.
    pub fn adamw(&self) -> &AdamW {
        match self {
            Self::Adamw(adamw) => adamw,
            Self::Muon(muon) => &muon.adamw,
        }
    }
}
