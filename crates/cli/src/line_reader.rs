//! Messages from a person at a terminal, with editing and history, or from a pipe.

use std::io::{BufRead, IsTerminal, stdin, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

const PROMPT: &str = "> ";
const MORE: &str = ". ";
const FENCE: &str = "\"\"\"";

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// A message, perhaps of many lines.
    Text(String),
    /// Ctrl-C: the line was given up.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
}

pub(crate) struct LineReader {
    /// `None` where there is no terminal.
    editor: Option<DefaultEditor>,
    history: Option<PathBuf>,
}

impl LineReader {
    pub(crate) fn new() -> Result<Self> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Ok(Self { editor: None, history: None });
        }
        let mut editor = DefaultEditor::new().context("cannot edit lines in this terminal")?;
        let history = history_file();
        if let Some(file) = &history {
            // There is none before the first time.
            let _ = editor.load_history(file);
        }
        Ok(Self { editor: Some(editor), history })
    }

    /// Whether a person sits there.
    pub(crate) fn is_interactive(&self) -> bool {
        self.editor.is_some()
    }

    /// The next message.
    pub(crate) fn read(&mut self) -> Result<Read> {
        let read = join(|prompt| self.line(prompt))?;
        if let (Read::Text(text), Some(editor)) = (&read, &mut self.editor)
            && !text.trim().is_empty()
        {
            editor.add_history_entry(text.as_str())?;
            if let Some(file) = &self.history
                && let Err(error) = editor.append_history(file)
            {
                tracing::warn!("cannot write {}: {error}", file.display());
                self.history = None;
            }
        }
        Ok(read)
    }

    fn line(&mut self, prompt: &str) -> Result<Read> {
        let Some(editor) = &mut self.editor else { return piped_line() };
        match editor.readline(prompt) {
            Ok(line) => Ok(Read::Text(line)),
            Err(ReadlineError::Eof) => Ok(Read::End),
            Err(ReadlineError::Interrupted) => Ok(Read::Interrupted),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }
}

fn piped_line() -> Result<Read> {
    let mut bytes = Vec::new();
    stdin().lock().read_until(b'\n', &mut bytes).context("cannot read standard input")?;
    if bytes.is_empty() {
        return Ok(Read::End);
    }
    let Ok(line) = String::from_utf8(bytes) else {
        bail!("standard input: expected UTF-8 text; convert it to UTF-8");
    };
    Ok(Read::Text(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// A message from lines: a `\` at the end continues, `"""` encloses.
fn join(mut next: impl FnMut(&str) -> Result<Read>) -> Result<Read> {
    let mut text = match next(PROMPT)? {
        Read::Text(line) => line,
        other => return Ok(other),
    };
    let fenced = text.trim_start().starts_with(FENCE);
    if fenced {
        text = text.trim_start()[FENCE.len()..].to_owned();
    }
    loop {
        let end = if fenced { text.trim_end().strip_suffix(FENCE).map(str::to_owned) } else { None };
        if let Some(text) = end {
            return Ok(Read::Text(text));
        }
        if !fenced {
            match text.strip_suffix('\\') {
                Some(continued) => text.truncate(continued.len()),
                None => return Ok(Read::Text(text)),
            }
        }
        match next(MORE)? {
            Read::Text(line) => {
                text.push('\n');
                text.push_str(&line);
            }
            Read::Interrupted => return Ok(Read::Interrupted),
            Read::End => return Ok(Read::Text(text)),
        }
    }
}

/// `$XDG_STATE_HOME/fathom/chat_history`, in a folder that exists afterwards.
fn history_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    let dir = state.join("fathom");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("chat_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], expected: &[&str]) {
        let mut lines = lines.iter();
        let mut next = |_: &str| Ok(lines.next().map_or(Read::End, |line| Read::Text((*line).to_owned())));
        for expected in expected {
            assert_eq!(join(&mut next).unwrap(), Read::Text((*expected).to_owned()));
        }
        assert_eq!(join(&mut next).unwrap(), Read::End);
    }

    #[test]
    fn messages_of_many_lines() {
        check(&["a", "", "b"], &["a", "", "b"]);
        check(&["a\\", "b\\", "c", "d"], &["a\nb\nc", "d"]);
        check(&["a\\"], &["a"]);
        check(&["\"\"\"a", "", "b\\", "c\"\"\"", "d"], &["a\n\nb\\\nc", "d"]);
        check(&["\"\"\"one line\"\"\"", "d"], &["one line", "d"]);
        check(&["\"\"\"", "a", "\"\"\""], &["\na\n"]);
        check(&["\"\"\"a", "b"], &["a\nb"]);
    }

    #[test]
    fn ctrl_c_gives_up_the_whole_message() {
        let mut reads = vec![Read::Interrupted, Read::Text("a\\".into())];
        assert_eq!(join(|_| Ok(reads.pop().unwrap())).unwrap(), Read::Interrupted);
    }
}
