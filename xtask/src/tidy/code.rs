//! Calls and marks that do not belong in shipped code.

use super::allow;
use super::violation::Violation;
use crate::source::{Source, find_word};

/// Tests may do these things, shipped code may not: text, rule, mend.
const SHIPPED: &[(&str, &str, &str)] =
    &[(".unwrap()", "unwrap", "return an error, or `expect(\"the reason that makes it true\")`")];

/// Nobody may do these things.
const ANYWHERE: &[(&str, &str, &str)] = &[
    ("todo!(", "unfinished", "finish it or leave it out"),
    ("unimplemented!(", "unfinished", "finish it or return an error"),
    ("dbg!(", "unfinished", "remove it or use `tracing`"),
    ("#[ignore", "ignored-test", "make the test fast enough or remove it"),
];

/// Output belongs to the command line.
const PRINTING: &[&str] = &["println!", "eprintln!", "print!", "eprint!"];

/// Marks of unfinished work in comments.
const MARKS: &[&str] = &["TODO", "FIXME", "XXX"];

pub(super) fn check(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |line: usize, rule, what: &str, mend| {
        let (path, message) = (source.path.clone(), format!("`{what}`"));
        found.push(Violation { path, line: line + 1, rule, message, mend });
    };
    for (i, line) in source.code.iter().enumerate() {
        for &(text, rule, mend) in ANYWHERE.iter().filter(|(text, ..)| line.contains(text)) {
            report(i, rule, text, mend);
        }
    }
    for (i, line) in source.comments.iter().enumerate() {
        for mark in MARKS.iter().filter(|mark| !find_word(line, mark).is_empty()) {
            report(i, "unfinished", mark, "finish it, or write an issue and say here what holds now");
        }
    }
    let may_print = allow::PRINTING_PLACES.iter().any(|place| source.path.starts_with(place))
        || source.path.ends_with("/build.rs");
    for (i, line) in source.shipped_code() {
        for &(text, rule, mend) in SHIPPED.iter().filter(|(text, ..)| line.contains(text)) {
            report(i, rule, text, mend);
        }
        for call in PRINTING.iter().filter(|call| !may_print && calls(line, call)) {
            report(i, "printing", call, "return it, or log it with `tracing`");
        }
    }
    found
}

/// Whether `line` calls the macro `name`, which ends in `!`.
fn calls(line: &str, name: &str) -> bool {
    let word = name.trim_end_matches('!');
    find_word(line, word).iter().any(|at| line[at + word.len()..].starts_with('!'))
}

#[cfg(test)]
mod tests {
    use super::super::violation::expect;
    use super::*;

    #[track_caller]
    fn rows(path: &str, text: &str, rows: &[(usize, &str)]) {
        expect(check(&Source::new(path, text)), rows);
    }

    const PLACE: &str = "crates/model/src/a.rs";

    #[test]
    fn unwrap_is_for_tests() {
        rows(PLACE, "/// `x.unwrap()`\nx.unwrap_or(1);\n#[cfg(test)]\nmod tests {\n x.unwrap();\n}", &[]);
        rows("crates/model/tests/a.rs", "x.unwrap();", &[]);
        rows(PLACE, "x.unwrap();", &[(1, "unwrap")]);
        rows(PLACE, "#[cfg(test)]\nmod tests {}\nx.unwrap();", &[(3, "unwrap")]);
    }

    #[test]
    fn nothing_unfinished() {
        rows(PLACE, "let todo = \"todo!( dbg!( TODO FIXME\"; // '\\uXXXX' is fine, and so is mastodon", &[]);
        rows(PLACE, "todo!();", &[(1, "unfinished")]);
        rows(PLACE, "unimplemented!(\"x\");", &[(1, "unfinished")]);
        rows(PLACE, "dbg!(x);", &[(1, "unfinished")]);
        rows(
            PLACE,
            "// TODO: later\n/* XXX */\n// FIXME",
            &[(1, "unfinished"), (2, "unfinished"), (3, "unfinished")],
        );
    }

    #[test]
    fn no_test_is_ignored() {
        rows(PLACE, "#[cfg(test)]\nmod t {\n #[test]\n fn a() {}\n}", &[]);
        rows(
            PLACE,
            "#[cfg(test)]\nmod t {\n #[test]\n #[ignore = \"slow\"]\n fn a() {}\n}",
            &[(4, "ignored-test")],
        );
    }

    #[test]
    fn only_the_command_line_prints() {
        rows("crates/cli/src/a.rs", "println!(\"x\");", &[]);
        rows("crates/model/benches/a.rs", "println!(\"x\");", &[]);
        rows("crates/model/build.rs", "println!(\"x\");", &[]);
        rows(PLACE, "write!(f, \"println!\"); my_println!(1);", &[]);
        rows(PLACE, "println!(\"x\");\neprint!(\"y\");", &[(1, "printing"), (2, "printing")]);
    }
}
