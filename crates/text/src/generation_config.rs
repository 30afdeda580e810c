//! `generation_config.json`: what the model's authors recommend for sampling.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::files::{optional, parse_object, read_if_present};

/// Recommended sampling. `None` means the file does not say, and the caller's own default holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// The id that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// The ids at which generation stops; the file may hold one id or a list. Empty if it does not say.
    pub eos_token_id: Vec<u32>,
    /// Whether to sample (`true`) or to take the likeliest token.
    pub do_sample: Option<bool>,
    /// Divides the logits; at least 0, and 0 means greedy.
    pub temperature: Option<f32>,
    /// How many of the likeliest tokens stay; 0 means all.
    pub top_k: Option<u32>,
    /// The probability mass that stays, in 0..=1.
    pub top_p: Option<f32>,
    /// The least probability relative to the likeliest token, in 0..=1.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens already seen; above 0, and 1 means none.
    pub repetition_penalty: Option<f32>,
    /// The most tokens to generate.
    pub max_new_tokens: Option<u32>,
}

impl GenerationConfig {
    /// The file's name in a model folder.
    pub const FILE: &str = "generation_config.json";

    /// Reads the folder's file; an absent file says nothing about anything.
    ///
    /// # Errors
    /// An unreadable or malformed file, a field of the wrong type or out of range.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let file = dir.join(Self::FILE);
        match read_if_present(&file)? {
            Some(bytes) => Self::from_bytes(&bytes, &file),
            None => Ok(Self::default()),
        }
    }

    /// Parses the file's content; `file` is only named in errors. Unknown fields are ignored.
    ///
    /// # Errors
    /// Content that is not a JSON object, a field of the wrong type or out of range.
    pub fn from_bytes(bytes: &[u8], file: &Path) -> Result<Self> {
        let fields = Fields { object: &parse_object(bytes, file)?, file };
        let probability = "a number from 0 to 1";
        let count = "a whole number above 0";
        Ok(Self {
            bos_token_id: fields.int("bos_token_id", "a token id", |_| true)?,
            eos_token_id: fields.ids("eos_token_id")?,
            do_sample: optional(fields.object, file, "do_sample", "true or false", Value::as_bool)?,
            temperature: fields.float("temperature", "a number of at least 0", |t| t >= 0.0)?,
            top_k: fields.int("top_k", "a whole number of at least 0", |_| true)?,
            top_p: fields.float("top_p", probability, |p| (0.0..=1.0).contains(&p))?,
            min_p: fields.float("min_p", probability, |p| (0.0..=1.0).contains(&p))?,
            repetition_penalty: fields.float("repetition_penalty", "a number above 0", |p| p > 0.0)?,
            max_new_tokens: fields.int("max_new_tokens", count, |n| n > 0)?,
        })
    }
}

struct Fields<'a> {
    object: &'a Map<String, Value>,
    file: &'a Path,
}

impl Fields<'_> {
    fn int(&self, field: &str, expected: &str, in_range: fn(u32) -> bool) -> Result<Option<u32>> {
        optional(self.object, self.file, field, expected, |value| id(value).filter(|&n| in_range(n)))
    }

    fn float(&self, field: &str, expected: &str, in_range: fn(f32) -> bool) -> Result<Option<f32>> {
        let read = |value: &Value| {
            let number = value.as_f64()? as f32;
            (number.is_finite() && in_range(number)).then_some(number)
        };
        optional(self.object, self.file, field, expected, read)
    }

    fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let read = |value: &Value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            one => Some(vec![id(one)?]),
        };
        Ok(optional(self.object, self.file, field, "a token id or a list of token ids", read)?
            .unwrap_or_default())
    }
}

fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<GenerationConfig> {
        GenerationConfig::from_bytes(json.as_bytes(), Path::new("generation_config.json"))
    }

    const RELEASED: &str = r#"{"_from_model_config": true, "bos_token_id": 0, "eos_token_id": 1,
        "do_sample": true, "temperature": 0.6, "top_p": 0.95, "transformers_version": "4.39.3"}"#;

    #[test]
    fn reads_what_deepseek_v3_ships() {
        let want = GenerationConfig {
            bos_token_id: Some(0),
            eos_token_id: vec![1],
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.95),
            ..GenerationConfig::default()
        };
        assert_eq!(parse(RELEASED).unwrap(), want);
        assert_eq!(parse("{}").unwrap(), GenerationConfig::default());
        assert_eq!(parse(r#"{"eos_token_id": [1, 7], "top_k": null}"#).unwrap().eos_token_id, [1, 7]);
        assert_eq!(parse(r#"{"temperature": 1, "top_k": 0}"#).unwrap().temperature, Some(1.0));
    }

    #[test]
    fn an_absent_file_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(GenerationConfig::from_dir(dir.path()).unwrap(), GenerationConfig::default());
    }

    #[test]
    fn wrong_values_name_file_and_field() {
        let rows = [
            (r#"{"temperature": "hot"}"#, "`temperature`: expected a number of at least 0, got \"hot\""),
            (r#"{"temperature": -0.1}"#, "`temperature`"),
            (r#"{"temperature": 1e300}"#, "`temperature`"),
            (r#"{"top_p": 1.5}"#, "`top_p`: expected a number from 0 to 1, got 1.5"),
            (r#"{"min_p": -1}"#, "`min_p`"),
            (r#"{"top_k": 2.5}"#, "`top_k`"),
            (r#"{"top_k": -1}"#, "`top_k`"),
            (r#"{"repetition_penalty": 0}"#, "`repetition_penalty`"),
            (r#"{"max_new_tokens": 0}"#, "`max_new_tokens`"),
            (r#"{"eos_token_id": "</s>"}"#, "`eos_token_id`"),
            (r#"{"eos_token_id": [1, -1]}"#, "`eos_token_id`: expected a token id or a list"),
            (r#"{"bos_token_id": 4294967296}"#, "`bos_token_id`"),
            (r#"{"do_sample": 1}"#, "`do_sample`"),
            ("3", "expected a JSON object, got 3"),
            ("", "not JSON"),
        ];
        for (json, want) in rows {
            let message = parse(json).unwrap_err().to_string();
            assert!(message.starts_with("generation_config.json: "), "{message}");
            assert!(message.contains(want), "{json}: {message}");
        }
    }

    proptest! {
        #[test]
        fn mutated_bytes_never_panic(at in 0..RELEASED.len(), byte: u8, cut in 0..RELEASED.len()) {
            let mut bytes = RELEASED.as_bytes().to_vec();
            bytes[at] = byte;
            let file = Path::new("generation_config.json");
            let _ = GenerationConfig::from_bytes(&bytes, file);
            let _ = GenerationConfig::from_bytes(&bytes[..cut], file);
        }
    }
}
