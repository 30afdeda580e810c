//! The keys and values of a GGUF file, with typed access.

use super::value::Value;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A file's metadata: keys once each, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    file: PathBuf,
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// Of keys that are known to differ; `file` is named in errors.
    pub fn new(file: &Path, entries: Vec<(String, Value)>) -> Self {
        Self { file: file.to_owned(), entries }
    }

    /// The file it stands in.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All keys and values, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key. Looks through the keys one by one: files have some fifty of them.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|entry| entry.0 == key).map(|entry| &entry.1)
    }

    /// An integer of any width that is not negative; `None` if there is no such key.
    ///
    /// # Errors
    /// [`Error::GgufKey`] if the value is anything else; so the other accessors.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer of at least 0", Value::as_unsigned)
    }

    /// A number.
    ///
    /// # Errors
    /// As [`Metadata::unsigned`].
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_number)
    }

    /// A flag.
    ///
    /// # Errors
    /// As [`Metadata::unsigned`].
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A text.
    ///
    /// # Errors
    /// As [`Metadata::unsigned`].
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a text", Value::as_text)
    }

    /// An array of texts.
    ///
    /// # Errors
    /// As [`Metadata::unsigned`].
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of texts", Value::as_texts)
    }

    /// An array of integers.
    ///
    /// # Errors
    /// As [`Metadata::unsigned`].
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of integers", Value::as_integers)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.wrong(key, expected)),
        }
    }

    /// The error for a key whose value is not `expected`, or that is missing.
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::GgufKey {
            file: self.file.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            got: self.get(key).map_or_else(|| "no such key".to_owned(), Value::brief),
        }
    }
}
