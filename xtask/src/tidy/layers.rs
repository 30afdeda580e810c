//! One direction of dependencies: every crate has a layer and uses only lower ones.

use super::violation::Violation;
use crate::manifest::Manifest;

/// `texts` are (path, text) of the tree, to find the line of a dependency.
pub(super) fn check(crates: &[Manifest], texts: &[(&str, &str)]) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in crates {
        let text = texts.iter().find(|(path, _)| *path == package.path).map_or("", |(_, text)| text);
        let mut report = |word: &str, message: String, mend| {
            let line = text.lines().position(|line| line.trim_start().starts_with(word)).map_or(1, |i| i + 1);
            found.push(Violation { path: package.path.clone(), line, rule: "layers", message, mend });
        };
        let expected = package.name.strip_prefix("fathom-").map(|short| format!("crates/{short}"));
        if package.folder() != expected.as_deref().unwrap_or(&package.name) {
            let message = format!("package `{}` does not match its folder", package.name);
            report("name", message, "call it fathom- and the name of the folder under crates/");
        }
        let Some(layer) = package.layer else {
            let message = format!("package `{}` has no layer", package.name);
            report("[package]", message, "add `[package.metadata.tidy]` with `layer = N`");
            continue;
        };
        let layer_of = |name: &str| crates.iter().find(|c| c.name == name).and_then(|c| c.layer);
        for name in &package.dependencies {
            if let Some(below) = layer_of(name).filter(|&below| below >= layer) {
                let message = format!("layer {layer} uses `{name}` of layer {below}");
                report(name, message, "move the shared part down or turn the edge round");
            }
        }
        for name in &package.dev_dependencies {
            if let Some(below) = layer_of(name).filter(|&below| below > layer) {
                let message = format!("tests in layer {layer} use `{name}` of layer {below}");
                report(name, message, "move the test up to that crate");
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::violation::expect;
    use super::*;

    #[track_caller]
    fn check_crates(texts: &[(&str, &str)], rows: &[(usize, &str)]) {
        let crates: Vec<Manifest> =
            texts.iter().map(|(path, text)| Manifest::parse(path, text).unwrap().unwrap()).collect();
        expect(check(&crates, texts), rows);
    }

    const LOW: (&str, &str) =
        ("crates/low/Cargo.toml", "[package]\nname = \"fathom-low\"\n[package.metadata.tidy]\nlayer = 0\n");

    /// A crate of layer 1 with one dependency line, which is line 6.
    fn crate_with(layer: i64, section: &str, dependency: &str) -> String {
        format!(
            "[package]\nname = \"fathom-x\"\n[package.metadata.tidy]\nlayer = {layer}\n[{section}]\n{dependency} = \"1\"\n"
        )
    }

    #[test]
    fn lower_layers_only() {
        let path = "crates/x/Cargo.toml";
        check_crates(&[LOW, (path, &crate_with(1, "dependencies", "fathom-low"))], &[]);
        check_crates(&[LOW, (path, &crate_with(1, "dependencies", "serde"))], &[]);
        check_crates(&[LOW, (path, &crate_with(0, "dependencies", "fathom-low"))], &[(6, "layers")]);
        check_crates(&[LOW, (path, &crate_with(-1, "dependencies", "fathom-low"))], &[(6, "layers")]);
    }

    #[test]
    fn tests_may_use_their_own_layer() {
        let path = "crates/x/Cargo.toml";
        check_crates(&[LOW, (path, &crate_with(0, "dev-dependencies", "fathom-low"))], &[]);
        check_crates(&[LOW, (path, &crate_with(-1, "dev-dependencies", "fathom-low"))], &[(6, "layers")]);
    }

    #[test]
    fn every_crate_has_a_layer() {
        check_crates(&[("crates/x/Cargo.toml", "[package]\nname = \"fathom-x\"\n")], &[(1, "layers")]);
    }

    #[test]
    fn folder_and_name_agree() {
        let text = "[package]\nname = \"xtask\"\n[package.metadata.tidy]\nlayer = 9\n";
        check_crates(&[("xtask/Cargo.toml", text)], &[]);
        check_crates(&[("crates/y/Cargo.toml", &crate_with(1, "dependencies", "serde"))], &[(2, "layers")]);
    }
}
