//! What may be drawn where: colours and progress only for people.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How to write what is less important.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dim {
    pub(crate) on: &'static str,
    pub(crate) off: &'static str,
}

impl Dim {
    const PLAIN: Dim = Dim { on: "", off: "" };

    /// ANSI, if the stream is a terminal that wants it (NO_COLOR, TERM=dumb).
    pub(crate) fn for_stream(stream: &impl IsTerminal) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if stream.is_terminal() && !no_color && !dumb {
            Dim { on: "\x1b[2m", off: "\x1b[22m" }
        } else {
            Self::PLAIN
        }
    }
}

/// A bar on stderr for work that takes long: it appears after half a second, and only on a terminal.
pub(crate) struct LateBar {
    bar: ProgressBar,
    started: Instant,
    drawn: bool,
}

impl LateBar {
    /// `counted` is the part of the template that says what is counted.
    fn new(message: &'static str, counted: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_message(message);
        if let Ok(style) =
            ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {counted} eta {{eta}}"))
        {
            bar.set_style(style);
        }
        Self { bar, started: Instant::now(), drawn: false }
    }

    pub(crate) fn of_tokens(message: &'static str) -> Self {
        Self::new(message, "{pos}/{len} tokens")
    }

    pub(crate) fn of_tensors(message: &'static str) -> Self {
        Self::new(message, "{pos}/{len} tensors")
    }

    pub(crate) fn of_questions(message: &'static str) -> Self {
        Self::new(message, "{pos}/{len} questions")
    }

    pub(crate) fn of_documents(message: &'static str) -> Self {
        Self::new(message, "{pos}/{len} documents")
    }

    pub(crate) fn of_bytes(message: &'static str) -> Self {
        Self::new(message, "{bytes}/{total_bytes} {bytes_per_sec}")
    }

    pub(crate) fn set(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if !self.drawn && self.started.elapsed() > Duration::from_millis(500) {
            self.drawn = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
    }
}

impl Drop for LateBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Text from outside, made safe for a terminal: no control character but line ends and tabs gets through, so that a
/// model cannot move the cursor or worse.
pub(crate) fn without_controls(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters() {
        for (text, expected) in [
            ("é\n\t 好", "é\n\t 好"),
            ("a\x1b[2Jb\r\x07", "a\u{fffd}[2Jb\u{fffd}\u{fffd}"),
            ("\u{9b}31m", "\u{fffd}31m"),
        ] {
            assert_eq!(without_controls(text), expected);
        }
    }
}
