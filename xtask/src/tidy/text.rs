//! Rules on plain text: whitespace, no blank left to be filled in, and a reason for every outside dependency.

use super::violation::Violation;

pub(super) fn check(path: &str, text: &str) -> Vec<Violation> {
    let mut found = whitespace(path, text);
    found.extend(blanks(path, text));
    if path == "Cargo.toml" {
        found.extend(reasons(path, text));
    }
    found
}

fn whitespace(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (i, line) in text.split('\n').enumerate() {
        let mut report = |message: &str, mend| {
            let (path, message) = (path.to_owned(), message.to_owned());
            found.push(Violation { path, line: i + 1, rule: "whitespace", message, mend });
        };
        if line.ends_with([' ', '\t', '\r']) {
            report("blanks or a carriage return at the end of the line", "remove them");
        } else if line.contains('\t') {
            report("a tab", "use spaces, or `\\t` inside a string");
        }
    }
    found
}

/// A line such as `@@NAME@@`, where a figure was to stand.
fn blanks(path: &str, text: &str) -> Vec<Violation> {
    let is_blank = |line: &str| {
        let name = line.trim().strip_prefix("@@").and_then(|line| line.strip_suffix("@@"));
        name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase()))
    };
    let lines = text.lines().enumerate().filter(|(_, line)| is_blank(line));
    lines
        .map(|(i, line)| Violation {
            path: path.to_owned(),
            line: i + 1,
            rule: "blank",
            message: format!("`{}` was left to be filled in", line.trim()),
            mend: "write what belongs there, or remove it with its heading",
        })
        .collect()
}

/// Each line of `[workspace.dependencies]` that is not a crate of ours must end in `# reason`.
fn reasons(path: &str, text: &str) -> Vec<Violation> {
    let mut section = "";
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        }
        let Some((name, _)) = line.split_once('=') else { continue };
        let ours = line.contains("path =");
        if section == "[workspace.dependencies]" && !line.starts_with('#') && !ours && !has_comment(line) {
            found.push(Violation {
                path: path.to_owned(),
                line: i + 1,
                rule: "dependency-reason",
                message: format!("`{}` comes without a reason", name.trim()),
                mend: "say at the end of the line after `#` what it does for us",
            });
        }
    }
    found
}

/// Whether a TOML line ends in a comment with words in it; `#` inside quotes is none.
fn has_comment(line: &str) -> bool {
    let outside: String = line.split('"').step_by(2).collect();
    outside.split_once('#').is_some_and(|(_, comment)| !comment.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::violation::expect;
    use super::*;

    #[test]
    fn blanks_and_tabs() {
        expect(check("a.md", "one\n\n  two\n"), &[]);
        expect(
            check("a.md", "one \ntw\to\nthree\r\n"),
            &[(1, "whitespace"), (2, "whitespace"), (3, "whitespace")],
        );
    }

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        expect(check("a.md", "`@@FIG@@` in a sentence\n@@ -1,2 +1,2 @@\n@@@@\n"), &[]);
        expect(check("a.md", "## Figures\n\n  @@FIG@@\n"), &[(3, "blank")]);
    }

    #[test]
    fn dependency_reason() {
        let good = "[workspace.dependencies]\nx = { path = \"crates/x\" }\n# why\n\
                    serde = { version = \"1\", features = [\"a#b\"] } # structs\n[profile.dev]\nopt-level = 1\n";
        expect(check("Cargo.toml", good), &[]);
        let bad =
            "[workspace.dependencies]\nserde = \"1\"\nhalf = { features = [\"a#b\"] }\nrand = \"1\" #\n";
        expect(
            check("Cargo.toml", bad),
            &[(2, "dependency-reason"), (3, "dependency-reason"), (4, "dependency-reason")],
        );
        expect(check("crates/a/Cargo.toml", bad), &[]);
    }
}
