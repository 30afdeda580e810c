//! Takes tool calls out of an answer while it streams.
//!
//! Two machines, one above the other, both fed character by character, so that it makes no difference where the
//! stream is cut. The lower one knows the markup: it holds back what may still become a marker (less than thirty
//! bytes) and yields text and markers. The upper one knows in which part of a call the text stands.
//!
//! Models make mistakes, so every order of markers is allowed. A call's end may be missing, the markers around
//! all calls too; a beginning without a usable name is text; markers themselves never are.

use super::{
    CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, OUTPUT_BEGIN, OUTPUT_END, OUTPUTS_BEGIN, OUTPUTS_END, SEP,
    ToolCallFormat, is_name,
};

const FENCE: &str = "```";
/// What every marker begins with. A text may end with less than this and mean it.
const UNMISTAKABLE: &str = "<｜tool▁";
/// A beginning of a call that is longer than this is none.
const HEADER_MAX: usize = 256;

/// A stretch of an answer. The indices of calls count from 0 without gaps; texts are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolPiece {
    /// Text outside of calls.
    Content(String),
    /// A call begins.
    CallStart {
        /// Which call of the answer.
        index: usize,
        /// The tool.
        name: String,
    },
    /// The arguments go on: JSON, if the model keeps to it.
    Arguments {
        /// The call they belong to, always the one begun last.
        index: usize,
        /// The next text of the arguments.
        delta: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    CallBegin,
    CallEnd,
    CallsBegin,
    CallsEnd,
    Sep,
    /// Of a result.
    Foreign,
}

const MARKERS: [(&str, Marker); 9] = [
    (CALL_BEGIN, Marker::CallBegin),
    (CALL_END, Marker::CallEnd),
    (CALLS_BEGIN, Marker::CallsBegin),
    (CALLS_END, Marker::CallsEnd),
    (SEP, Marker::Sep),
    (OUTPUTS_BEGIN, Marker::Foreign),
    (OUTPUTS_END, Marker::Foreign),
    (OUTPUT_BEGIN, Marker::Foreign),
    (OUTPUT_END, Marker::Foreign),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Outside of all calls.
    Content,
    /// Between two calls; `blank`: only white space since the last marker, which is dropped.
    Between { blank: bool },
    /// After a call's beginning: V3's type, V3.1's name.
    Header(String),
    /// V3, after the separator: the name, up to the end of the line.
    Name(String),
    /// V3, after the name: white space, perhaps a fence, of which this much has come.
    Fence(String),
    /// V3, behind the fence: the language, up to the end of the line.
    FenceLanguage,
    /// The arguments. `tail`: white space and backticks that belong to them only if something follows.
    Arguments { tail: String, begun: bool, fenced: bool },
}

/// Splits the text of an answer into [`ToolPiece`]s.
#[derive(Clone, Debug)]
pub struct ToolCallParser {
    format: ToolCallFormat,
    state: State,
    /// The beginning of a marker.
    held: String,
    /// How many calls have begun.
    calls: usize,
    pieces: Vec<ToolPiece>,
}

impl ToolCallParser {
    /// Starts an answer.
    pub fn new(format: ToolCallFormat) -> Self {
        Self { format, state: State::Content, held: String::new(), calls: 0, pieces: Vec::new() }
    }

    /// Takes the next text and returns what is now certain, in order.
    pub fn push(&mut self, text: &str) -> Vec<ToolPiece> {
        for c in text.chars() {
            self.held.push(c);
            if let Some(&(_, marker)) = MARKERS.iter().find(|(marker, _)| *marker == self.held) {
                self.held.clear();
                self.marker(marker);
            } else if !MARKERS.iter().any(|(marker, _)| marker.starts_with(self.held.as_str())) {
                // A marker has `<` at its beginning only: if another can begin in here, then with `c`.
                self.held.pop();
                let certain = std::mem::take(&mut self.held);
                certain.chars().for_each(|c| self.text(c));
                if c == '<' { self.held.push(c) } else { self.text(c) }
            }
        }
        std::mem::take(&mut self.pieces)
    }

    /// The answer is over: returns what was held back. A call that did not end keeps what it has.
    pub fn finish(mut self) -> Vec<ToolPiece> {
        if !self.held.starts_with(UNMISTAKABLE) {
            let certain = std::mem::take(&mut self.held);
            certain.chars().for_each(|c| self.text(c));
        }
        match std::mem::replace(&mut self.state, State::Content) {
            State::Header(text) | State::Name(text) => self.content(&text),
            _ => {}
        }
        self.pieces
    }

    fn text(&mut self, c: char) {
        match &mut self.state {
            State::Content => self.content(c.encode_utf8(&mut [0; 4])),
            State::Between { blank: true } if c.is_whitespace() => {}
            State::Between { blank } => {
                *blank = false;
                self.content(c.encode_utf8(&mut [0; 4]));
            }
            State::Name(name) if c == '\n' => {
                let name = std::mem::take(name);
                self.start_call(&name, State::Fence(String::new()));
            }
            State::Header(text) | State::Name(text) => {
                text.push(c);
                if text.len() > HEADER_MAX {
                    let text = std::mem::take(text);
                    self.give_up(&text);
                }
            }
            State::Fence(fence) => {
                if c == '`' {
                    fence.push(c);
                    if fence == FENCE {
                        self.state = State::FenceLanguage;
                    }
                } else if !(c.is_whitespace() && fence.is_empty()) {
                    let begun = std::mem::take(fence);
                    self.state = arguments(false);
                    begun.chars().chain([c]).for_each(|c| self.text(c));
                }
            }
            State::FenceLanguage => {
                if c == '\n' {
                    self.state = arguments(true);
                } else if !c.is_alphanumeric() && !c.is_whitespace() {
                    self.state = arguments(true);
                    self.text(c);
                }
            }
            State::Arguments { tail, begun, fenced } => {
                if c.is_whitespace() || (*fenced && c == '`') {
                    if *begun || c == '`' {
                        tail.push(c);
                    }
                } else {
                    let mut delta = std::mem::take(tail);
                    delta.push(c);
                    *begun = true;
                    self.argument_text(&delta);
                }
            }
        }
    }

    fn marker(&mut self, marker: Marker) {
        match (&mut self.state, marker) {
            (State::Header(text), Marker::Sep) => {
                let text = std::mem::take(text);
                match self.format {
                    ToolCallFormat::V3 => self.state = State::Name(String::new()),
                    ToolCallFormat::V31 => self.start_call(&text, arguments(false)),
                }
                return;
            }
            // A call without arguments.
            (State::Header(text), Marker::CallEnd)
                if self.format == ToolCallFormat::V31 && is_name(text.trim()) =>
            {
                let text = std::mem::take(text);
                self.start_call(&text, arguments(false));
            }
            (State::Name(text), Marker::CallEnd) if is_name(text.trim()) => {
                let text = std::mem::take(text);
                self.start_call(&text, arguments(false));
            }
            (State::Header(text) | State::Name(text), _) => {
                let text = std::mem::take(text);
                self.give_up(&text);
            }
            _ => {}
        }
        let in_call = matches!(self.state, State::Fence(_) | State::FenceLanguage | State::Arguments { .. });
        if in_call && matches!(marker, Marker::Sep | Marker::Foreign) {
            return;
        }
        if in_call && !matches!(self.state, State::Arguments { begun: true, .. }) {
            self.argument_text("{}");
        }
        self.state = match marker {
            Marker::CallBegin => State::Header(String::new()),
            Marker::CallEnd | Marker::CallsBegin => State::Between { blank: true },
            Marker::CallsEnd => State::Content,
            Marker::Sep | Marker::Foreign => return,
        };
    }

    /// A call begins, if `name` can be one; else it was text.
    fn start_call(&mut self, name: &str, next: State) {
        if !is_name(name.trim()) {
            return self.give_up(name);
        }
        self.pieces.push(ToolPiece::CallStart { index: self.calls, name: name.trim().to_owned() });
        self.calls += 1;
        self.state = next;
    }

    /// What looked like the beginning of a call is text.
    fn give_up(&mut self, text: &str) {
        self.state = State::Between { blank: false };
        self.content(text);
    }

    fn content(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(ToolPiece::Content(last)) => last.push_str(text),
            _ => self.pieces.push(ToolPiece::Content(text.to_owned())),
        }
    }

    fn argument_text(&mut self, text: &str) {
        let index = self.calls.saturating_sub(1);
        match self.pieces.last_mut() {
            Some(ToolPiece::Arguments { delta, .. }) => delta.push_str(text),
            _ => self.pieces.push(ToolPiece::Arguments { index, delta: text.to_owned() }),
        }
    }
}

fn arguments(fenced: bool) -> State {
    State::Arguments { tail: String::new(), begun: false, fenced }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
