//! `fathom`: from a DeepSeek checkpoint to text, in one binary.
//!
//! `main` reads the arguments, each file in `commands` turns one command's arguments into one call
//! of a library crate and prints the result. Errors end as one line on stderr and exit code 1 (2
//! for wrong arguments, as clap does; 130 after Ctrl-C).
//!
//! **Invariant:** no logic of its own: what is worth testing without a terminal lives below.
#![forbid(unsafe_code)]

mod commands;
mod model_args;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Run DeepSeek-V2 and V3 family models on the machine you have.
#[derive(Parser)]
#[command(name = "fathom", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Chat(commands::chat::Args),
    Generate(commands::generate::Args),
    Tokenize(commands::tokenize::Args),
    Inspect(commands::inspect::Args),
    Synth(commands::synth::Args),
    Bench(commands::bench::Args),
    Logits(commands::logits::Args),
    Score(commands::score::Args),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("FATHOM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match Cli::parse().command {
        Command::Chat(args) => commands::chat::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Tokenize(args) => commands::tokenize::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Synth(args) => commands::synth::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Logits(args) => commands::logits::run(args),
        Command::Score(args) => commands::score::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
