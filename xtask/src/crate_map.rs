//! docs/crate-map.md, written from the manifests and the first line of each crate's documentation.
//!
//! A page about the crates that a person keeps by hand is wrong after a month; this one is either current
//! or a failed check.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::manifest::Manifest;
use crate::tree::{self, File};

const PATH: &str = "docs/crate-map.md";

/// Writes the page.
pub(crate) fn write(root: &Path) -> Result<()> {
    let path = root.join(PATH);
    fs::create_dir_all(root.join("docs"))?;
    fs::write(&path, current(root)?).with_context(|| path.display().to_string())
}

/// Fails if the page in the tree is not what [`write()`] would write.
pub(crate) fn check(root: &Path) -> Result<()> {
    let page = fs::read_to_string(root.join(PATH)).unwrap_or_default();
    ensure!(page == current(root)?, "{PATH} is stale; run `cargo xtask map`");
    Ok(())
}

fn current(root: &Path) -> Result<String> {
    let files = tree::read(root)?;
    Ok(render(&Manifest::all(&files)?, &files))
}

fn render(crates: &[Manifest], files: &[File]) -> String {
    let mut page = String::from(
        "# Crate map\n\n\
         Written by `cargo xtask map` from the manifests and the first lines of the crates; do not edit.\n\
         A crate uses only crates of lower layers.\n",
    );
    let mut layer = None;
    for package in crates {
        if layer != Some(package.layer) {
            layer = Some(package.layer);
            let number = package.layer.map_or("none".to_owned(), |n| n.to_string());
            let _ = write!(page, "\n## Layer {number}\n");
        }
        let (ours, others): (Vec<&str>, Vec<&str>) =
            package.dependencies.iter().map(String::as_str).partition(|name| name.starts_with("fathom-"));
        let _ = write!(page, "\n### {} ({}/)\n\n", package.name, package.folder());
        let line = first_doc_line(package, files).unwrap_or_default();
        // Most first lines begin with the description; saying it twice helps nobody.
        if !line.starts_with(&package.description) {
            let _ = write!(page, "{}.\n\n", package.description);
        }
        if !line.is_empty() {
            let _ = write!(page, "> {line}\n\n");
        }
        let _ = writeln!(page, "- uses of ours: {}", list(&ours));
        let _ = writeln!(page, "- uses of others: {}", list(&others));
    }
    page
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// The first line of the `//!` documentation of lib.rs, or of main.rs where there is no library.
fn first_doc_line<'a>(package: &Manifest, files: &'a [File]) -> Option<&'a str> {
    let find = |name: &str| {
        let path = format!("{}/src/{name}", package.folder());
        files.iter().find(|f| f.path == path)
    };
    let line = find("lib.rs").or_else(|| find("main.rs"))?.text.lines().next()?;
    line.strip_prefix("//!").map(str::trim).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, layer: i64, dependencies: &[&str]) -> Manifest {
        Manifest {
            path: format!("crates/{name}/Cargo.toml"),
            name: format!("fathom-{name}"),
            description: format!("What {name} is for"),
            layer: Some(layer),
            dependencies: dependencies.iter().map(|d| (*d).to_owned()).collect(),
            dev_dependencies: Vec::new(),
        }
    }

    #[test]
    fn a_page_has_a_heading_per_layer_and_the_first_line_of_each_crate() {
        let crates = [package("low", 0, &[]), package("high", 1, &["fathom-low", "serde"])];
        let lib = File {
            path: "crates/low/src/lib.rs".to_owned(),
            text: "//! What low is for: low things.\n//! More.\n".to_owned(),
        };
        let page = render(&crates, &[lib]);
        for line in [
            "## Layer 0",
            "### fathom-low (crates/low/)",
            "> What low is for: low things.",
            "## Layer 1",
            "What high is for.",
            "- uses of ours: fathom-low",
            "- uses of others: serde",
            "- uses of others: nothing",
        ] {
            assert!(page.lines().any(|l| l == line), "no line `{line}` in\n{page}");
        }
        assert!(!page.contains("What low is for.\n"), "{page}");
    }

    #[test]
    fn a_stale_page_fails_and_a_written_one_passes() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("Cargo.toml"), "[package]\nname = \"fathom-x\"\n").unwrap();
        let message = check(root.path()).unwrap_err().to_string();
        assert!(message.contains("cargo xtask map"), "{message}");
        write(root.path()).unwrap();
        check(root.path()).unwrap();
        fs::write(root.path().join("Cargo.toml"), "[package]\nname = \"fathom-y\"\n").unwrap();
        assert!(check(root.path()).is_err());
    }
}
