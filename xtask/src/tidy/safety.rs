//! Every `unsafe` says on what it leans.

use super::violation::Violation;
use crate::source::{Source, find_word};

/// How far above a block its reason may stand, so that one reason can cover a short run of lines.
const LINES_ABOVE: usize = 3;

/// What the word `unsafe` begins.
#[derive(Debug, PartialEq)]
enum Form {
    Block,
    Impl,
    Trait,
    Function,
    /// A function pointer type, an extern block, an attribute: nothing to justify here.
    Other,
}

pub(super) fn check(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    let has_contract = in_trait_impl(&source.code);
    for (i, line) in source.code.iter().enumerate() {
        for at in find_word(line, "unsafe") {
            let rest = std::iter::once(&line[at + "unsafe".len()..])
                .chain(source.code[i + 1..].iter().take(2).map(String::as_str))
                .collect::<Vec<_>>()
                .join(" ");
            let form = form(&rest);
            let inherited = form == Form::Function && has_contract[i];
            if !inherited && let Some((message, mend)) = complaint(source, i, &form) {
                let (path, message) = (source.path.clone(), message.to_owned());
                found.push(Violation { path, line: i + 1, rule: "safety", message, mend });
            }
        }
    }
    found
}

fn complaint(source: &Source, line: usize, form: &Form) -> Option<(&'static str, &'static str)> {
    let reason = || {
        let near = line.saturating_sub(LINES_ABOVE)..=line;
        near.clone().any(|i| source.comments[i].contains("SAFETY:")) || documented(source, line, "SAFETY:")
    };
    let contract = || documented(source, line, "# Safety") || reason();
    match form {
        Form::Block if !reason() => Some((
            "an `unsafe` block without a reason",
            "put `// SAFETY:` and the check it leans on above it",
        )),
        Form::Impl if !reason() => {
            Some(("an `unsafe impl` without a reason", "put `// SAFETY:` and why it holds above it"))
        }
        Form::Function | Form::Trait if !contract() => {
            Some(("an `unsafe` item without its contract", "add a `# Safety` section to its documentation"))
        }
        _ => None,
    }
}

/// `rest` is the code behind the word.
fn form(rest: &str) -> Form {
    let rest = rest.trim_start();
    let starts = |word: &str| find_word(rest, word).first() == Some(&0);
    if rest.starts_with('{') {
        Form::Block
    } else if starts("impl") {
        Form::Impl
    } else if starts("trait") || starts("auto") {
        Form::Trait
    } else if starts("fn") || starts("extern") {
        let name = find_word(rest, "fn").first().map_or("", |at| rest[at + "fn".len()..].trim_start());
        let named = name.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '$');
        if named { Form::Function } else { Form::Other }
    } else {
        Form::Other
    }
}

/// For each line whether it stands in an `impl Trait for Type`, whose functions inherit the trait's contract.
fn in_trait_impl(code: &[String]) -> Vec<bool> {
    let mut inside = vec![false; code.len()];
    for start in 0..code.len() {
        let line = code[start].trim_start();
        let line = line.strip_prefix("unsafe ").unwrap_or(line);
        if find_word(line, "impl").first() != Some(&0) {
            continue;
        }
        let text = code[start..].join("\n");
        let (header, body) = text.split_once('{').unwrap_or((&text, ""));
        let of_trait = find_word(header, "for").iter().any(|at| !header[at + "for".len()..].starts_with('<'));
        if of_trait {
            let mut depth = 1_i32;
            let closes = |byte: u8| {
                depth += i32::from(byte == b'{') - i32::from(byte == b'}');
                depth == 0
            };
            let len = body.bytes().position(closes).unwrap_or(body.len());
            let lines = header.matches('\n').count() + body[..len].matches('\n').count();
            inside[start..=start + lines].fill(true);
        }
    }
    inside
}

/// Whether the unbroken run of comments and attributes above `line` has `mark`.
fn documented(source: &Source, line: usize, mark: &str) -> bool {
    let mut in_attribute = false;
    for i in (0..line).rev() {
        if source.comments[i].contains(mark) {
            return true;
        }
        let code = source.code[i].trim();
        let comment = !source.comments[i].trim().is_empty() && code.is_empty();
        // Read upwards, an attribute of several lines begins with its closing bracket.
        in_attribute |= code.ends_with(']');
        let attribute = in_attribute || code.starts_with("#[");
        in_attribute &= !code.starts_with("#[");
        if !comment && !attribute {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::violation::expect;
    use super::*;

    #[track_caller]
    fn good(text: &str) {
        expect(check(&Source::new("crates/kernels/src/a.rs", text)), &[]);
    }

    #[track_caller]
    fn bad(line: usize, text: &str) {
        expect(check(&Source::new("crates/kernels/src/a.rs", text)), &[(line, "safety")]);
    }

    #[test]
    fn forms() {
        for (rest, expected) in [
            (" { f() }", Form::Block),
            ("", Form::Other),
            (" impl Send for X {}", Form::Impl),
            (" impl<T> Send for X<T> {}", Form::Impl),
            (" fn f(x: u8) {", Form::Function),
            (" fn(*const u8)", Form::Other),
            (" extern \" \" fn f() {", Form::Function),
            (" extern \" \" {", Form::Other),
            (" extern \" \" fn(u8)", Form::Other),
            (" fn $name(x: u8)", Form::Function),
            (" trait T {", Form::Trait),
            ("(no_mangle)]", Form::Other),
        ] {
            assert_eq!(form(rest), expected, "{rest}");
        }
    }

    #[test]
    fn blocks() {
        good("// SAFETY: checked above\nunsafe { f() }");
        good("let x = unsafe { f() }; // SAFETY: checked above");
        good("// SAFETY: a\nlet a = 1;\nlet b =\n    unsafe { f() };");
        good("// SAFETY: long,\n// goes on\n// and on\n// and on\n// and ends.\nunsafe { f() }");
        bad(1, "unsafe { f() }");
        bad(2, "// safe, believe me\nunsafe { f() }");
        bad(5, "// SAFETY: a\nlet a = 1;\nlet b = 1;\nlet c = 1;\nunsafe { f() }");
        bad(2, "let s = \"SAFETY: no\";\nunsafe\n{ f() }");
    }

    #[test]
    fn impls() {
        good("// SAFETY: no interior\nunsafe impl Send for X {}");
        bad(1, "unsafe impl Send for X {}");
    }

    #[test]
    fn functions_and_traits() {
        good(
            "/// Adds.\n///\n/// # Safety\n/// AVX2.\n#[target_feature(enable = \"avx2\")]\npub unsafe fn f() {}",
        );
        good("// SAFETY: callers have AVX2\nunsafe fn f() {}");
        good("/// # Safety\n/// AVX2.\n#[cfg(any(\n    unix,\n    windows\n))]\nunsafe fn f() {}");
        good("impl T for X {\n    unsafe fn f() {}\n}");
        bad(4, "impl T for X {\n    unsafe fn f() {}\n}\nunsafe fn g() {}");
        bad(3, "impl<F> X<F>\nwhere F: for<'a> Fn(&'a u8) {\n    unsafe fn f() {}\n}");
        good("type F = unsafe fn(*const u8);");
        bad(2, "/// Adds.\npub unsafe fn f() {}");
        bad(4, "/// # Safety\n/// Belongs to g.\nfn g() {}\nunsafe fn f() {}");
        good("/// # Safety\n/// a\nunsafe trait T {}");
        bad(1, "unsafe trait T {}");
    }
}
