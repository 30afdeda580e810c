//! The house's rules that no compiler knows, each a pure function with a GOOD and a BAD row.

mod allow;
mod code;
mod docs;
mod fence;
mod layers;
mod safety;
mod shape;
mod text;
mod violation;

use std::path::Path;

use anyhow::{Result, bail};

use crate::manifest::Manifest;
use crate::source::Source;
use crate::tree::{self, File};
use violation::Violation;

/// Checks the tree at `root`, prints every violation, and fails if there is one.
pub(crate) fn run(root: &Path) -> Result<()> {
    let files = tree::read(root)?;
    let mut found = check(&files)?;
    found.extend(shape::fixtures(tree::bytes_below(&root.join("fixtures"))?));
    for violation in &found {
        println!("{violation}");
    }
    match found.len() {
        0 => Ok(()),
        1 => bail!("tidy: 1 violation, listed above"),
        n => bail!("tidy: {n} violations, listed above"),
    }
}

/// Every rule on every file, in the order of the paths.
fn check(files: &[File]) -> Result<Vec<Violation>> {
    let manifests = Manifest::all(files)?;
    let texts: Vec<(&str, &str)> = files.iter().map(|f| (f.path.as_str(), f.text.as_str())).collect();
    let mut found = layers::check(&manifests, &texts);
    for (path, text) in &texts {
        found.extend(text::check(path, text));
        found.extend(shape::check(path, text));
    }
    let rust = files.iter().filter(|f| f.path.ends_with(".rs"));
    let mut sources: Vec<Source> = rust.map(|f| Source::new(&f.path, &f.text)).collect();
    Source::mark_test_modules(&mut sources);
    for source in &sources {
        found.extend(fence::check(source));
        found.extend(safety::check(source));
        found.extend(code::check(source));
        found.extend(docs::check(source));
    }
    found.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(found)
}
