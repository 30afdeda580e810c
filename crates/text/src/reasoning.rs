//! Separates a model's reasoning from its answer while the text streams.
//!
//! Reasoning models write `<think> … </think>` and then the answer. One block at the very start counts
//! (up to 64 bytes of white space before it are dropped); any tag later is part of the answer. Where the chat template has
//! already written `<think>` into the prompt, the text begins inside the block. The two newlines that
//! DeepSeek models write after `</think>` belong to neither and are dropped: exactly one `"\n\n"`, any
//! other white space stays. Text without a block passes untouched, and nothing is held back but what may
//! still become a tag.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
const GAP: &str = "\n\n";
/// The most white space before `<think>`, in bytes; bounds what is held back.
const MAX_LEAD: usize = 64;

/// A stretch of streamed text. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What the model thinks before it answers.
    Reasoning(String),
    /// The answer.
    Content(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space and perhaps a part of `<think>` has been seen.
    Start,
    /// Between the tags.
    Reasoning,
    /// After `</think>`: nothing but a part of the gap has been seen.
    Gap,
    /// The rest is the answer.
    Content,
}

/// Splits streamed text into [`Piece`]s.
#[derive(Clone, Debug)]
pub struct ReasoningSplitter {
    state: State,
    /// Text that may still become a tag or the gap.
    held: String,
}

impl ReasoningSplitter {
    /// `starts_in_reasoning`: the prompt ended with `<think>`.
    pub fn new(starts_in_reasoning: bool) -> Self {
        let state = if starts_in_reasoning { State::Reasoning } else { State::Start };
        Self { state, held: String::new() }
    }

    /// Takes the next text and returns what is now certain, in order.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.held.push_str(text);
        while self.step(&mut pieces) {}
        pieces
    }

    /// The text is over: returns what was held back.
    pub fn finish(self) -> Vec<Piece> {
        let piece = match self.state {
            State::Reasoning => Piece::Reasoning,
            State::Start | State::Gap | State::Content => Piece::Content,
        };
        if self.held.is_empty() { Vec::new() } else { vec![piece(self.held)] }
    }

    /// Moves by one state; `false` once no more can be said without further text.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Start => {
                let tail = self.held.trim_start();
                if self.held.len() - tail.len() > MAX_LEAD {
                    self.go(State::Content, self.held.len())
                } else if let Some(rest) = tail.strip_prefix(OPEN) {
                    self.go(State::Reasoning, rest.len())
                } else if OPEN.starts_with(tail) {
                    false
                } else {
                    self.go(State::Content, self.held.len())
                }
            }
            State::Reasoning => {
                if let Some(at) = self.held.find(CLOSE) {
                    emit(pieces, Piece::Reasoning, &self.held[..at]);
                    self.go(State::Gap, self.held.len() - at - CLOSE.len())
                } else {
                    let certain = self.held.len() - partial_tag(&self.held, CLOSE);
                    emit(pieces, Piece::Reasoning, &self.held[..certain]);
                    self.held.drain(..certain);
                    false
                }
            }
            State::Gap => {
                if let Some(rest) = self.held.strip_prefix(GAP) {
                    self.go(State::Content, rest.len())
                } else if GAP.starts_with(&self.held) {
                    false
                } else {
                    self.go(State::Content, self.held.len())
                }
            }
            State::Content => {
                emit(pieces, Piece::Content, &self.held);
                self.held.clear();
                false
            }
        }
    }

    /// Enters `state` with the last `keep` bytes of the held text.
    fn go(&mut self, state: State, keep: usize) -> bool {
        self.held.drain(..self.held.len() - keep);
        self.state = state;
        true
    }
}

fn emit(pieces: &mut Vec<Piece>, piece: fn(String) -> Piece, text: &str) {
    if !text.is_empty() {
        pieces.push(piece(text.to_owned()));
    }
}

/// The length of the longest end of `text` that is a beginning of `tag`.
fn partial_tag(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reasoning and content of `pieces` pushed one after another.
    fn split(starts_in_reasoning: bool, pushes: &[&str]) -> (String, String) {
        let mut splitter = ReasoningSplitter::new(starts_in_reasoning);
        let mut pieces: Vec<Piece> = pushes.iter().flat_map(|text| splitter.push(text)).collect();
        pieces.extend(splitter.finish());
        let (mut reasoning, mut content) = (String::new(), String::new());
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => {
                    assert!(!text.is_empty() && content.is_empty(), "reasoning comes first");
                    reasoning.push_str(&text);
                }
                Piece::Content(text) => {
                    assert!(!text.is_empty());
                    content.push_str(&text);
                }
            }
        }
        (reasoning, content)
    }

    #[track_caller]
    fn check(starts_in_reasoning: bool, text: &str, reasoning: &str, content: &str) {
        let want = (reasoning.to_owned(), content.to_owned());
        assert_eq!(split(starts_in_reasoning, &[text]), want, "in one");
        let chars: Vec<String> = text.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        assert_eq!(split(starts_in_reasoning, &chars), want, "char by char");
    }

    #[test]
    fn blocks() {
        check(false, "<think>why</think>\n\nbecause", "why", "because");
        check(false, "<think>\nwhy\n</think>\n\nbecause", "\nwhy\n", "because");
        check(false, "\n <think>why</think>because", "why", "because");
        check(false, "<think></think>\n\nbecause", "", "because");
        check(false, "<think>cut off", "cut off", "");
        check(false, "<think>cut off</thi", "cut off</thi", "");
        check(false, "<think>a<think>b</think>c", "a<think>b", "c");
        check(false, "<think>a</</think>c", "a</", "c");
        check(true, "why</think>\n\nbecause", "why", "because");
        check(true, "<think>why</think>because", "<think>why", "because");
    }

    #[test]
    fn only_one_pair_of_newlines_after_the_block_is_dropped() {
        check(true, "a</think>\n\n\n\nb", "a", "\n\nb");
        check(true, "a</think>\nb", "a", "\nb");
        check(true, "a</think>\n", "a", "\n");
        check(true, "a</think> \n\nb", "a", " \n\nb");
        check(true, "a</think>\n\n", "a", "");
    }

    #[test]
    fn text_without_a_block_passes_untouched() {
        for text in
            ["", "plain", " \n plain", "a <think>b</think> c", "</think>a", "<thin", "<thinker>", "é<"]
        {
            check(false, text, "", text);
        }
        let far = format!("{:65}<think>a</think>", "");
        check(false, &far, "", &far);
    }

    #[test]
    fn nothing_is_delayed_but_a_possible_tag() {
        let content = |text: &str| vec![Piece::Content(text.into())];
        let mut splitter = ReasoningSplitter::new(false);
        assert_eq!(splitter.push("<thi"), []);
        assert_eq!(splitter.push("s"), content("<this"));
        assert_eq!(splitter.push("<think>"), content("<think>"));
        let mut splitter = ReasoningSplitter::new(true);
        assert_eq!(splitter.push("a<b</th"), [Piece::Reasoning("a<b".into())]);
        assert_eq!(splitter.push("ey"), [Piece::Reasoning("</they".into())]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_pieces(
            parts in prop::collection::vec(
                prop::sample::select(vec!["<think>", "</think>", "\n\n", "\n", " ", "<", "</", "think>", "a", "é"]),
                0..12,
            ),
            starts_in_reasoning: bool,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text: String = parts.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.retain(|&cut| text.is_char_boundary(cut));
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(split(starts_in_reasoning, &chunks), split(starts_in_reasoning, &[&text]));
        }
    }
}
