//! `fathom report`.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::Result;

/// A training run as a page to look at.
///
/// Reads metrics.jsonl in the run's folder and writes report.html beside it: losses, learning rate, gradient norm,
/// expert load, throughput, memory, samples, configuration, and the state of code and machine. The page is one file
/// that fetches nothing, so it can be sent or printed. The run may still be going on. Prints the page's path.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom report runs/stories
  xdg-open \"$(fathom report runs/stories)\"")]
pub(crate) struct Args {
    /// The folder that the run writes to
    #[arg(value_name = "DIR")]
    run: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let page = fathom_train::report::write(&args.run)?;
    writeln!(stdout(), "{}", page.display())?;
    Ok(())
}
