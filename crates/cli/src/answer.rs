//! An answer while it is written: reasoning apart, text to the screen.

use std::io::{self, IsTerminal, Write, stderr, stdout};

use fathom_text::{Piece, ReasoningSplitter};

use crate::terminal::{Dim, without_controls};

/// Collects the text of one answer and, if it is to be shown, shows it.
///
/// The answer goes to stdout. Reasoning stands dimmed before it on a terminal; elsewhere it goes to stderr, so that
/// what is piped on is the answer alone.
pub(crate) struct Answer {
    splitter: Option<ReasoningSplitter>,
    show: bool,
    dim: Dim,
    pub(crate) content: String,
    pub(crate) reasoning: String,
}

impl Answer {
    /// `splitter` is `None` for text that is taken as it comes.
    pub(crate) fn new(splitter: Option<ReasoningSplitter>, show: bool) -> Self {
        let dim = Dim::for_stream(&stdout());
        Self { splitter, show, dim, content: String::new(), reasoning: String::new() }
    }

    /// Takes the next text.
    pub(crate) fn push(&mut self, text: &str) -> io::Result<()> {
        let pieces = match &mut self.splitter {
            Some(splitter) => splitter.push(text),
            None => vec![Piece::Content(text.to_owned())],
        };
        self.take(pieces)
    }

    /// The text is over.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let pieces = self.splitter.take().map_or_else(Vec::new, ReasoningSplitter::finish);
        self.take(pieces)?;
        if self.show {
            stdout().write_all(b"\n")?;
            stdout().flush()?;
        }
        Ok(())
    }

    fn take(&mut self, pieces: Vec<Piece>) -> io::Result<()> {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => {
                    if self.show {
                        self.show_reasoning(&text)?;
                    }
                    self.reasoning.push_str(&text);
                }
                Piece::Content(text) => {
                    if self.show {
                        self.show_content(&text)?;
                    }
                    self.content.push_str(&text);
                }
            }
        }
        Ok(())
    }

    fn show_reasoning(&self, text: &str) -> io::Result<()> {
        if stdout().is_terminal() {
            let mut out = stdout().lock();
            write!(out, "{}{}{}", self.dim.on, without_controls(text), self.dim.off)?;
            out.flush()
        } else {
            stderr().write_all(text.as_bytes())
        }
    }

    fn show_content(&self, text: &str) -> io::Result<()> {
        let mut out = stdout().lock();
        if self.content.is_empty() && !self.reasoning.is_empty() {
            let between: &mut dyn Write = if out.is_terminal() { &mut out } else { &mut stderr() };
            between.write_all(b"\n\n")?;
        }
        let text = if out.is_terminal() { without_controls(text) } else { text.into() };
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}
