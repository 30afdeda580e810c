//! Sizes and names of files.

use super::allow;
use super::violation::Violation;

/// A file beyond this holds more than one idea.
const LINES_MAX: usize = 600;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "common", "misc"];
/// Fixtures travel with every clone.
const FIXTURE_BYTES_MAX: u64 = 20_000_000;

pub(super) fn check(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    if !path.ends_with(".rs") {
        return found;
    }
    let mut report = |rule, line, message, mend| {
        found.push(Violation { path: path.to_owned(), line, rule, message, mend });
    };
    let lines = text.lines().count();
    if lines > LINES_MAX && !allow::LONG_FILES.iter().any(|(file, _)| *file == path) {
        let message = format!("{lines} lines, the limit is {LINES_MAX}");
        report("file-size", LINES_MAX + 1, message, "split it by idea");
    }
    let mut parts = path.trim_end_matches(".rs").split('/');
    if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
        let message = format!("the name `{name}` says nothing");
        report("file-name", 1, message, "name it after what it holds");
    }
    found
}

/// `bytes` is the size of everything below fixtures/.
pub(super) fn fixtures(bytes: u64) -> Option<Violation> {
    (bytes > FIXTURE_BYTES_MAX).then(|| Violation {
        path: "fixtures".to_owned(),
        line: 1,
        rule: "fixture-size",
        message: format!("{bytes} bytes, the limit is {FIXTURE_BYTES_MAX}"),
        mend: "make the checkpoints smaller or drop one",
    })
}

#[cfg(test)]
mod tests {
    use super::super::violation::expect;
    use super::*;

    #[test]
    fn file_size() {
        expect(check("crates/a/src/x.rs", &"x\n".repeat(600)), &[]);
        expect(check("crates/a/src/x.rs", &"x\n".repeat(601)), &[(601, "file-size")]);
        expect(check("docs/x.md", &"x\n".repeat(601)), &[]);
    }

    #[test]
    fn file_name() {
        expect(check("crates/a/src/common_prefix.rs", ""), &[]);
        for bad in ["utils.rs", "helpers.rs", "common.rs", "misc.rs", "common/mod.rs"] {
            expect(check(&format!("crates/a/src/{bad}"), ""), &[(1, "file-name")]);
        }
    }

    #[test]
    fn fixture_size() {
        assert_eq!(fixtures(FIXTURE_BYTES_MAX), None);
        assert!(fixtures(FIXTURE_BYTES_MAX + 1).is_some());
    }
}
