//! Text and token ids from arguments, files and standard input.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The file name that means standard input.
const STDIN: &str = "-";

/// The whole text of a file, or of standard input for `-`.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let (bytes, name) = if path.as_os_str() == STDIN {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        (bytes, "standard input".to_owned())
    } else {
        let name = path.display().to_string();
        (std::fs::read(path).with_context(|| format!("cannot read {name}"))?, name)
    };
    utf8(bytes, &name)
}

/// Of a file, else of standard input if something is piped in, else nothing.
pub(crate) fn read_text_or_pipe(file: Option<&Path>) -> Result<Option<String>> {
    match file {
        Some(file) => read_text(file).map(Some),
        None if std::io::stdin().is_terminal() => Ok(None),
        None => read_text(Path::new(STDIN)).map(Some),
    }
}

fn utf8(bytes: Vec<u8>, name: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[at];
        anyhow::anyhow!(
            "{name}: expected UTF-8 text, got byte 0x{byte:02x} at offset {at}; convert it to UTF-8"
        )
    })
}

/// Without the line end that editors and `echo` put at the end of a text.
pub(crate) fn without_last_line_end(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text))
}

/// A JSON file with lists of token ids: `[[1, 2], [3]]`, or `[1, 2]` for one list.
pub(crate) fn read_token_lists(path: &Path) -> Result<Vec<Vec<u32>>> {
    let text = read_text(path)?;
    let name = path.display();
    let value: Value = serde_json::from_str(&text)
        .with_context(|| format!("{name}: expected JSON such as [[0, 17], [0, 4, 9]], got something else"))?;
    token_lists(&value).map_err(|reason| anyhow::anyhow!("{name}: {reason}"))
}

/// A JSON file with one list of token ids: `[1, 2]` or `[[1, 2]]`.
pub(crate) fn read_token_list(path: &Path) -> Result<Vec<u32>> {
    let mut lists = read_token_lists(path)?;
    match lists.len() {
        1 => Ok(lists.remove(0)),
        count => {
            bail!("{}: expected one list of token ids, got {count}; give one file per prompt", path.display())
        }
    }
}

fn token_lists(value: &Value) -> Result<Vec<Vec<u32>>, String> {
    let Value::Array(entries) = value else {
        return Err(format!("expected a list of token ids or a list of such lists, got {}", short(value)));
    };
    if entries.iter().any(Value::is_array) || entries.is_empty() {
        entries
            .iter()
            .enumerate()
            .map(|(i, entry)| token_ids(entry).map_err(|reason| format!("list {i}: {reason}")))
            .collect()
    } else {
        Ok(vec![token_ids(value)?])
    }
}

fn token_ids(value: &Value) -> Result<Vec<u32>, String> {
    let Value::Array(entries) = value else {
        return Err(format!("expected a list of token ids, got {}", short(value)));
    };
    let id = |(place, entry): (usize, &Value)| {
        let id = entry.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            format!("place {place}: expected a token id, a whole number from 0, got {}", short(entry))
        })
    };
    entries.iter().enumerate().map(id).collect()
}

/// Token ids as JSON, or as numbers between white space and commas.
pub(crate) fn parse_token_ids(text: &str) -> Result<Vec<u32>> {
    if let Ok(value) = serde_json::from_str::<Value>(text)
        && value.is_array()
    {
        let lists = token_lists(&value).map_err(anyhow::Error::msg)?;
        return Ok(lists.concat());
    }
    let numbers = text.split(|c: char| c.is_whitespace() || c == ',').filter(|number| !number.is_empty());
    let id = |number: &str| {
        number
            .parse()
            .map_err(|_| anyhow::anyhow!("expected token ids such as [0, 17, 4] or 0 17 4, got {number:?}"))
    };
    numbers.map(id).collect()
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        text
    } else {
        format!("{}…", text.chars().take(40).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_lists_in_json() {
        let read = |json: &str| token_lists(&serde_json::from_str(json).unwrap());
        let good: [(&str, &[&[u32]]); 4] = [
            ("[1, 2]", &[&[1, 2]]),
            ("[[1, 2]]", &[&[1, 2]]),
            ("[[1], [], [4294967295]]", &[&[1], &[], &[u32::MAX]]),
            ("[]", &[]),
        ];
        for (json, lists) in good {
            assert_eq!(read(json).unwrap(), lists, "{json}");
        }
        for (json, message) in [
            ("{}", "expected a list of token ids or a list of such lists, got {}"),
            ("[1, -2]", "place 1: expected a token id, a whole number from 0, got -2"),
            ("[[1], [2, \"x\"]]", "list 1: place 1: expected a token id, a whole number from 0, got \"x\""),
            ("[[1], 2]", "list 1: expected a list of token ids, got 2"),
            ("[4294967296]", "place 0: expected a token id, a whole number from 0, got 4294967296"),
        ] {
            assert_eq!(read(json).unwrap_err(), message, "{json}");
        }
    }

    #[test]
    fn ids_to_decode() {
        for text in ["[1, 2, 3]", "[[1, 2], [3]]", "1 2 3", " 1,2,\n3\n"] {
            assert_eq!(parse_token_ids(text).unwrap(), [1, 2, 3], "{text:?}");
        }
        assert!(parse_token_ids("").unwrap().is_empty());
        for text in ["[1, x]", "1 -2", "1.5", "{}"] {
            let message = parse_token_ids(text).unwrap_err().to_string();
            assert!(message.contains("expected token ids"), "{message}");
        }
    }

    #[test]
    fn line_ends_and_encodings() {
        for (text, expected) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", "")] {
            assert_eq!(without_last_line_end(text), expected);
        }
        let message = utf8(b"ab\xff".to_vec(), "x.txt").unwrap_err().to_string();
        assert_eq!(message, "x.txt: expected UTF-8 text, got byte 0xff at offset 2; convert it to UTF-8");
    }
}
