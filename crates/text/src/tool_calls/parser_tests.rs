//! Calls in good order, in bad order, and cut anywhere.

use proptest::prelude::*;

use super::*;

use ToolCallFormat::{V3, V31};

/// Pieces of pushes one after another; neighbours of one kind joined, as a reader would.
fn parse(format: ToolCallFormat, pushes: &[&str]) -> Vec<ToolPiece> {
    let mut parser = ToolCallParser::new(format);
    let mut pieces: Vec<ToolPiece> = pushes.iter().flat_map(|text| parser.push(text)).collect();
    pieces.extend(parser.finish());
    let mut joined: Vec<ToolPiece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(ToolPiece::Content(last)), ToolPiece::Content(text)) => last.push_str(&text),
            (Some(ToolPiece::Arguments { delta: last, .. }), ToolPiece::Arguments { delta, .. }) => {
                last.push_str(&delta);
            }
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

/// Short for markers: `[[` and `]]` around all calls, `[` and `]` around one, `|` for the separator.
fn markup(short: &str) -> String {
    let long = short.replace("]]]", "]\u{2}").replace("]]", "\u{2}").replace("[[", "\u{1}");
    let long = long.replace('[', CALL_BEGIN).replace(']', CALL_END).replace('|', SEP);
    long.replace('\u{1}', CALLS_BEGIN).replace('\u{2}', CALLS_END)
}

/// Content as it is, calls as `name(arguments)`.
#[track_caller]
fn check(format: ToolCallFormat, short: &str, want: &[&str]) {
    let text = markup(short);
    let chars: Vec<String> = text.chars().map(String::from).collect();
    let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
    for pushes in [&[text.as_str()][..], &chars] {
        let mut shown: Vec<String> = Vec::new();
        for piece in parse(format, pushes) {
            match piece {
                ToolPiece::Content(text) => shown.push(text),
                ToolPiece::CallStart { name, .. } => shown.push(format!("{name}:")),
                ToolPiece::Arguments { delta, .. } => shown.last_mut().unwrap().push_str(&delta),
            }
        }
        assert_eq!(shown, want, "{short}");
    }
}

#[test]
fn calls_of_v3() {
    let call = "[function|a\n```json\n{\"x\": 1}\n```]";
    check(V3, &format!("[[{call}]]"), &["a:{\"x\": 1}"]);
    check(V3, &format!("Let me see.[[{call}\n{call}]]"), &["Let me see.", "a:{\"x\": 1}", "a:{\"x\": 1}"]);
    check(V3, "[[[function|a\n```json\n{\"x\": \"```\\n` é\"}\n```]]]", &["a:{\"x\": \"```\\n` é\"}"]);
    check(V3, "[[[function|a\n{\"x\": 1}]]]", &["a:{\"x\": 1}"]);
    check(V3, "[[[function|a\n```json{\"x\": 1}```]]]", &["a:{\"x\": 1}"]);
    check(V3, "[[[function|a\n```\n\n{\n \"x\": 1\n}\n\n```\n]]]", &["a:{\n \"x\": 1\n}"]);
    check(V3, "[[[function|a\n```json\n```]]]", &["a:{}"]);
    check(V3, "[[[function|a]]]", &["a:{}"]);
}

#[test]
fn calls_of_v31() {
    check(V31, "[[[a|{\"x\": 1}][b|{}]]]", &["a:{\"x\": 1}", "b:{}"]);
    check(V31, "[[[a| {\"x\": 1} \n]\n[b|]]]", &["a:{\"x\": 1}", "b:{}"]);
    check(V31, "[[[get_time]]]", &["get_time:{}"]);
}

#[test]
fn text_passes_untouched() {
    for text in
        ["", "plain", " a <b> ｜ <｜ < ```json\n{}\n```\n", "<｜tool", "<｜tool is", "<｜User｜>", "<<｜"]
    {
        let want: &[&str] = if text.is_empty() { &[] } else { &[text] };
        check(V3, text, want);
        check(V31, text, want);
    }
}

#[test]
fn malformed_markup_is_text_or_a_call_but_never_visible() {
    check(V31, "[a|{}", &["a:{}"]);
    check(V31, "a[[b]]c", &["abc"]);
    check(V31, "a]b|c]]d", &["abcd"]);
    check(V31, "[a[b|1]", &["a", "b:1"]);
    check(V31, "[a b|{}]", &["a b{}"]);
    check(V31, "[[[a|{\"x\": \"cut", &["a:{\"x\": \"cut"]);
    check(V31, "[[[cut", &["cut"]);
    check(V31, "[[[a|1|2]]]", &["a:12"]);
    check(V31, "[[[a|1[b|2]]]after", &["a:1", "b:2", "after"]);
    check(V3, "[[[function|cut", &["cut"]);
    check(V3, "[[[function|a\n``", &["a:"]);
    check(V3, "[[[function|a\n```js", &["a:"]);
    check(V3, "[[[function|a\n```json\n{\"x\": \"`", &["a:{\"x\": \""]);
    check(V3, "[[[function]]]", &["function"]);
    let long = "x".repeat(1000);
    check(V31, &format!("[{long}|{{}}]"), &[&format!("{long}{{}}")]);
    let cut: String = CALLS_BEGIN.chars().take(9).collect();
    check(V31, &format!("a{cut}"), &["a"]);
}

#[test]
fn nothing_is_delayed_but_a_possible_marker() {
    let content = |text: &str| vec![ToolPiece::Content(text.into())];
    let mut parser = ToolCallParser::new(V31);
    assert_eq!(parser.push("a <"), content("a "));
    assert_eq!(parser.push("b"), content("<b"));
    assert_eq!(parser.push(&format!("{CALL_BEGIN}f")), []);
    assert_eq!(parser.push(SEP), [ToolPiece::CallStart { index: 0, name: "f".into() }]);
    assert_eq!(parser.push("{\"a"), [ToolPiece::Arguments { index: 0, delta: "{\"a".into() }]);
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_pieces(
        v3: bool,
        parts in prop::collection::vec(
            prop::sample::select(vec![
                CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEP, OUTPUT_BEGIN, "function", "name", "\n", "```json\n",
                "\n```", "`", "{\"x\": 1}", " ", "<", "<｜tool▁", "｜>", "é", "two words",
            ]),
            0..14,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let format = if v3 { V3 } else { V31 };
        let text: String = parts.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.retain(|&cut| text.is_char_boundary(cut));
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        let pieces = parse(format, &chunks);
        prop_assert_eq!(&pieces, &parse(format, &[&text]));
        let mut calls = 0;
        for piece in &pieces {
            let shown = match piece {
                ToolPiece::Content(text) => text,
                ToolPiece::CallStart { index, name } => {
                    prop_assert_eq!(*index, calls);
                    calls += 1;
                    name
                }
                ToolPiece::Arguments { index, delta } => {
                    prop_assert_eq!(index + 1, calls);
                    delta
                }
            };
            prop_assert!(!shown.is_empty());
            prop_assert!(MARKERS.iter().all(|(marker, _)| !shown.contains(marker)), "{}", shown);
        }
    }
}
