//! How to choose tokens and when to stop, on the command line.

use std::path::Path;

use anyhow::{Result, anyhow};
use fathom_engine::{Error, SamplingParams};
use fathom_text::GenerationConfig;

/// Flags that were not given leave the recommendation of the model's generation_config.json, and where that
/// is silent temperature 1 with nothing cut off.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Sampling (default: the model's generation_config.json)")]
pub(crate) struct SamplingArgs {
    /// Flattens (above 1) or sharpens (below 1) the distribution; 0 takes the likeliest token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,

    /// Take the likeliest token at every step: --temperature 0
    #[arg(long, conflicts_with = "temperature")]
    greedy: bool,

    /// Keep only the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Keep the likeliest tokens that together have probability P; 1 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,

    /// Keep tokens at least P times as likely as the likeliest; 0 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// Make tokens of prompt and answer less likely; 1 is off
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,

    /// Subtract F from a token's logit for every time it stands in the answer
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,

    /// Subtract P from a token's logit if it stands in the answer
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,

    /// Add V to the logit of token ID; may be repeated
    #[arg(long, value_name = "ID=V", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,

    /// Same seed, same text; drawn afresh by default, and reported
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Longest answer in tokens [default: until the context is full]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,

    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,

    /// End the answer at this token too; may be repeated
    #[arg(long, value_name = "ID")]
    stop_token_id: Vec<u32>,

    /// The most tokens that prompt and answer can have together [default: the model's limit]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
}

fn bias(text: &str) -> std::result::Result<(u32, f32), String> {
    let (id, value) = text.split_once('=').ok_or("expected ID=V, such as 17=-2.5")?;
    let id = id.trim().parse().map_err(|_| format!("expected a token id before =, got {id:?}"))?;
    let value = value.trim().parse().map_err(|_| format!("expected a number after =, got {value:?}"))?;
    Ok((id, value))
}

impl SamplingArgs {
    /// The flags over the model's recommendation.
    pub(crate) fn params(&self, recommendation: &GenerationConfig) -> SamplingParams {
        let base = SamplingParams::recommended(recommendation);
        let temperature = if self.greedy { Some(0.0) } else { self.temperature };
        SamplingParams {
            temperature: temperature.unwrap_or(base.temperature),
            top_k: self.top_k.map_or(base.top_k, |top_k| Some(top_k).filter(|&top_k| top_k > 0)),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
            max_tokens: self.max_tokens.or(base.max_tokens),
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_id.clone(),
            ignore_eos: false,
            logprobs: None,
        }
    }

    /// Checks parameters made from [`SamplingArgs::params`]. What the model's folder `dir` says wrong is said of
    /// its file: whoever gave no flag would look for a mistake of their own.
    pub(crate) fn check(&self, params: &SamplingParams, dir: &Path, vocab_size: usize) -> Result<()> {
        params.validate(vocab_size).map_err(|error| match &error {
            Error::InvalidParam { field, value, allowed } if self.leaves(field) => anyhow!(
                "{}: `{field}` is {value}; allowed: {allowed}; correct it, or give --{}",
                dir.join(GenerationConfig::FILE).display(),
                field.replace('_', "-")
            ),
            _ => error.into(),
        })
    }

    /// Whether `field` is for `generation_config.json` to say: no flag did. (A default is never wrong.)
    fn leaves(&self, field: &str) -> bool {
        match field {
            "temperature" => self.temperature.is_none() && !self.greedy,
            "top_k" => self.top_k.is_none(),
            "top_p" => self.top_p.is_none(),
            "min_p" => self.min_p.is_none(),
            "repetition_penalty" => self.repetition_penalty.is_none(),
            "max_tokens" => self.max_tokens.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn params(args: &[&str], recommendation: &GenerationConfig) -> SamplingParams {
        let command = Command::try_parse_from([&["x"], args].concat()).unwrap();
        command.sampling.params(recommendation)
    }

    #[test]
    fn flags_win_over_the_recommendation() {
        let file = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(40),
            ..GenerationConfig::default()
        };
        let base = SamplingParams { temperature: 0.6, top_p: 0.95, top_k: Some(40), ..Default::default() };
        assert_eq!(params(&[], &file), base);
        let with = |change: fn(&mut SamplingParams)| {
            let mut params = base.clone();
            change(&mut params);
            params
        };
        let rows: [(&[&str], SamplingParams); 6] = [
            (&["--greedy"], with(|p| p.temperature = 0.0)),
            (&["--temperature", "0.1", "--top-k", "0"], with(|p| (p.temperature, p.top_k) = (0.1, None))),
            (&["--presence-penalty", "-1"], with(|p| p.presence_penalty = -1.0)),
            (
                &["--logit-bias", "3=-1.5", "--logit-bias", "4=2"],
                with(|p| p.logit_bias = vec![(3, -1.5), (4, 2.0)]),
            ),
            (&["--stop", "-", "--stop", "b"], with(|p| p.stop = vec!["-".into(), "b".into()])),
            (&["--seed", "18446744073709551615"], with(|p| p.seed = Some(u64::MAX))),
        ];
        for (args, expected) in rows {
            assert_eq!(params(args, &file), expected, "{args:?}");
        }
    }

    #[test]
    fn flags_that_are_refused() {
        for args in
            [["--logit-bias", "3"], ["--logit-bias", "x=1"], ["--logit-bias", "1=x"], ["--top-k", "-1"]]
        {
            assert!(Command::try_parse_from([&["x"], &args[..]].concat()).is_err(), "{args:?}");
        }
    }
}
