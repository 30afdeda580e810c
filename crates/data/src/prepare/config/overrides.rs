//! `--set key=value`, and what serde says in our words.

use std::path::Path;

use toml::{Table, Value};

use crate::{Error, Result};

/// Sets the value at a dotted key, in which a number chooses from a list. The value is TOML; what is no TOML is a string.
pub(super) fn apply(table: &mut Table, given: &str) -> Result<()> {
    let fail = |reason: String| Error::Override { given: given.to_owned(), reason };
    let (key, text) = given.split_once('=').ok_or_else(|| fail("there is no \"=\"".to_owned()))?;
    let (text, parts) = (text.trim(), key.trim().split('.').collect::<Vec<_>>());
    if parts.iter().any(|part| part.is_empty()) {
        return Err(fail("the key is empty".to_owned()));
    }
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut t| t.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
    let (last, tables) = parts.split_last().expect("split yields one part at least");
    let mut at = table;
    let mut tables = tables.iter();
    while let Some(part) = tables.next() {
        let entry = at.entry((*part).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        let entry = match entry {
            Value::Array(list) => {
                let index =
                    tables.next().ok_or_else(|| fail(format!("{part:?} is a list: say {part}.0 …")))?;
                let length = list.len();
                let chosen = index.parse().ok().and_then(|index: usize| list.get_mut(index));
                chosen
                    .ok_or_else(|| fail(format!("{part:?} has {length} entries, of which none is {index}")))?
            }
            entry => entry,
        };
        at = entry.as_table_mut().ok_or_else(|| fail(format!("{part:?} is a value and no table")))?;
    }
    at.insert((*last).to_owned(), value);
    Ok(())
}

/// An error of serde with its path: which field, and what about it.
pub(super) fn explain(file: &Path, path: &str, message: &str) -> Error {
    let field = if path == "." { "the file" } else { path };
    let mend =
        if message.starts_with("unknown field") { "; is it misspelt, or in the wrong table?" } else { "" };
    Error::config(file, field, format!("{}{mend}", one_line(message)))
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
