//! What an answer says: reasoning, content and tool calls, told apart while the text streams.

use fathom_engine::{TokenLogprobs, Update};
use fathom_text::{Piece, ReasoningSplitter, ToolCallFormat, ToolCallParser, ToolPiece};

/// A stretch of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delta {
    Reasoning(String),
    Content(String),
    CallStart { index: usize, name: String },
    Arguments { index: usize, delta: String },
}

/// How to read an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Text before `</think>` is reasoning: `Some(true)` if the prompt has opened it. `None`: the text is not split.
    pub(crate) reasoning: Option<bool>,
    /// The markup of tool calls, where tools were offered.
    pub(crate) tools: Option<ToolCallFormat>,
    /// Only the first call counts (`parallel_tool_calls: false`).
    pub(crate) one_call: bool,
}

/// One answer while it is written.
#[derive(Debug)]
pub(crate) struct Answer {
    splitter: Option<ReasoningSplitter>,
    parser: Option<ToolCallParser>,
    one_call: bool,
    in_reasoning: bool,
    /// Tokens whose text has not come out yet.
    pending: Vec<TokenLogprobs>,
    pub(crate) calls: usize,
    pub(crate) reasoning_tokens: usize,
}

/// What became certain: pieces, and the tokens that they are made of.
#[derive(Debug, Default)]
pub(crate) struct Certain {
    pub(crate) deltas: Vec<Delta>,
    pub(crate) tokens: Vec<TokenLogprobs>,
    /// The tokens belong to the reasoning.
    pub(crate) reasoning: bool,
}

impl Answer {
    pub(crate) fn new(reading: Reading) -> Self {
        Self {
            splitter: reading.reasoning.map(ReasoningSplitter::new),
            parser: reading.tools.map(ToolCallParser::new),
            one_call: reading.one_call,
            in_reasoning: reading.reasoning == Some(true),
            pending: Vec::new(),
            calls: 0,
            reasoning_tokens: 0,
        }
    }

    /// Takes an update of the engine.
    pub(crate) fn hear(&mut self, update: Update) -> Certain {
        match update {
            Update::Started { .. } => Certain::default(),
            Update::Token { token, text } => {
                self.pending.push(token);
                let deltas = self.push(&text);
                self.certain(deltas, false)
            }
            Update::Finished(finished) => {
                let mut deltas = self.push(&finished.text);
                if let Some(splitter) = self.splitter.take() {
                    let pieces = splitter.finish();
                    self.split(pieces, &mut deltas);
                }
                if let Some(parser) = self.parser.take() {
                    self.parsed(parser.finish(), &mut deltas);
                }
                self.certain(deltas, true)
            }
        }
    }

    fn certain(&mut self, deltas: Vec<Delta>, last: bool) -> Certain {
        if deltas.is_empty() && !last {
            return Certain::default();
        }
        let reasoning = match deltas.first() {
            Some(first) => matches!(first, Delta::Reasoning(_)),
            None => self.in_reasoning,
        };
        let tokens = std::mem::take(&mut self.pending);
        if reasoning {
            self.reasoning_tokens += tokens.len();
        }
        Certain { deltas, tokens, reasoning }
    }

    fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if text.is_empty() {
            return deltas;
        }
        match &mut self.splitter {
            Some(splitter) => {
                let pieces = splitter.push(text);
                self.split(pieces, &mut deltas);
            }
            None => self.content(text.to_owned(), &mut deltas),
        }
        deltas
    }

    fn split(&mut self, pieces: Vec<Piece>, deltas: &mut Vec<Delta>) {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => {
                    self.in_reasoning = true;
                    deltas.push(Delta::Reasoning(text));
                }
                Piece::Content(text) => {
                    self.in_reasoning = false;
                    self.content(text, deltas);
                }
            }
        }
    }

    fn content(&mut self, text: String, deltas: &mut Vec<Delta>) {
        match &mut self.parser {
            Some(parser) => {
                let pieces = parser.push(&text);
                self.parsed(pieces, deltas);
            }
            None => deltas.push(Delta::Content(text)),
        }
    }

    fn parsed(&mut self, pieces: Vec<ToolPiece>, deltas: &mut Vec<Delta>) {
        for piece in pieces {
            match piece {
                ToolPiece::Content(text) => deltas.push(Delta::Content(text)),
                ToolPiece::CallStart { index, .. } | ToolPiece::Arguments { index, .. }
                    if self.one_call && index > 0 => {}
                ToolPiece::CallStart { index, name } => {
                    self.calls = self.calls.max(index + 1);
                    deltas.push(Delta::CallStart { index, name });
                }
                ToolPiece::Arguments { index, delta } => deltas.push(Delta::Arguments { index, delta }),
            }
        }
    }
}

/// A call of a tool, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// An answer, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) reasoning: String,
    pub(crate) content: String,
    pub(crate) calls: Vec<Call>,
}

impl Whole {
    pub(crate) fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Reasoning(text) => self.reasoning.push_str(&text),
            Delta::Content(text) => self.content.push_str(&text),
            Delta::CallStart { name, .. } => self.calls.push(Call { name, arguments: String::new() }),
            Delta::Arguments { index, delta } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments.push_str(&delta);
                }
            }
        }
    }
}
