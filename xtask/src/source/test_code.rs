//! Finds the items under `#[cfg(test)]`.

/// A `mod name;` under `#[cfg(test)]`.
#[derive(Debug, PartialEq)]
pub(super) struct Declared {
    pub(super) name: String,
    /// What `#[path = "…"]` says, relative to the folder of the declaring file.
    pub(super) path: Option<String>,
}

/// For each line whether it belongs to a test item, and the modules declared there.
/// `code` is `text` without comments and strings, of the same length.
pub(super) fn find(code: &str, text: &str) -> (Vec<bool>, Vec<Declared>) {
    let mut is_test = vec![false; code.split('\n').count()];
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(start) = next_attribute(code, from) {
        let end = item_end(code, start);
        let line = |at: usize| code[..at].matches('\n').count();
        is_test[line(start)..=line(end)].fill(true);
        if let Some(name) = declared_module(&code[start..end]) {
            modules.push(Declared { name, path: text.get(start..end).and_then(path_attribute) });
        }
        from = end.max(start + 1);
    }
    (is_test, modules)
}

fn next_attribute(code: &str, from: usize) -> Option<usize> {
    let forms = ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(any(test"];
    forms.iter().filter_map(|form| code[from..].find(form)).min().map(|at| from + at)
}

/// Offset behind the item that starts at `start` with its attributes: its `;`, or its closing brace.
fn item_end(code: &str, start: usize) -> usize {
    let (mut round, mut curly) = (0_i32, 0_i32);
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b'{' if round == 0 => curly += 1,
            b'}' if round == 0 => {
                curly -= 1;
                if curly <= 0 {
                    return at;
                }
            }
            b';' if round == 0 && curly == 0 => return at,
            _ => {}
        }
    }
    code.len()
}

fn declared_module(item: &str) -> Option<String> {
    let words: Vec<&str> = item.rsplit(']').next()?.split_whitespace().collect();
    match words.as_slice() {
        ["mod", name] | ["pub" | "pub(crate)" | "pub(super)", "mod", name] => Some((*name).to_owned()),
        _ => None,
    }
}

fn path_attribute(item: &str) -> Option<String> {
    let (_, rest) = item.split_once("#[path = \"")?;
    rest.split('"').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: &str, expected: &str) {
        let marks: String = find(code, code).0.iter().map(|&t| if t { 't' } else { '.' }).collect();
        assert_eq!(marks, expected, "{code}");
    }

    #[test]
    fn marks_whole_items_and_nothing_behind_them() {
        check("fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}", ".tttt.");
        check("#[cfg(test)]\nmod rows;\nfn c() {}", "tt.");
        check("#[cfg(test)]\n#[allow(dead_code)]\nfn f(x: [u8; 4]) {\n}\nfn c() {}", "tttt.");
        check("#[cfg(all(test, unix))]\nuse a::{b, c};\nfn c() {}", "tt.");
        check("#[cfg(not(test))]\nfn c() {}", "..");
        check("#[cfg(test)]", "t");
    }

    #[test]
    fn names_the_declared_modules_only() {
        let declared = |text: &str| find(text, text).1;
        let rows = |path: Option<&str>| vec![Declared { name: "rows".into(), path: path.map(str::to_owned) }];
        assert_eq!(declared("#[cfg(test)]\n#[rustfmt::skip]\npub(crate) mod rows;\n"), rows(None));
        assert_eq!(declared("#[cfg(test)]\n#[path = \"x_rows.rs\"]\nmod rows;\n"), rows(Some("x_rows.rs")));
        assert_eq!(declared("#[cfg(test)]\nmod tests { fn f() {} }\nmod core;\n"), []);
    }
}
