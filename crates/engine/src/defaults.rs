//! What a model's own files say about generating with it.

use fathom_model::Config;
use fathom_text::{GenerationConfig, Tokenizer};

use crate::params::SamplingParams;

impl SamplingParams {
    /// The recommendation of a model's authors. `do_sample: false` means greedy; what the file does not say is
    /// [`SamplingParams::default`].
    pub fn recommended(file: &GenerationConfig) -> Self {
        let default = SamplingParams::default();
        SamplingParams {
            temperature: match file.do_sample {
                Some(false) => 0.0,
                _ => file.temperature.unwrap_or(default.temperature),
            },
            top_k: file.top_k.filter(|&top_k| top_k > 0).map(|top_k| top_k as usize),
            // Transformers reads 0 as "only the likeliest".
            top_p: file.top_p.map_or(default.top_p, |top_p| top_p.max(f32::MIN_POSITIVE)),
            min_p: file.min_p.unwrap_or(default.min_p),
            repetition_penalty: file.repetition_penalty.unwrap_or(default.repetition_penalty),
            max_tokens: file.max_new_tokens.map(|tokens| tokens as usize),
            ..default
        }
    }
}

/// Every token at which the answers of a model end: those of `generation_config.json`, of `config.json`, and
/// the tokenizer's. Sorted, each once; ids outside the vocabulary are left out.
pub fn eos_token_ids(config: &Config, file: &GenerationConfig, tokenizer: Option<&Tokenizer>) -> Vec<u32> {
    let of_tokenizer = tokenizer.and_then(Tokenizer::eos_token_id);
    let all = file.eos_token_id.iter().chain(&config.eos_token_id).copied().chain(of_tokenizer);
    let mut ids: Vec<u32> = all.filter(|&id| (id as usize) < config.vocab_size).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: GenerationConfig, expected: SamplingParams) {
        let got = SamplingParams::recommended(&file);
        assert_eq!(got, expected);
        got.validate(100).unwrap();
    }

    #[test]
    fn recommendations() {
        let none = GenerationConfig::default;
        let default = SamplingParams::default;
        check(none(), default());
        check(
            GenerationConfig { do_sample: Some(true), temperature: Some(0.6), top_p: Some(0.95), ..none() },
            SamplingParams { temperature: 0.6, top_p: 0.95, ..default() },
        );
        check(
            GenerationConfig { do_sample: Some(false), temperature: Some(0.6), ..none() },
            SamplingParams::greedy(),
        );
        check(
            GenerationConfig { top_k: Some(0), max_new_tokens: Some(7), ..none() },
            SamplingParams { max_tokens: Some(7), ..default() },
        );
        check(
            GenerationConfig { top_k: Some(5), min_p: Some(0.1), repetition_penalty: Some(1.5), ..none() },
            SamplingParams { top_k: Some(5), min_p: 0.1, repetition_penalty: 1.5, ..default() },
        );
        check(
            GenerationConfig { top_p: Some(0.0), ..none() },
            SamplingParams { top_p: f32::MIN_POSITIVE, ..default() },
        );
    }

    #[test]
    fn end_tokens_are_the_union() {
        let mut config = fathom_model::presets::find("v2-lite").unwrap();
        config.eos_token_id = vec![7, 3];
        let mut file = GenerationConfig { eos_token_id: vec![9, 7, u32::MAX], ..GenerationConfig::default() };
        assert_eq!(eos_token_ids(&config, &file, None), [3, 7, 9]);
        file.eos_token_id.clear();
        config.eos_token_id.clear();
        assert!(eos_token_ids(&config, &file, None).is_empty());
    }
}
