//! `cargo xtask check`: everything a reviewer would run, in one command.
//!
//! The house has rules that the compiler does not know: which crate may use which, where `unsafe` may
//! stand, how long a file may grow. They live here as code, so that no person has to remember them.
//! [`check`] strings the steps together, [`tidy`] holds the rules, [`crate_map`] writes the page about the
//! crates, and [`tree`], [`manifest`] and [`source`] read the working tree for them.
//!
//! **Invariant:** a rule is a pure function from a path and a text to violations; only `tree` reads files.
//! **Invariant:** nothing here is linked into `fathom`.

#![forbid(unsafe_code)]

mod check;
mod crate_map;
mod manifest;
mod source;
mod tidy;
mod tree;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
The house's own commands.

  cargo xtask check            everything a reviewer would run, in this order, stopping at the first failure:
                                 fmt     is the code formatted          (mend: cargo fmt --all)
                                 clippy  no warning from any target     (mend: do what it says)
                                 scalar  do the kernels build where only scalar ones exist, as on Arm
                                 tidy    the house's rules              (mend: stands in each line)
                                 map     is docs/crate-map.md current   (mend: cargo xtask map)
                                 tests   every test of every crate
                                 docs    do the doc pages build without a warning
  cargo xtask check STEP...    only these steps, e.g. `cargo xtask check fmt tidy`
  cargo xtask tidy             only the house's rules: layers, unsafe fence, file size, names, whitespace ...
  cargo xtask map              write docs/crate-map.md from the manifests and the crates' first lines
  cargo xtask map --check      fail if that page is stale

Run `cargo xtask check` before you hand anything in; continuous integration runs the same and nothing else.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = tree::root()?;
    match words.as_slice() {
        [] | ["help" | "--help" | "-h", ..] | [_, "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        ["check", steps @ ..] => check::run(&root, steps),
        ["tidy"] => tidy::run(&root),
        ["map"] => crate_map::write(&root),
        ["map", "--check"] => crate_map::check(&root),
        _ => bail!("no such command: `{}`; run `cargo xtask` to see what there is", words.join(" ")),
    }
}
