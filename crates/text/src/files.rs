//! Reading a model folder's small files, with errors that name file and field.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The file's bytes, or `None` where there is no such file.
pub(crate) fn read_if_present(file: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { file: file.to_path_buf(), source }),
    }
}

/// Parses a file that must be one JSON object.
pub(crate) fn parse_object(bytes: &[u8], file: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(malformed(file, format!("expected a JSON object, got {}", kind(&other)))),
        Err(error) => Err(malformed(file, format!("not JSON: {error}"))),
    }
}

pub(crate) fn malformed(file: &Path, reason: impl Into<String>) -> Error {
    Error::Malformed { file: file.to_path_buf(), reason: reason.into() }
}

pub(crate) fn field_error(file: &Path, field: &str, expected: &str, got: impl Into<String>) -> Error {
    Error::Field {
        file: file.to_path_buf(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        got: got.into(),
    }
}

/// A short name of a JSON value for error messages: its text if that is short, else its type.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// A field that is absent or null is `None`; `read` returns `None` for a value it refuses.
pub(crate) fn optional<T>(
    object: &Map<String, Value>,
    file: &Path,
    field: &str,
    expected: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(field_error(file, field, expected, kind(value))),
        },
    }
}
