//! Splits Rust text into code and comments of equal length.

/// Code and comments of `text`; each has every newline of `text`, and blanks where the other has something.
/// The insides of strings and character literals are blank in both.
pub(super) fn split(text: &str) -> (String, String) {
    let mut scan = Scan { input: text.as_bytes(), at: 0, code: Vec::new(), comments: Vec::new() };
    while scan.at < scan.input.len() {
        scan.step();
    }
    let own = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (own(scan.code), own(scan.comments))
}

#[derive(Clone, Copy)]
enum Into {
    Code,
    Comment,
    Nowhere,
}

struct Scan<'a> {
    input: &'a [u8],
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
}

impl Scan<'_> {
    fn step(&mut self) {
        let rest = &self.input[self.at..];
        if rest.starts_with(b"//") {
            let len = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
            self.take(len, Into::Comment);
        } else if rest.starts_with(b"/*") {
            self.take(block_comment_len(rest), Into::Comment);
        } else if rest[0] == b'"' {
            self.literal(1, string_len(rest));
        } else if rest[0] == b'\'' {
            let len = char_len(rest);
            self.literal(1, len);
        } else if is_name(rest[0]) {
            let len = rest.iter().position(|&b| !is_name(b)).unwrap_or(rest.len());
            let raw =
                matches!(&rest[..len], b"r" | b"br" | b"cr").then(|| raw_string_len(&rest[len..])).flatten();
            self.take(len, Into::Code);
            if let Some(raw_len) = raw {
                self.take(raw_len, Into::Nowhere);
            }
        } else {
            self.take(1, Into::Code);
        }
    }

    /// Keeps the delimiters as code and drops what stands between them.
    fn literal(&mut self, delimiter: usize, len: usize) {
        if len <= 2 * delimiter {
            return self.take(len, Into::Code);
        }
        self.take(delimiter, Into::Code);
        self.take(len - 2 * delimiter, Into::Nowhere);
        self.take(delimiter, Into::Code);
    }

    fn take(&mut self, len: usize, into: Into) {
        for _ in 0..len.min(self.input.len() - self.at) {
            let byte = self.input[self.at];
            let blank = if byte == b'\n' { b'\n' } else { b' ' };
            self.code.push(if matches!(into, Into::Code) { byte } else { blank });
            self.comments.push(if matches!(into, Into::Comment) { byte } else { blank });
            self.at += 1;
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Rust's block comments nest.
fn block_comment_len(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of what follows the `r` of a raw string, or `None` for a raw name such as `r#type`.
fn raw_string_len(rest: &[u8]) -> Option<usize> {
    let hashes = rest.iter().take_while(|&&b| b == b'#').count();
    if rest.get(hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let body = &rest[hashes + 1..];
    let len = body.windows(end.len()).position(|window| window == end).unwrap_or(body.len());
    Some(hashes + 1 + len + end.len())
}

/// Length of a character literal, or 1 for the tick of a lifetime.
fn char_len(rest: &[u8]) -> usize {
    let Some(&first) = rest.get(1) else { return 1 };
    if first == b'\\' {
        let close = rest.iter().skip(3).position(|&b| b == b'\'');
        return close.map_or(1, |at| at + 4);
    }
    let width = match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    };
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, code: &str, comments: &str) {
        let squeeze = |s: String| s.split_whitespace().collect::<Vec<_>>().join(" ");
        let (got_code, got_comments) = split(text);
        assert_eq!(got_code.len(), got_comments.len());
        assert_eq!(got_code.matches('\n').count(), text.matches('\n').count());
        assert_eq!((squeeze(got_code).as_str(), squeeze(got_comments).as_str()), (code, comments), "{text}");
    }

    #[test]
    fn comments_strings_and_literals() {
        check("a // b", "a", "// b");
        check("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */");
        check("/* open", "", "/* open");
        check(r#"f("unsafe // no", x)"#, "f(\" \", x)", "");
        check(r#"f("a\"b", y)"#, "f(\" \", y)", "");
        check(r##"f(r#"a "quoted" // b"#, y)"##, "f(r , y)", "");
        check("let r#type = br\"x\\\"; y", "let r#type = br ; y", "");
        check("x::<'a>('b', '\\'', '\"', 'é') // c", "x::<'a>(' ', ' ', ' ', ' ')", "// c");
        check("'\\u{1F600}' z", "' ' z", "");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}", "");
    }

    #[test]
    fn lines_stay_where_they_were() {
        let (code, comments) = split("a\n// b\nc \"\n\" d\n");
        assert_eq!(code.split('\n').nth(3), Some("\" d"));
        assert_eq!(comments.split('\n').nth(1), Some("// b"));
    }

    #[test]
    fn any_text_is_split_without_a_panic() {
        for text in ["\"", "'", "'\\", "r#\"", "b'", "/*", "r", "'\u{20ac}", "\"\\"] {
            let (code, _) = split(text);
            assert_eq!(code.len(), text.len(), "{text}");
        }
    }
}
