//! `fathom data`: text for training.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use fathom_data::generate::Split;
use serde::Serialize;

mod arithmetic;
mod inspect;
mod poems;
mod prepare;
mod table;

/// Prepare data for training, and make text for training and evaluation.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Prepare(prepare::Args),
    Inspect(inspect::Args),
    Arithmetic(arithmetic::Args),
    Poems(poems::Args),
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Prepare(args) => prepare::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Arithmetic(args) => arithmetic::run(args),
        Command::Poems(args) => poems::run(args),
    }
}

/// Sides of the split.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Side {
    Train,
    HeldOut,
}

impl From<Side> for Split {
    fn from(side: Side) -> Self {
        match side {
            Side::Train => Self::Train,
            Side::HeldOut => Self::HeldOut,
        }
    }
}

/// A file of JSON lines that appears when it is complete.
struct Lines {
    out: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
}

impl Lines {
    fn create(path: &Path) -> Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
        Ok(Self { out: BufWriter::new(file), partial, path: path.to_owned() })
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.out, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .with_context(|| format!("cannot write {}", self.partial.display()))
    }

    fn finish(self) -> Result<()> {
        let Self { out, partial, path } = self;
        let file = out.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
