//! `tokenizer_config.json`: which special tokens there are, whether bos and eos are added, chat templates.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Result;
use crate::files::{field_error, kind, optional, parse_object, read_if_present};

/// The file's name in a model folder.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";

/// The text of the special tokens, by role. Roles that a model does not use are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins every sequence.
    pub bos_token: Option<String>,
    /// Ends every sequence; generation stops at it.
    pub eos_token: Option<String>,
    /// Fills batches to one length.
    pub pad_token: Option<String>,
    /// Stands for what the vocabulary cannot express; unused by byte-level BPE.
    pub unk_token: Option<String>,
}

impl SpecialTokens {
    /// Field name and text of every token that is set.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("pad_token", &self.pad_token),
            ("unk_token", &self.unk_token),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name, token.as_deref()?)))
    }

    fn parse(object: &Map<String, Value>, file: &Path) -> Result<Self> {
        Ok(Self {
            bos_token: token_text(object, file, "bos_token")?,
            eos_token: token_text(object, file, "eos_token")?,
            pad_token: token_text(object, file, "pad_token")?,
            unk_token: token_text(object, file, "unk_token")?,
        })
    }

    fn fill_from(&mut self, other: Self) {
        for (mine, theirs) in [
            (&mut self.bos_token, other.bos_token),
            (&mut self.eos_token, other.eos_token),
            (&mut self.pad_token, other.pad_token),
            (&mut self.unk_token, other.unk_token),
        ] {
            if mine.is_none() {
                *mine = theirs;
            }
        }
    }
}

/// One of several chat templates in a `tokenizer_config.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    /// `default` is used for every conversation, `tool_use` (if present) for those with tools.
    pub name: String,
    /// Jinja source.
    pub template: String,
}

/// The fields of `tokenizer_config.json` that change what Fathom does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// The file it came from, for error messages.
    pub file: PathBuf,
    /// Whether encoding begins with bos; `None` leaves it to the tokenizer's post-processor.
    pub add_bos_token: Option<bool>,
    /// Whether encoding ends with eos; `None` leaves it to the tokenizer's post-processor.
    pub add_eos_token: Option<bool>,
    /// The special tokens' text.
    pub special_tokens: SpecialTokens,
    /// Chat templates: empty if there is none; a single one is named `default`.
    pub chat_templates: Vec<NamedTemplate>,
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json` and fills missing special tokens from `special_tokens_map.json`.
    /// Absent files are as empty ones.
    ///
    /// # Errors
    /// A file that is unreadable or malformed, or a field of the wrong type.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let file = dir.join(TOKENIZER_CONFIG);
        let mut config = match read_if_present(&file)? {
            Some(bytes) => Self::from_bytes(&bytes, &file)?,
            None => Self { file, ..Self::default() },
        };
        let map = dir.join(SPECIAL_TOKENS_MAP);
        if let Some(bytes) = read_if_present(&map)? {
            config.special_tokens.fill_from(SpecialTokens::parse(&parse_object(&bytes, &map)?, &map)?);
        }
        Ok(config)
    }

    /// Parses the content of a `tokenizer_config.json`; `file` is only named in errors.
    ///
    /// # Errors
    /// Content that is not a JSON object, or a field of the wrong type.
    pub fn from_bytes(bytes: &[u8], file: &Path) -> Result<Self> {
        let object = parse_object(bytes, file)?;
        let flag = |field| optional(&object, file, field, "true or false", Value::as_bool);
        Ok(Self {
            file: file.to_path_buf(),
            add_bos_token: flag("add_bos_token")?,
            add_eos_token: flag("add_eos_token")?,
            special_tokens: SpecialTokens::parse(&object, file)?,
            chat_templates: chat_templates(&object, file)?,
        })
    }
}

/// A token is a string, or an object with `content` (`AddedToken` as Python writes it), or null.
fn token_text(object: &Map<String, Value>, file: &Path, field: &str) -> Result<Option<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
        _ => None,
    };
    optional(object, file, field, "a token: a string, an object with `content`, or null", text)
}

fn chat_templates(object: &Map<String, Value>, file: &Path) -> Result<Vec<NamedTemplate>> {
    const FIELD: &str = "chat_template";
    let named = |entry: &Value| -> Option<NamedTemplate> {
        let text = |key| entry.get(key)?.as_str().map(str::to_owned);
        Some(NamedTemplate { name: text("name")?, template: text("template")? })
    };
    match object.get(FIELD) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(template)) => {
            Ok(vec![NamedTemplate { name: "default".into(), template: template.clone() }])
        }
        Some(Value::Array(list)) => list
            .iter()
            .enumerate()
            .map(|(i, entry)| {
                let expected = "an object with the strings `name` and `template`";
                named(entry).ok_or_else(|| field_error(file, &format!("{FIELD}[{i}]"), expected, kind(entry)))
            })
            .collect(),
        Some(other) => Err(field_error(file, FIELD, "a string or a list of {name, template}", kind(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<TokenizerConfig> {
        TokenizerConfig::from_bytes(json.as_bytes(), Path::new("tokenizer_config.json"))
    }

    #[test]
    fn tokens_are_strings_objects_or_null() {
        let rows = [
            (r#"{"bos_token": "<s>"}"#, Some("<s>")),
            (r#"{"bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": false}}"#, Some("<s>")),
            (r#"{"bos_token": {"content": "<s>"}}"#, Some("<s>")),
            (r#"{"bos_token": null}"#, None),
            (r#"{}"#, None),
        ];
        for (json, want) in rows {
            assert_eq!(parse(json).unwrap().special_tokens.bos_token.as_deref(), want, "{json}");
        }
    }

    #[test]
    fn wrong_types_name_file_and_field() {
        let rows = [
            (r#"{"bos_token": 3}"#, "`bos_token`"),
            (r#"{"eos_token": {"content": 3}}"#, "`eos_token`"),
            (r#"{"add_bos_token": "yes"}"#, "`add_bos_token`: expected true or false, got \"yes\""),
            (r#"{"chat_template": 1}"#, "`chat_template`"),
            (r#"{"chat_template": [{"name": "default"}]}"#, "`chat_template[0]`"),
            (r#"[]"#, "expected a JSON object, got a list"),
            (r#"{"bos_token""#, "not JSON"),
        ];
        for (json, want) in rows {
            let message = parse(json).unwrap_err().to_string();
            assert!(message.starts_with("tokenizer_config.json: "), "{message}");
            assert!(message.contains(want), "{json}: {message}");
        }
    }

    #[test]
    fn special_tokens_map_fills_the_gaps_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(TOKENIZER_CONFIG), r#"{"bos_token": "A"}"#).unwrap();
        std::fs::write(
            dir.path().join(SPECIAL_TOKENS_MAP),
            r#"{"bos_token": "B", "eos_token": {"content": "C"}}"#,
        )
        .unwrap();
        let tokens = TokenizerConfig::from_dir(dir.path()).unwrap().special_tokens;
        let all: Vec<_> = tokens.iter().collect();
        assert_eq!(all, [("bos_token", "A"), ("eos_token", "C")]);
    }
}
