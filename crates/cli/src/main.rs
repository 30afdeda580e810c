//! `fathom`: from a DeepSeek checkpoint to text, in one binary.
//!
//! `main` reads the arguments, each file in `commands` turns one command's arguments into one call
//! of a library crate and prints the result. Errors end as one line on stderr and exit code 1 (2
//! for wrong arguments, as clap does; 130 after Ctrl-C).
//!
//! **Invariant:** no logic of its own: what is worth testing without a terminal lives below.
#![forbid(unsafe_code)]

mod answer;
mod commands;
mod conversation;
mod input;
mod interrupt;
mod language;
mod line_reader;
mod logging;
mod model_args;
mod sampling_args;
mod shipped;
mod terminal;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Serve(commands::serve::Args),
    Tokenize(commands::tokenize::Args),
    Inspect(commands::inspect::Args),
    Synth(commands::synth::Args),
    Quantize(commands::quantize::Args),
    Bench(commands::bench::Args),
    Logits(commands::logits::Args),
    Gradients(commands::gradients::Args),
    Score(commands::score::Args),
    Eval(commands::eval::Args),
    Data(commands::data::Args),
    Train(commands::train::Args),
    Sft(commands::train::SftArgs),
    Merge(commands::merge::Args),
    Report(commands::report::Args),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // A server reads first how it is to log.
    if !matches!(command, Command::Serve(_)) {
        logging::start("warn", false, None);
    }
    let result = match command {
        Command::Chat(args) => commands::chat::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Tokenize(args) => commands::tokenize::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Synth(args) => commands::synth::run(args),
        Command::Quantize(args) => commands::quantize::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Logits(args) => commands::logits::run(args),
        Command::Gradients(args) => commands::gradients::run(args),
        Command::Score(args) => commands::score::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Data(args) => commands::data::run(args),
        Command::Train(args) => commands::train::run(args),
        Command::Sft(args) => commands::train::run_sft(args),
        Command::Merge(args) => commands::merge::run(args),
        Command::Report(args) => commands::report::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(interrupt::EXIT_CODE),
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// An error and its causes, without those that a message already quotes.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let message = cause.to_string();
        if line.is_empty() {
            line = message;
        } else if !line.contains(&message) {
            line = format!("{line}: {message}");
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_are_one_line_without_repetition() {
        let rows = [
            (anyhow!("a"), "a"),
            (anyhow!("no disk").context("cannot write x"), "cannot write x: no disk"),
            (
                anyhow!("no disk").context("cannot write x: no disk; make room"),
                "cannot write x: no disk; make room",
            ),
            (anyhow!("two\n  lines").context("a"), "a: two lines"),
        ];
        for (error, expected) in rows {
            assert_eq!(one_line(&error), expected);
        }
    }
}
