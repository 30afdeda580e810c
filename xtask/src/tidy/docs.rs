//! Every library begins by saying what it is and what it never does.

use super::violation::Violation;
use crate::source::Source;

pub(super) fn check(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    if !source.path.ends_with("/src/lib.rs") {
        return found;
    }
    let mut report = |message: &str, mend| {
        let (path, message) = (source.path.clone(), message.to_owned());
        found.push(Violation { path, line: 1, rule: "crate-doc", message, mend });
    };
    if !source.comments[0].starts_with("//! ") {
        report("the first line is not `//!` documentation", "begin with the crate's purpose in one sentence");
    }
    let invariant = |line: &String| line.starts_with("//!") && line.contains("**Invariant");
    if !source.comments.iter().any(invariant) {
        report("the documentation states no `**Invariant:**`", "say what the crate never does");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::violation::expect;
    use super::*;

    #[track_caller]
    fn rows(path: &str, text: &str, rows: &[(usize, &str)]) {
        expect(check(&Source::new(path, text)), rows);
    }

    #[test]
    fn a_library_begins_with_its_purpose_and_has_an_invariant() {
        let lib = "crates/a/src/lib.rs";
        rows(lib, "//! Adds.\n//!\n//! **Invariant:** never subtracts.\n", &[]);
        rows("crates/a/src/other.rs", "fn f() {}", &[]);
        rows(lib, "//! Adds.\n", &[(1, "crate-doc")]);
        rows(lib, "\n//! Adds.\n//! **Invariant:** never subtracts.\n", &[(1, "crate-doc")]);
        rows(lib, "//! Adds.\n// **Invariant:** never subtracts.\n", &[(1, "crate-doc")]);
    }
}
