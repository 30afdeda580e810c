//! What the rules need to know of a crate's Cargo.toml.

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::tree::File;

/// A workspace crate as its manifest describes it.
#[derive(Debug, PartialEq)]
pub(crate) struct Manifest {
    /// Path of the manifest, relative to the root.
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) description: String,
    /// `[package.metadata.tidy] layer`.
    pub(crate) layer: Option<i64>,
    /// Names under `dependencies` and `build-dependencies`, those of single targets included, sorted.
    pub(crate) dependencies: Vec<String>,
    /// Names under `dev-dependencies`, sorted.
    pub(crate) dev_dependencies: Vec<String>,
}

impl Manifest {
    /// Reads one manifest; `None` for the workspace's own, which has no package.
    pub(crate) fn parse(path: &str, text: &str) -> Result<Option<Manifest>> {
        let table: Table = text.parse().with_context(|| format!("{path} is not valid TOML"))?;
        let Some(package) = table.get("package").and_then(Value::as_table) else { return Ok(None) };
        let word = |key: &str| package.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let layer = ["metadata", "tidy", "layer"]
            .iter()
            .try_fold(&Value::Table(package.clone()), |value, key| value.get(key))
            .and_then(Value::as_integer);
        Ok(Some(Manifest {
            path: path.to_owned(),
            name: word("name"),
            description: word("description"),
            layer,
            dependencies: names(&table, &["dependencies", "build-dependencies"]),
            dev_dependencies: names(&table, &["dev-dependencies"]),
        }))
    }

    /// All crates of the tree, sorted by layer, then by name.
    pub(crate) fn all(files: &[File]) -> Result<Vec<Manifest>> {
        let mut all = Vec::new();
        for file in files.iter().filter(|f| f.path.ends_with("Cargo.toml")) {
            all.extend(Manifest::parse(&file.path, &file.text)?);
        }
        all.sort_by(|a, b| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
        Ok(all)
    }

    /// The crate's folder, relative to the root.
    pub(crate) fn folder(&self) -> &str {
        self.path.strip_suffix("/Cargo.toml").unwrap_or("")
    }
}

fn names(table: &Table, sections: &[&str]) -> Vec<String> {
    let targets = table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let places = std::iter::once(table).chain(targets.filter_map(Value::as_table));
    let mut names: Vec<String> = places
        .flat_map(|place| sections.iter().filter_map(|section| place.get(*section)?.as_table()))
        .flat_map(|dependencies| dependencies.keys().cloned())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_layer_and_every_kind_of_dependency() {
        let text = r#"
            [package]
            name = "fathom-x"
            description = "does x"
            [package.metadata.tidy]
            layer = 2
            [dependencies]
            serde.workspace = true
            [dev-dependencies]
            proptest = "1"
            [build-dependencies]
            cc = "1"
            [target.'cfg(unix)'.dependencies]
            rustix = { version = "1" }
        "#;
        let manifest = Manifest::parse("crates/x/Cargo.toml", text).unwrap().unwrap();
        assert_eq!(manifest.layer, Some(2));
        assert_eq!(manifest.dependencies, ["cc", "rustix", "serde"]);
        assert_eq!(manifest.dev_dependencies, ["proptest"]);
        assert_eq!(manifest.folder(), "crates/x");
    }

    #[test]
    fn the_workspace_manifest_is_no_crate() {
        assert_eq!(Manifest::parse("Cargo.toml", "[workspace]\n").unwrap(), None);
    }

    #[test]
    fn broken_toml_names_the_file() {
        let message = format!("{:#}", Manifest::parse("crates/x/Cargo.toml", "[package").unwrap_err());
        assert!(message.starts_with("crates/x/Cargo.toml"), "{message}");
    }
}
