//! Typed access to a JSON object, with errors that name file and field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The object being read.
pub(super) struct Fields<'a> {
    pub(super) file: &'a Path,
    pub(super) object: &'a Map<String, Value>,
}

/// Larger than any dimension there is; keeps sums of products of three dimensions from overflowing.
const DIMENSION_MAX: u64 = 1 << 20;

/// Larger than any context there is.
const CONTEXT_MAX: u64 = 1 << 30;

impl<'a> Fields<'a> {
    /// The value, `None` if absent or null.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn bad(&self, field: &'static str, expected: &str, got: &Value) -> Error {
        let mut got = got.to_string();
        if got.len() > 80 {
            got = format!("{}…", got.chars().take(80).collect::<String>());
        }
        Error::BadField { file: self.file.to_owned(), field, expected: expected.to_owned(), got }
    }

    pub(super) fn missing(&self, field: &'static str, expected: &'static str) -> Error {
        Error::MissingField { file: self.file.to_owned(), field, expected }
    }

    /// A dimension: at least 1.
    pub(super) fn dimension(&self, field: &'static str) -> Result<usize> {
        let expected = "a positive integer";
        self.optional_dimension(field)?.ok_or_else(|| self.missing(field, expected))
    }

    pub(super) fn optional_dimension(&self, field: &'static str) -> Result<Option<usize>> {
        self.integer(field, 1, DIMENSION_MAX)
    }

    /// A count: 0 is allowed.
    pub(super) fn optional_count(&self, field: &'static str) -> Result<Option<usize>> {
        self.integer(field, 0, DIMENSION_MAX)
    }

    /// A number of positions: at least 1.
    pub(super) fn optional_context(&self, field: &'static str) -> Result<Option<usize>> {
        self.integer(field, 1, CONTEXT_MAX)
    }

    /// A number of positions that must be there.
    pub(super) fn context(&self, field: &'static str) -> Result<usize> {
        self.optional_context(field)?.ok_or_else(|| self.missing(field, "a positive integer"))
    }

    fn integer(&self, field: &'static str, min: u64, max: u64) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number as usize)),
            _ => Err(self.bad(field, &format!("an integer from {min} to {max}"), value)),
        }
    }

    /// A finite number above `above`.
    pub(super) fn optional_number(&self, field: &'static str, above: f64) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > above && number < f64::from(f32::MAX) => {
                Ok(Some(number))
            }
            _ => Err(self.bad(field, &format!("a finite number above {above}"), value)),
        }
    }

    pub(super) fn flag(&self, field: &'static str, default: bool) -> Result<bool> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.bad(field, "true or false", value))
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, field: &'static str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        let list = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| self.bad(field, &list(), value))
    }

    /// Token ids: a number, a list of numbers, or nothing.
    pub(super) fn token_ids(&self, field: &'static str) -> Result<Vec<u32>> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.bad(field, "a token id or a list of them", value))
    }

    /// A nested object.
    pub(super) fn object(&self, field: &'static str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.bad(field, "an object", value))?;
        Ok(Some(Fields { file: self.file, object }))
    }
}
