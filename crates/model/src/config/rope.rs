//! Rotary frequencies, plain and YaRN (arXiv 2309.00071; V2 §3.1.4, V3 §4.3).

use super::fields::Fields;
use crate::{Error, Result};

/// How rotary frequencies are stretched for contexts longer than those trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// YaRN.
    Yarn(Yarn),
}

/// The fields of a `yarn` rope scaling.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are config.json's; docs/glossary.md explains them")]
pub struct Yarn {
    pub factor: f64,
    pub original_max_position_embeddings: usize,
    pub beta_fast: f64,
    pub beta_slow: f64,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
    /// Overrides what the two mscale fields make of cosines and sines.
    pub attention_factor: Option<f64>,
    /// Round the ends of the ramp to whole dimensions.
    pub truncate: bool,
}

/// Fewer turns than any model means; keeps the logarithm of their inverse finite.
const TURNS_MIN: f64 = 1e-6;

/// YaRN's attention temperature: `0.1 · m · ln(s) + 1` for `s > 1`.
fn mscale(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

impl RopeScaling {
    /// What cosines and sines are multiplied by: the ratio of both mscales if both are given,
    /// else the plain temperature (transformers' YaRN).
    pub fn rotation_factor(&self) -> f64 {
        let RopeScaling::Yarn(yarn) = self else { return 1.0 };
        yarn.attention_factor.unwrap_or_else(|| match (yarn.mscale, yarn.mscale_all_dim) {
            (Some(m), Some(all)) => mscale(yarn.factor, m) / mscale(yarn.factor, all),
            _ => mscale(yarn.factor, 1.0),
        })
    }

    /// What attention scores are multiplied by beyond `qk_head_dim^-½`.
    pub fn score_factor(&self) -> f64 {
        match self {
            RopeScaling::Yarn(Yarn { factor, mscale_all_dim: Some(all), .. }) => {
                mscale(*factor, *all).powi(2)
            }
            _ => 1.0,
        }
    }

    /// Radians per position of each of `dim / 2` pairs: `theta^(-2i/dim)`, with YaRN blended
    /// towards `1/factor` of itself along a ramp between the dimensions that turn `beta_fast` and
    /// `beta_slow` times within the original context.
    pub fn frequencies(&self, theta: f64, dim: usize) -> Vec<f64> {
        let half = dim / 2;
        let plain = (0..half).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
        let RopeScaling::Yarn(yarn) = self else { return plain.collect() };
        let turns_at = |turns: f64| {
            let original = yarn.original_max_position_embeddings as f64;
            dim as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (turns_at(yarn.beta_fast), turns_at(yarn.beta_slow));
        if yarn.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        plain
            .enumerate()
            .map(|(i, frequency)| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / yarn.factor * ramp + frequency * (1.0 - ramp)
            })
            .collect()
    }
}

/// `rope_theta` and the scaling, from either style of `config.json`.
pub(super) fn parse(fields: &Fields<'_>) -> Result<(f64, RopeScaling)> {
    let parameters = fields.object("rope_parameters")?;
    let scaling = match &parameters {
        Some(_) => parameters,
        None => fields.object("rope_scaling")?,
    };
    let theta = match &scaling {
        Some(scaling) if scaling.get("rope_theta").is_some() => scaling.optional_number("rope_theta", 1.0)?,
        _ => fields.optional_number("rope_theta", 1.0)?,
    };
    let theta = theta.unwrap_or(10_000.0);
    let Some(scaling) = scaling else { return Ok((theta, RopeScaling::Default)) };
    let kinds = [("yarn", true), ("default", false)];
    let field = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
    match scaling.word(field, &kinds)? {
        Some(true) => {}
        None if scaling.get("factor").is_some() => {
            return Err(scaling.missing("rope_scaling.type", "yarn or default, since there is a factor"));
        }
        Some(false) | None => return Ok((theta, RopeScaling::Default)),
    }
    let context = fields.context("max_position_embeddings")?;
    let original = scaling.optional_context("original_max_position_embeddings")?.unwrap_or(context);
    // A multiplier of 0 means, as in the references, that the field is not there.
    let multiplier = |field| Ok::<_, Error>(scaling.optional_number(field, -1.0)?.filter(|m| *m != 0.0));
    let yarn = Yarn {
        factor: scaling.optional_number("factor", 0.0)?.unwrap_or(context as f64 / original as f64),
        original_max_position_embeddings: original,
        beta_fast: scaling.optional_number("beta_fast", TURNS_MIN)?.unwrap_or(32.0),
        beta_slow: scaling.optional_number("beta_slow", TURNS_MIN)?.unwrap_or(1.0),
        mscale: multiplier("mscale")?,
        mscale_all_dim: multiplier("mscale_all_dim")?,
        attention_factor: scaling.optional_number("attention_factor", 0.0)?,
        truncate: scaling.flag("truncate", true)?,
    };
    Ok((theta, RopeScaling::Yarn(yarn)))
}
