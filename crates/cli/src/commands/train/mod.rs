//! `fathom train` and `fathom sft`: one loop, two kinds of text.

mod samples;
mod view;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use fathom_train::RunConfig;
use fathom_train::run::{Kind, Plan, Resume, train};
use serde_json::json;

use crate::interrupt::{self, Interrupted, Second};
use view::View;

/// Train a model.
///
/// Everything that decides a run stands in one TOML file: the model (a config.json, a preset, its fields, or weights to
/// start from), the data (what `fathom data prepare` made), batch, optimizer, schedule. The run writes checkpoints in
/// Hugging Face form, metrics.jsonl, TensorBoard's events and report.html to one directory. Ctrl-C and SIGTERM save and
/// end it (exit code 130); --resume continues to the same numbers as if it had never stopped. docs/guides/training.md
/// explains every key.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom train --config run.toml
  fathom train --config run.toml --dry-run
  fathom train --config run.toml --out runs/b --set schedule.lr=3e-4 --set batch.sequences=32
  fathom train --config run.toml --resume
  fathom chat --model runs/b/checkpoints/step-00002000")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// Fine-tune a model on conversations.
///
/// The run file is that of `fathom train`, with model.from (a model's directory) and data.path (JSONL files, one
/// conversation a line: {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}). The
/// model's own chat template writes them down; only answers (their reasoning and their end) are learnt; several
/// conversations share a sequence, and none sees another. With a table `lora` small matrices are trained beside the
/// weights (rank, alpha, target_modules) and saved as PEFT's adapters; `fathom merge` adds them to the weights.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom sft --config sft.toml
  fathom sft --config sft.toml --set 'lora={rank=16,target_modules=[\"q_proj\",\"o_proj\"]}' --out runs/lora
  fathom merge --model DIR --adapter runs/lora/checkpoints/step-00000300 --out merged")]
pub(crate) struct SftArgs {
    #[command(flatten)]
    run: RunArgs,
}

/// Which run, and how to begin it.
#[derive(clap::Args)]
struct RunArgs {
    /// The run file
    #[arg(long, value_name = "FILE.toml")]
    config: PathBuf,

    /// Where the run goes, instead of the file's `out`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Set one key of the run file, as in --set optimizer.weight_decay=0.1; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// Go on with the run in the directory, from its newest checkpoint or from the one that is named. Length, validation,
    /// checkpoints, samples, threads and the policy for trouble may have changed since; nothing else
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1)]
    resume: Option<Option<PathBuf>>,

    /// Check and load everything, say what would be done, and stop before the first step
    #[arg(long)]
    dry_run: bool,

    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    start(args.run, Kind::Pretraining)
}

pub(crate) fn run_sft(args: SftArgs) -> Result<()> {
    start(args.run, Kind::FineTuning)
}

fn start(args: RunArgs, kind: Kind) -> Result<()> {
    let config = RunConfig::read(&args.config, &args.overrides)?;
    let out = args.out.or_else(|| config.out.clone()).with_context(|| {
        format!("{}: out: say where the run goes, here or with --out DIR", args.config.display())
    })?;
    let resume = match args.resume {
        None => Resume::No,
        Some(None) => Resume::Newest,
        Some(Some(path)) => Resume::From(path),
    };
    let plan = Plan { file: args.config, config, out, kind, resume };
    interrupt::catch(Second::Waits)?;
    interrupt::catch_termination()?;
    let mut view = View::new();
    let outcome = train(&plan, args.dry_run, &mut view)?;
    drop(view);
    let Some(outcome) = outcome else { return Ok(()) };
    let (checkpoint, report) = (outcome.saved.path.display(), outcome.report.display());
    if args.json {
        let (finished, step) = (outcome.finished, outcome.saved.step);
        let checkpoint = outcome.saved.path;
        println!(
            "{}",
            json!({ "finished": finished, "step": step, "checkpoint": checkpoint, "report": outcome.report })
        );
    } else {
        println!("{checkpoint}");
        eprintln!("report: {report}");
    }
    if outcome.finished {
        return Ok(());
    }
    eprintln!("stopped and saved; go on with --resume");
    Err(Interrupted.into())
}
