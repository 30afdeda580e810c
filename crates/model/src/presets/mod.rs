//! Configurations of released models, by name.

use std::path::Path;

use crate::{Config, Error, Result};

/// Name, and the fields of the released `config.json` that decide the mathematics.
const PRESETS: [(&str, &str); 3] = [
    ("v2-lite", include_str!("v2-lite.json")),
    ("v2", include_str!("v2.json")),
    ("v3", include_str!("v3.json")),
];

/// Names of all presets.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The `config.json` text of a preset.
pub fn json(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(preset, _)| *preset == name).map(|(_, json)| *json)
}

/// A preset's configuration.
///
/// # Errors
/// [`Error::UnknownPreset`].
pub fn find(name: &str) -> Result<Config> {
    let json = json(name).ok_or_else(|| Error::UnknownPreset(name.to_owned()))?;
    Config::parse(json, Path::new(name))
}
