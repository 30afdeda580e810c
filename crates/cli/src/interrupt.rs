//! Ctrl-C as a flag that long work looks at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};

static PRESSED: AtomicBool = AtomicBool::new(false);
static TERMINATED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The exit code of a program that Ctrl-C ended: 128 + SIGINT.
pub(crate) const EXIT_CODE: u8 = 130;

/// The work was ended by Ctrl-C and what there is has been printed: exit code 130, no message.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// What a second Ctrl-C does that comes before the first was heeded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    /// Ends the program at once.
    Ends,
    /// Nothing: the program lives on.
    Waits,
}

/// From now on Ctrl-C raises the flag instead of killing the program.
pub(crate) fn catch(second: Second) -> Result<()> {
    let handler = move || {
        if PRESSED.swap(true, Ordering::SeqCst) && second == Second::Ends {
            std::process::exit(i32::from(EXIT_CODE));
        }
    };
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")
}

/// From now on SIGTERM raises the flag too: for work that a scheduler ends, and that has something to save.
pub(crate) fn catch_termination() -> Result<()> {
    let flag = TERMINATED.get_or_init(Arc::default);
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(flag))
        .map(|_| ())
        .context("cannot listen for SIGTERM")
}

/// Whether Ctrl-C was pressed since [`catch`] or [`forget`], or SIGTERM came since [`catch_termination`].
pub(crate) fn pressed() -> bool {
    PRESSED.load(Ordering::SeqCst) || TERMINATED.get().is_some_and(|flag| flag.load(Ordering::SeqCst))
}

/// Lowers the flag.
pub(crate) fn forget() {
    PRESSED.store(false, Ordering::SeqCst);
}
