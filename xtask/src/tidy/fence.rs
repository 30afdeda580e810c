//! The fence around `unsafe`: where the word may stand, and what every crate says about it at its top.

use super::allow;
use super::violation::Violation;
use crate::source::{Source, find_word};

pub(super) fn check(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |line: usize, message: String, mend| {
        found.push(Violation {
            path: source.path.clone(),
            line: line + 1,
            rule: "unsafe-fence",
            message,
            mend,
        });
    };
    if !allow::UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place)) {
        for (i, line) in source.code.iter().enumerate() {
            if !find_word(line, "unsafe").is_empty() {
                let message = "`unsafe` outside the fence".to_owned();
                report(i, message, "move it to crates/kernels or do without");
            }
        }
    }
    if let Some(attribute) = required_attribute(&source.path)
        && !source.code.iter().any(|line| line.trim() == attribute)
    {
        report(0, format!("`{attribute}` is missing"), "put it below the crate's documentation");
    }
    found
}

/// The attribute that a crate's root file must carry; `None` for other files and for exempt crates.
fn required_attribute(path: &str) -> Option<&'static str> {
    if !path.ends_with("/src/lib.rs") && !path.ends_with("/src/main.rs") {
        return None;
    }
    let exception = allow::CRATE_ATTRIBUTES.iter().find(|(folder, _)| path.starts_with(folder));
    exception.map_or(Some("#![forbid(unsafe_code)]"), |(_, attribute)| *attribute)
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
    fn the_word_stays_inside_the_fence() {
        rows("crates/kernels/src/a.rs", "unsafe { f() }", &[]);
        for place in allow::UNSAFE_PLACES.iter().filter(|place| place.ends_with(".rs")) {
            rows(place, "unsafe { f() }", &[]);
        }
        rows("crates/model/src/a.rs", "// unsafe\nlet x = \"unsafe\"; let unsafe_code = 1;", &[]);
        rows("crates/model/src/a.rs", "f();\nunsafe { g() }", &[(2, "unsafe-fence")]);
        rows("crates/model/tests/a.rs", "unsafe { g() }", &[(1, "unsafe-fence")]);
        rows("crates/checkpoint/src/index.rs", "unsafe { g() }", &[(1, "unsafe-fence")]);
    }

    #[test]
    fn every_crate_says_so_at_its_top() {
        rows("crates/model/src/lib.rs", "//! Doc.\n#![forbid(unsafe_code)]\n", &[]);
        rows("crates/model/src/lib.rs", "//! Doc.\n// #![forbid(unsafe_code)]\n", &[(1, "unsafe-fence")]);
        rows("xtask/src/main.rs", "//! Doc.\n", &[(1, "unsafe-fence")]);
        rows("crates/kernels/src/lib.rs", "//! Doc.\n", &[]);
        rows("crates/checkpoint/src/lib.rs", "//! Doc.\n#![deny(unsafe_code)]\n", &[]);
        rows("crates/checkpoint/src/lib.rs", "//! Doc.\n", &[(1, "unsafe-fence")]);
    }
}
