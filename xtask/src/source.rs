//! A Rust file taken apart: code without comments and strings, comments without code, and which lines are
//! test code.
//!
//! Not a parser. A scanner that knows where comments, strings and character literals begin and end is
//! enough for every rule, needs no dependency, and reads the whole tree in milliseconds.

mod scan;
mod test_code;

/// A Rust file as the rules see it. Lines are counted from 0 here and from 1 in reports.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    /// Code by line; comments and the insides of strings are blanks, columns are kept.
    pub(crate) code: Vec<String>,
    /// Comments by line; everything else is blank.
    pub(crate) comments: Vec<String>,
    /// Whether a line belongs to tests: a test, bench or example target, or an item under `#[cfg(test)]`.
    pub(crate) is_test: Vec<bool>,
    /// Files that this one declares as `#[cfg(test)] mod name;`: stem paths without `.rs`.
    pub(crate) test_modules: Vec<String>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let (code, comments) = scan::split(text);
        let (mut is_test, declared) = test_code::find(&code, text);
        if path.split('/').any(|part| matches!(part, "tests" | "benches" | "examples")) {
            is_test.fill(true);
        }
        Source {
            path: path.to_owned(),
            code: lines(&code),
            comments: lines(&comments),
            is_test,
            test_modules: declared.iter().map(|module| stem(path, module)).collect(),
        }
    }

    /// Marks the files that another one declares as test modules, and everything below them.
    pub(crate) fn mark_test_modules(sources: &mut [Source]) {
        let stems: Vec<String> = sources.iter().flat_map(|s| s.test_modules.clone()).collect();
        for source in sources {
            let below = |stem: &String| {
                let rest = source.path.strip_prefix(stem.as_str());
                rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            };
            if stems.iter().any(below) {
                source.is_test.fill(true);
            }
        }
    }

    /// Line numbers (from 0) and code of the lines that are not test code.
    pub(crate) fn shipped_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().enumerate().filter(|(i, _)| !self.is_test[*i]).map(|(i, line)| (i, line.as_str()))
    }
}

/// The path without `.rs` of a module that the file at `path` declares.
fn stem(path: &str, module: &test_code::Declared) -> String {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    match (&module.path, file) {
        (Some(named), _) => format!("{folder}/{}", named.strip_suffix(".rs").unwrap_or(named)),
        (None, "lib.rs" | "main.rs" | "mod.rs") => format!("{folder}/{}", module.name),
        (None, _) => format!("{}/{}", path.strip_suffix(".rs").unwrap_or(path), module.name),
    }
}

fn lines(text: &str) -> Vec<String> {
    text.split('\n').map(str::to_owned).collect()
}

/// Byte offsets at which `word` stands alone in `line`, not as a part of a longer name.
pub(crate) fn find_word(line: &str, word: &str) -> Vec<usize> {
    let is_name = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = line.as_bytes();
    line.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| !is_name(bytes[..at].last()) && !is_name(bytes.get(at + word.len())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_not_found_inside_longer_names() {
        assert_eq!(find_word("unsafe { x } // unsafe_code", "unsafe"), [0]);
        assert_eq!(find_word("my_unsafe unsafely", "unsafe"), [0_usize; 0]);
    }

    #[test]
    fn a_declared_test_module_is_test_code_with_everything_below_it() {
        let mut sources = [
            Source::new("crates/a/src/lib.rs", "#[cfg(test)]\nmod rows;\nmod core;\n"),
            Source::new("crates/a/src/b.rs", "#[cfg(test)]\n#[path = \"b_rows.rs\"]\nmod rows;\n"),
            Source::new("crates/a/src/b_rows.rs", "fn f() {}"),
            Source::new("crates/a/src/rows.rs", "fn f() {}"),
            Source::new("crates/a/src/rows/deep.rs", "fn f() {}"),
            Source::new("crates/a/src/core.rs", "fn f() {}"),
        ];
        Source::mark_test_modules(&mut sources);
        let marked: Vec<bool> = sources.iter().map(|s| s.is_test[s.is_test.len() - 1]).collect();
        assert_eq!(marked, [false, false, true, true, true, false]);
    }

    #[test]
    fn test_and_bench_targets_are_test_code() {
        for (path, expected) in [("crates/a/tests/x.rs", true), ("crates/a/src/x.rs", false)] {
            assert_eq!(Source::new(path, "fn f() {}").is_test, [expected], "{path}");
        }
    }
}
