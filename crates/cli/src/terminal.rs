//! What may be drawn where: colours and progress only for people.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

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

/// A bar on stderr for work counted in tokens; draws nothing where stderr is no terminal.
pub(crate) fn token_bar(message: &'static str, tokens: usize) -> ProgressBar {
    let bar = ProgressBar::new(tokens as u64).with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} tokens eta {eta}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
