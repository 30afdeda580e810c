//! Raw corpora become a dataset: `fathom data prepare`.
//!
//! Every input file becomes a **stage** by itself (`stage`): its records are read (`input`), normalised, judged
//! (`clean`), compared with benchmarks (`contamination`), hashed (`duplicates`) and encoded (`documents`). Stages
//! do not know of each other, so that they can be made by one process or by a job array, in any order, and a stage that
//! is there is not made again. The last step joins them: it finds duplicates over all stages, decides how much of each
//! source is taken (`mix`), and packs the documents into shards (`pack`). A tokenizer that is to be trained comes
//! before everything (`tokenizer`).
//!
//! Memory does not grow with the corpus but for two bits per document; what the search for duplicates sorts at a time is
//! bounded by `memory`, the rest is on the disk.

mod clean;
pub mod config;
mod contamination;
mod counts;
mod documents;
mod duplicates;
mod fill_in_the_middle;
mod input;
mod mix;
mod pack;
mod pipeline;
mod report;
mod stage;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use config::PrepareConfig;
pub use counts::Counts;
pub use report::{PrepareReport, SourceReport};

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::dataset::Manifest;
use crate::{Error, Result, publish};
use contamination::Benchmarks;
use documents::{Recipe, Tokens};
use fathom_text::{BulkTokenizer, Tokenizer};
use input::input_files;
use pipeline::Plan;

/// Which part of the work is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything.
    All,
    /// Only the tokenizer.
    Tokenizer,
    /// The stages of the input files `task`, `task + tasks`, `task + 2 tasks`, ….
    Task {
        /// From 0.
        task: u64,
        /// How many there are.
        tasks: u64,
    },
    /// What comes after all stages.
    Finish,
}

/// What was done.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The dataset is there.
    Dataset(Box<PrepareReport>),
    /// The tokenizer is there, in this directory.
    Tokenizer(PathBuf),
    /// Stages were made, or were there before.
    Stages {
        /// Made now.
        made: u64,
        /// There before.
        found: u64,
        /// Input files that have no stage yet.
        missing: u64,
    },
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Text for the tokenizer is read; counted in bytes.
    Tokenizer,
    /// Input files become stages; counted in bytes of files.
    Stages,
    /// Duplicates are looked for; counted in documents.
    Duplicates,
    /// Documents are packed; counted in documents.
    Pack,
}

/// Is told how far the work is: the phase, what is done and what there is to do. A `Break` stops the work; what is
/// finished by then need not be done again.
pub type Progress<'a> = dyn Fn(Phase, u64, u64) -> ControlFlow<()> + Sync + 'a;

/// Makes the dataset that `config` describes, or a part of it.
///
/// # Errors
/// A source without files, a file that cannot be read or is damaged, a record that is none, a tokenizer without eos, a
/// full disk, nothing left after filtering: the error names the place. No dataset appears then, and finished stages stay.
pub fn prepare(config: &PrepareConfig, part: Part, progress: &Progress<'_>) -> Result<Outcome> {
    if Manifest::exists(&config.out) {
        return Err(Error::AlreadyExists { path: config.out.join("dataset.json") });
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build();
    match pool {
        Ok(pool) => pool.install(|| prepare_part(config, part, progress)),
        // Without threads of its own it takes those that there are.
        Err(_) => prepare_part(config, part, progress),
    }
}

fn prepare_part(config: &PrepareConfig, part: Part, progress: &Progress<'_>) -> Result<Outcome> {
    let started = Instant::now();
    let files = input_files(config)?;
    let stages = config.out.join("stages");
    fs::create_dir_all(&stages).map_err(Error::io(&stages, "create"))?;
    if matches!(part, Part::All | Part::Finish) {
        publish::remove_unfinished(&config.out)?;
    }
    if part == Part::All {
        publish::remove_unfinished(&stages)?;
    }
    let may_train = !matches!(part, Part::Task { tasks: 2.., .. } | Part::Finish);
    let directory = tokenizer::directory(config, &files, &stages, may_train, progress)?;
    if part == Part::Tokenizer {
        return Ok(Outcome::Tokenizer(directory));
    }
    let plan = Plan::new(config, recipe(config, &directory)?, files, &stages)?;
    match part {
        Part::Task { task, tasks } => plan.make(|file| file as u64 % tasks == task, progress),
        Part::Finish => finish(config, &plan, &directory, started, progress),
        _ => {
            plan.make(|_| true, progress)?;
            finish(config, &plan, &directory, started, progress)
        }
    }
}

fn recipe(config: &PrepareConfig, directory: &Path) -> Result<Recipe> {
    let bulk = BulkTokenizer::new(Tokenizer::from_dir(directory)?);
    let tokens = Tokens::new(config, bulk, directory)?;
    let benchmarks = config.decontaminate.as_ref().map(Benchmarks::read).transpose()?;
    Ok(Recipe::new(config, tokens, benchmarks))
}

/// Joins the stages.
fn finish(
    config: &PrepareConfig,
    plan: &Plan<'_>,
    tokenizer: &Path,
    started: Instant,
    progress: &Progress<'_>,
) -> Result<Outcome> {
    let corpus = mix::Corpus::new(config, plan, plan.stages()?, progress)?;
    let report = pack::pack(config, &corpus, (tokenizer, plan.recipe.tokenizer()), started, progress)?;
    if !config.keep_stages {
        let stages = config.out.join("stages");
        drop(corpus);
        fs::remove_dir_all(&stages).map_err(Error::io(&stages, "remove"))?;
    }
    Ok(Outcome::Dataset(Box::new(report)))
}
