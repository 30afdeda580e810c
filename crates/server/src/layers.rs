//! Putting a configuration together: defaults, then the file, then the environment, then flags.

use std::path::Path;

use serde::de::Error as _;
use toml::{Table, Value};

use crate::config::ServerConfig;
use crate::error::{Error, Result};

/// What names of environment variables begin with.
const PREFIX: &str = "FATHOM_SERVE_";

impl ServerConfig {
    /// The defaults, overridden by the TOML file, by `FATHOM_SERVE_<SETTING>` in `environment`, and by the pairs of
    /// `flags`. Values of the last two are TOML, or the text as it is where that does not fit.
    ///
    /// # Errors
    /// [`Error::Config`] with the place and the field for anything unknown, of the wrong type or out of range;
    /// [`Error::Io`] if the file cannot be read.
    pub fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self> {
        let mut all = Table::new();
        let mut last = "defaults".to_owned();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|source| Error::Io {
                file: file.to_owned(),
                action: "read",
                source,
            })?;
            last = file.display().to_string();
            let table: Table =
                text.parse().map_err(|error: toml::de::Error| wrong(&last, error.to_string().trim()))?;
            add(&mut all, table, &last)?;
        }
        for (name, text) in environment {
            if let Some(field) = name.strip_prefix(PREFIX) {
                add(&mut all, single(&field.to_lowercase(), &text), &name)?;
                last = name;
            }
        }
        for (field, text) in flags {
            last = format!("flag {field}");
            add(&mut all, single(field, text), &last)?;
        }
        let config = parse(all).map_err(|reason| wrong(&last, reason))?;
        config.validate().map_err(|reason| wrong(&last, reason))?;
        Ok(config)
    }
}

fn wrong(place: &str, reason: impl ToString) -> Error {
    let reason = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    Error::Config { place: place.to_owned(), reason }
}

/// Lays `table` over `all`, after checking it alone so that an error names its place.
fn add(all: &mut Table, table: Table, place: &str) -> Result<()> {
    parse(table.clone()).map_err(|reason| wrong(place, reason))?;
    all.extend(table);
    Ok(())
}

fn parse(table: Table) -> std::result::Result<ServerConfig, String> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if path == "." { reason.to_string() } else { format!("`{path}`: {reason}") }
    })
}

/// One setting from text: as TOML if the setting takes that, else as a string.
fn single(field: &str, text: &str) -> Table {
    let one = |value: Value| Table::from_iter([(field.to_owned(), value)]);
    let written: std::result::Result<Table, _> = format!("x = {text}").parse();
    let written = written.and_then(|mut table| match table.remove("x") {
        Some(value) if table.is_empty() => Ok(value),
        _ => Err(toml::de::Error::custom("more than one value")),
    });
    match written {
        Ok(value) if parse(one(value.clone())).is_ok() => one(value),
        _ => one(Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Isolation;

    fn read(
        file: Option<&str>,
        environment: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<ServerConfig> {
        let dir = tempfile::tempdir().unwrap();
        let path = file.map(|text| {
            let path = dir.path().join("fathom.toml");
            std::fs::write(&path, text).unwrap();
            path
        });
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
        };
        ServerConfig::read(path.as_deref(), owned(environment), &owned(flags))
    }

    #[test]
    fn later_layers_win() {
        let file = "listen = \"127.0.0.1:1\"\nisolation = \"key\"\nmax_choices = 2\nmodel_id = \"7\"\n";
        let config = read(Some(file), &[], &[]).unwrap();
        assert_eq!((config.listen.port(), config.isolation, config.max_choices), (1, Isolation::Key, 2));
        let environment = [("FATHOM_SERVE_LISTEN", "127.0.0.1:2"), ("FATHOM_LOG", "x"), ("OTHER", "y")];
        let config = read(Some(file), &environment, &[("max_choices", "3"), ("model_id", "12")]).unwrap();
        assert_eq!((config.listen.port(), config.max_choices), (2, 3));
        assert_eq!(config.model_id.as_deref(), Some("12"));
        let config = read(None, &[("FATHOM_SERVE_ALIASES", "[\"a\"]")], &[("state_dir", "/x y")]).unwrap();
        assert_eq!((config.aliases, config.state_dir), (vec!["a".to_owned()], Some("/x y".into())));
    }

    /// Every error names the place and the field.
    #[track_caller]
    fn check(file: Option<&str>, environment: &[(&str, &str)], flags: &[(&str, &str)], parts: &[&str]) {
        let message = read(file, environment, flags).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        assert!(!message.contains('\n'), "{message:?}");
    }

    #[test]
    fn mistakes_are_named() {
        check(Some("lisen = 1"), &[], &[], &["fathom.toml", "unknown field `lisen`", "listen"]);
        check(Some("max_choices = \"x\""), &[], &[], &["fathom.toml", "`max_choices`", "invalid type"]);
        check(Some("[[keys]]\nname = \"a\"\nkye = 1"), &[], &[], &["keys[0]", "unknown field `kye`"]);
        check(Some("[[keys]]\nname = \"a\""), &[], &[], &["keys[0]", "either `key` or `sha256`"]);
        check(Some("a b"), &[], &[], &["fathom.toml", "line 1"]);
        check(None, &[("FATHOM_SERVE_WEB", "perhaps")], &[], &["FATHOM_SERVE_WEB", "`web`"]);
        check(None, &[("FATHOM_SERVE_WAB", "true")], &[], &["FATHOM_SERVE_WAB", "unknown field `wab`"]);
        check(None, &[], &[("keep_alive_s", "0")], &["flag keep_alive_s", "`keep_alive_s` is 0", "above 0"]);
        check(None, &[], &[("tls_key", "a.pem")], &["`tls_certificate` and `tls_key`"]);
        check(None, &[], &[("otlp_endpoint", "https://x")], &["`otlp_endpoint`", "http://HOST:PORT"]);
        check(None, &[], &[("otlp_sample_ratio", "2")], &["`otlp_sample_ratio` is 2", "0 to 1"]);
        check(None, &[], &[("max_choices", "1\nweb = false")], &["`max_choices`"]);
    }
}
