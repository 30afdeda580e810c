//! What cannot be, said before anything is read or computed.

use std::path::Path;

use super::{Optimizer, RunConfig};
use crate::schedule::Schedule;
use crate::{Error, Result};

pub(super) const ONE_MODEL: &str = "give exactly one of config (a config.json), preset (a released model's name), fields (a table) and from (a \
     model's directory)";

/// Checks everything that the file alone decides.
pub(super) fn check(config: &RunConfig, file: &Path) -> Result<()> {
    let check = Check { file };
    check.that(config.model.ways() == 1, "model", || ONE_MODEL.to_owned())?;
    length(config, &check)?;
    batch(config, &check)?;
    optimizer(config, &check)?;
    schedule(&config.schedule, &check)?;
    extras(config, &check)
}

struct Check<'a> {
    file: &'a Path,
}

impl Check<'_> {
    fn that(&self, holds: bool, field: &str, problem: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { Err(Error::config(self.file, field, problem())) }
    }

    /// `value` is a number in `range`, which `words` describe.
    fn number(&self, field: &str, value: f64, holds: bool, words: &str) -> Result<()> {
        self.that(holds && value.is_finite(), field, || format!("{value} should be {words}"))
    }

    fn positive(&self, field: &str, value: f64) -> Result<()> {
        self.number(field, value, value > 0.0, "above 0")
    }

    fn not_negative(&self, field: &str, value: f64) -> Result<()> {
        self.number(field, value, value >= 0.0, "0 (off) or above")
    }

    fn share(&self, field: &str, value: f64) -> Result<()> {
        self.number(field, value, (0.0..=1.0).contains(&value), "a share of the run, from 0 to 1")
    }

    fn decay(&self, field: &str, value: f64) -> Result<()> {
        self.number(field, value, (0.0..1.0).contains(&value), "from 0 to below 1")
    }
}

fn length(config: &RunConfig, check: &Check<'_>) -> Result<()> {
    let given = [config.steps.is_some(), config.tokens.is_some(), config.epochs.is_some()];
    let one = given.into_iter().filter(|given| *given).count() == 1;
    check.that(one, "steps", || "give exactly one of steps, tokens and epochs".to_owned())?;
    check.that(config.steps != Some(0), "steps", || "0 should be 1 or more".to_owned())?;
    check.that(config.tokens != Some(0), "tokens", || "0 should be 1 or more".to_owned())?;
    if let Some(epochs) = config.epochs {
        check.positive("epochs", epochs)?;
    }
    check.positive("init_std", config.init_std)
}

fn batch(config: &RunConfig, check: &Check<'_>) -> Result<()> {
    let batch = &config.batch;
    check.that(batch.sequences > 0, "batch.sequences", || "0 should be 1 or more".to_owned())?;
    check.that(batch.seq_len > 1, "batch.seq_len", || format!("{} should be 2 or more", batch.seq_len))?;
    let micro = batch.micro_batch();
    check.that(micro > 0 && batch.sequences.is_multiple_of(micro), "batch.micro_batch", || {
        format!("{micro} should divide sequences = {}", batch.sequences)
    })?;
    let Some(ramp) = &batch.ramp else { return Ok(()) };
    let fits = ramp.from > 0 && ramp.from <= batch.sequences && ramp.from.is_multiple_of(micro);
    check.that(fits, "batch.ramp.from", || {
        format!(
            "{} should be a multiple of micro_batch = {micro} and at most sequences = {}",
            ramp.from, batch.sequences
        )
    })?;
    check.that(ramp.over_tokens > 0, "batch.ramp.over_tokens", || "0 should be 1 or more".to_owned())
}

fn optimizer(config: &RunConfig, check: &Check<'_>) -> Result<()> {
    let at = |field: &str| match config.optimizer {
        Optimizer::Adamw(_) => format!("optimizer.{field}"),
        Optimizer::Muon(_) => format!("optimizer.adamw.{field}"),
    };
    let adamw = config.optimizer.adamw();
    check.decay(&at("betas[0]"), adamw.betas[0])?;
    check.decay(&at("betas[1]"), adamw.betas[1])?;
    check.positive(&at("eps"), adamw.eps)?;
    check.not_negative(&at("weight_decay"), adamw.weight_decay)?;
    check.not_negative(&at("clip"), adamw.clip)?;
    if let Optimizer::Muon(muon) = &config.optimizer {
        check.decay("optimizer.momentum", muon.momentum)?;
        check.positive("optimizer.update_rms", muon.update_rms)?;
        check.not_negative("optimizer.weight_decay", muon.weight_decay)?;
        check.not_negative("optimizer.clip", muon.clip)?;
    }
    Ok(())
}

fn schedule(schedule: &Schedule, check: &Check<'_>) -> Result<()> {
    check.positive("schedule.lr", schedule.peak())?;
    match schedule {
        Schedule::Constant { .. } => Ok(()),
        Schedule::Step { at, factor, .. } => {
            check.positive("schedule.factor", *factor)?;
            at.iter().try_for_each(|&share| check.share("schedule.at", share))?;
            check.that(at.is_sorted(), "schedule.at", || "the shares should rise".to_owned())
        }
        Schedule::V3 { constant_until, cosine_until, tail_until, cosine_to, tail_to, .. } => {
            let shares = [*constant_until, *cosine_until, *tail_until];
            shares.into_iter().try_for_each(|share| check.share("schedule.constant_until", share))?;
            check.that(shares.is_sorted(), "schedule.cosine_until", || {
                "constant_until, cosine_until and tail_until should rise".to_owned()
            })?;
            check.not_negative("schedule.cosine_to", *cosine_to)?;
            check.not_negative("schedule.tail_to", *tail_to)
        }
        Schedule::Cosine { to, .. } => check.not_negative("schedule.to", *to),
        Schedule::Wsd { decay, to, .. } => {
            check.share("schedule.decay", *decay)?;
            check.not_negative("schedule.to", *to)
        }
    }
}

fn extras(config: &RunConfig, check: &Check<'_>) -> Result<()> {
    let balance = &config.balance;
    for (field, value) in [
        ("balance.bias_update", balance.bias_update),
        ("balance.sequence", balance.sequence),
        ("balance.expert", balance.expert),
        ("balance.device", balance.device),
        ("balance.communication", balance.communication),
        ("mtp.lambda", config.mtp.lambda),
        ("mtp.lambda_later", config.mtp.lambda_later),
        ("samples.temperature", f64::from(config.samples.temperature)),
        ("trouble.spike_margin", config.trouble.spike_margin),
    ] {
        check.not_negative(field, value)?;
    }
    check.share("balance.bias_update_until", balance.bias_update_until)?;
    check.share("mtp.switch", config.mtp.switch)?;
    check.that(!config.data.path.is_empty(), "data.path", || "the list is empty".to_owned())?;
    if let Some(validation) = config.data.validation {
        let words = "a share of the conversations, from 0 to below 1";
        check.number("data.validation", validation, (0.0..1.0).contains(&validation), words)?;
    }
    check.positive("trouble.spike_deviations", config.trouble.spike_deviations)?;
    if let Some(ema) = &config.ema {
        check.decay("ema.decay", ema.decay)?;
    }
    for (field, value) in [
        ("validation.every", config.validation.every),
        ("validation.batches", config.validation.batches),
        ("checkpoint.every", config.checkpoint.every),
        ("checkpoint.keep_last", config.checkpoint.keep_last as u64),
        ("samples.max_tokens", config.samples.max_tokens as u64),
    ] {
        check.that(value > 0, field, || "0 should be 1 or more".to_owned())?;
    }
    lora(config, check)
}

fn lora(config: &RunConfig, check: &Check<'_>) -> Result<()> {
    let Some(lora) = &config.lora else { return Ok(()) };
    check.that(lora.rank > 0, "lora.rank", || "0 should be 1 or more".to_owned())?;
    check.positive("lora.alpha", lora.alpha())?;
    check.that(!lora.target_modules.is_empty(), "lora.target_modules", || {
        "the list is empty: name modules such as q_proj, kv_b_proj, o_proj".to_owned()
    })?;
    check.that(config.model.from.is_some(), "lora", || {
        "adapters stand beside weights that are there: give model.from".to_owned()
    })
}
