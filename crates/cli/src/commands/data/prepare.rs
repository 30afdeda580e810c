//! `fathom data prepare`.

use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use fathom_data::Error;
use fathom_data::prepare::{Outcome, Part, Phase, PrepareConfig, PrepareReport, prepare};
use serde_json::json;

use super::table::table;
use crate::interrupt::{self, Interrupted, Second};
use crate::terminal::LateBar;

/// Raw text becomes a dataset for training: cleaned, deduplicated, mixed, tokenized and packed.
///
/// Reads JSONL, text and Parquet (plain, gzip, zstd, xz) as data.toml says, trains a tokenizer if it is to, and writes
/// token shards, dataset.json and report.json to the configuration's `out`. Memory is bounded whatever the corpus. What is
/// finished is kept: after Ctrl-C or a power cut the same command goes on from there. The dataset is the same bytes
/// whatever the number of threads or tasks.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom data prepare --config data.toml
  fathom data prepare --config data.toml --set out=/data/small --set source.0.epochs=0.1

On a cluster, as one job, an array of 64, and one job again:
  fathom data prepare --config data.toml --only-tokenizer
  fathom data prepare --config data.toml --task 0 --tasks 64   (in a Slurm array without --task and --tasks)
  fathom data prepare --config data.toml --finish")]
pub(crate) struct Args {
    /// What to make of which files; its paths start at its folder
    #[arg(long, value_name = "data.toml")]
    config: PathBuf,

    /// Another value for a key: pack.validation=0.01, source.0.epochs=2
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Work on every n-th input file only, from this one on (SLURM_ARRAY_TASK_ID if set)
    #[arg(long, value_name = "I", requires = "tasks", conflicts_with_all = ["finish", "only_tokenizer"])]
    task: Option<u64>,

    /// How many tasks there are (SLURM_ARRAY_TASK_COUNT if set)
    #[arg(long, value_name = "N", requires = "task")]
    tasks: Option<u64>,

    /// Join what the tasks have made
    #[arg(long, conflicts_with = "only_tokenizer")]
    finish: bool,

    /// Train the tokenizer and stop: before an array of tasks that all need it
    #[arg(long)]
    only_tokenizer: bool,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let part = part(&args, |name| std::env::var(name).ok())?;
    let config = PrepareConfig::read(&args.config, &args.set)?;
    interrupt::catch(Second::Ends)?;
    let bar: Mutex<Option<(Phase, LateBar)>> = Mutex::new(None);
    let progress = |phase: Phase, done: u64, total: u64| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        if bar.as_ref().is_none_or(|(drawn, _)| *drawn != phase) {
            *bar = Some((phase, bar_of(phase)));
        }
        if let Some((_, bar)) = &mut *bar {
            bar.set(done, total);
        }
        if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let outcome = prepare(&config, part, &progress);
    drop(bar);
    let outcome = match outcome {
        Err(Error::Stopped) => {
            let out = config.out.display();
            eprintln!("stopped: what is finished is kept in {out}; the same command goes on from there");
            return Err(Interrupted.into());
        }
        outcome => outcome?,
    };
    tell(&args, &config, &outcome)
}

/// Which part the arguments mean, or, without them, the variables of a Slurm array.
fn part(args: &Args, variable: impl Fn(&str) -> Option<String>) -> Result<Part> {
    if args.finish {
        return Ok(Part::Finish);
    }
    if args.only_tokenizer {
        return Ok(Part::Tokenizer);
    }
    let (task, tasks) = match (args.task, args.tasks) {
        (Some(task), Some(tasks)) => (task, tasks),
        _ => {
            let number = |name: &str| {
                let parse = |text: String| {
                    text.parse::<u64>().with_context(|| format!("{name} should be a number, got {text:?}"))
                };
                variable(name).map(parse).transpose()
            };
            let (Some(id), Some(tasks)) = (number("SLURM_ARRAY_TASK_ID")?, number("SLURM_ARRAY_TASK_COUNT")?)
            else {
                return Ok(Part::All);
            };
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            (id.saturating_sub(first) / step, tasks)
        }
    };
    if task >= tasks {
        bail!("task {task} of {tasks}: tasks are counted from 0; give --task a number below --tasks");
    }
    Ok(if tasks == 1 { Part::All } else { Part::Task { task, tasks } })
}

fn bar_of(phase: Phase) -> LateBar {
    match phase {
        Phase::Tokenizer => LateBar::of_bytes("reading text for the tokenizer"),
        Phase::Stages => LateBar::of_bytes("preparing"),
        Phase::Duplicates => LateBar::of_documents("looking for duplicates"),
        Phase::Pack => LateBar::of_documents("packing"),
    }
}

fn tell(args: &Args, config: &PrepareConfig, outcome: &Outcome) -> Result<()> {
    let mut out = stdout();
    match outcome {
        Outcome::Dataset(report) if args.json => write!(out, "{}", report.to_json())?,
        Outcome::Dataset(report) => write_report(&mut out, config, report)?,
        Outcome::Tokenizer(directory) if args.json => writeln!(out, "{}", json!({ "tokenizer": directory }))?,
        Outcome::Tokenizer(directory) => writeln!(out, "The tokenizer is in {}", directory.display())?,
        Outcome::Stages { made, found, missing } if args.json => {
            writeln!(out, "{}", json!({ "made": made, "found": found, "missing": missing }))?;
        }
        Outcome::Stages { made, found, missing } => {
            writeln!(
                out,
                "{made} input files prepared, {found} were there before, {missing} are left to other tasks."
            )?;
            writeln!(
                out,
                "When all are there: fathom data prepare --config {} --finish",
                args.config.display()
            )?;
        }
    }
    Ok(())
}

fn write_report(out: &mut impl Write, config: &PrepareConfig, report: &PrepareReport) -> Result<()> {
    let head = [
        "source",
        "files",
        "documents",
        "text MB",
        "invalid",
        "filtered",
        "contaminated",
        "exact dup.",
        "near dup.",
        "epochs",
        "train tokens",
        "validation",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for source in report.sources.iter().chain([&report.total]) {
        let counts = &source.counts;
        rows.push([
            source.name.clone(),
            source.files.to_string(),
            counts.documents_in.to_string(),
            format!("{:.2}", counts.text_bytes_in as f64 / 1e6),
            counts.invalid.to_string(),
            counts.filtered.values().sum::<u64>().to_string(),
            counts.contaminated.to_string(),
            source.exact_duplicates.to_string(),
            source.near_duplicates.to_string(),
            format!("{:.2}", source.epochs),
            source.train_tokens.to_string(),
            source.validation_tokens.to_string(),
        ]);
    }
    write!(out, "{}", table(&rows))?;
    let total = &report.total;
    for (rule, count) in &total.counts.filtered {
        writeln!(out, "left out by {rule}: {count}")?;
    }
    if total.counts.fill_in_the_middle > 0 {
        writeln!(out, "written with their middle last: {}", total.counts.fill_in_the_middle)?;
    }
    writeln!(
        out,
        "{:.1} s; per thread {:.1} MB of text and {:.0} tokens a second",
        report.time.seconds, report.time.text_megabytes_per_work_second, report.time.tokens_per_work_second
    )?;
    let bytes = total.train_text_bytes as f64 / total.train_tokens.max(1) as f64;
    writeln!(
        out,
        "{}: {} documents, {} tokens for training ({bytes:.2} bytes each), {} for validation",
        config.out.display(),
        total.train_documents,
        total.train_tokens,
        total.validation_tokens
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let args = |task, tasks| Args {
            config: PathBuf::new(),
            set: Vec::new(),
            task,
            tasks,
            finish: false,
            only_tokenizer: false,
            json: false,
        };
        let slurm = |name: &str| {
            let value = match name {
                "SLURM_ARRAY_TASK_ID" => "14",
                "SLURM_ARRAY_TASK_COUNT" => "5",
                "SLURM_ARRAY_TASK_MIN" => "10",
                "SLURM_ARRAY_TASK_STEP" => "2",
                _ => return None,
            };
            Some(value.to_owned())
        };
        assert_eq!(part(&args(None, None), |_| None).unwrap(), Part::All);
        assert_eq!(part(&args(None, None), slurm).unwrap(), Part::Task { task: 2, tasks: 5 });
        assert_eq!(part(&args(Some(1), Some(3)), slurm).unwrap(), Part::Task { task: 1, tasks: 3 });
        assert_eq!(part(&args(Some(0), Some(1)), |_| None).unwrap(), Part::All);
        assert!(part(&args(Some(3), Some(3)), |_| None).is_err());
        assert_eq!(part(&Args { finish: true, ..args(None, None) }, slurm).unwrap(), Part::Finish);
        let odd = |name: &str| (name == "SLURM_ARRAY_TASK_ID").then(|| "x".to_owned());
        assert!(part(&args(None, None), odd).unwrap_err().to_string().contains("SLURM_ARRAY_TASK_ID"));
    }
}
