//! The working tree: the only module that reads files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Folders that hold no text of ours: build output and test data.
const SKIPPED: &[&str] = &["target", "fixtures"];
/// Kinds of text that the rules look at.
const EXTENSIONS: &[&str] = &["rs", "md", "toml"];

/// A text of the tree.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the root, with `/` on every system.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The folder of the workspace manifest.
pub(crate) fn root() -> Result<PathBuf> {
    // Set by `cargo run` to the folder of this crate; a binary started by hand falls back to the current one.
    let start =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(std::env::current_dir, |d| Ok(d.into()))?;
    for folder in start.ancestors() {
        let manifest = folder.join("Cargo.toml");
        if manifest.is_file() && fs::read_to_string(&manifest)?.contains("[workspace]") {
            return Ok(folder.to_path_buf());
        }
    }
    bail!("no workspace Cargo.toml above {}; run this inside the tree", start.display())
}

/// Every .rs, .md and .toml file outside build output, fixtures and hidden folders, sorted by path.
pub(crate) fn read(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    walk(root, &mut |path| {
        if path.extension().is_some_and(|e| EXTENSIONS.iter().any(|x| e == *x)) {
            let text = fs::read_to_string(path).with_context(|| format!("{} as text", path.display()))?;
            files.push(File { path: relative(root, path), text });
        }
        Ok(())
    })?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Bytes in all files below `folder`; 0 when it does not exist.
pub(crate) fn bytes_below(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    if folder.is_dir() {
        walk(folder, &mut |path| {
            sum += fs::metadata(path)?.len();
            Ok(())
        })?;
    }
    Ok(sum)
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type()?;
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_ref()) {
            walk(&entry.path(), visit)?;
        } else if kind.is_file() {
            visit(&entry.path())?;
        }
    }
    Ok(())
}

fn relative(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_texts_and_skips_build_output_fixtures_and_hidden_folders() {
        let root = tempfile::tempdir().unwrap();
        for path in ["b/x.rs", "a.md", "b/y.bin", "target/z.rs", "fixtures/t/config.toml", ".git/c.toml"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text\n").unwrap();
        }
        let paths: Vec<String> = read(root.path()).unwrap().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["a.md", "b/x.rs"]);
        assert_eq!(bytes_below(&root.path().join("fixtures")).unwrap(), 5);
        assert_eq!(bytes_below(&root.path().join("absent")).unwrap(), 0);
    }

    #[test]
    fn the_root_is_the_folder_of_the_workspace() {
        assert!(root().unwrap().join("xtask").is_dir());
    }
}
