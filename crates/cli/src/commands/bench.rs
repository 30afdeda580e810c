//! `fathom bench`: how fast a model runs, against what the machine allows.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fathom_bench::{Counts, Effort, Hooks, Limits, Plan};
use fathom_kernels::Compute;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::interrupt::{self, Interrupted, Second};
use crate::model_args::{CacheArgs, ModelArgs, StorageArgs, read_config};

/// Measure prefill and decode speed against what the machine allows.
///
/// Runs random tokens. Prefill: whole prompts into an empty cache, alone and in every batch size;
/// decode: one token per sequence and step, behind every context, in every batch size. Speeds are
/// median, minimum and maximum of the repeats. Beside them stand the bytes a step reads (weights of
/// the experts that were really chosen, latents) as a share of the memory bandwidth, and the
/// operations of a prefill as a share of the multiplier's peak; both limits are measured in the same
/// run, the bandwidth before and after. "× f32" compares a prefill with f32 products of the same
/// shapes alone.
///
/// Other programs on the machine disturb it: look at the spread before believing a difference.
/// Ctrl-C ends with what is measured so far.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom bench --model DIR --prompt-tokens 512,2048 --context 0,2048 --batch 1,4 --threads 2
  fathom bench --model DIR --prompt-tokens none --json > decode.json
  fathom bench --roofline")]
pub(crate) struct Args {
    /// Directory of a Hugging Face checkpoint: config.json, *.safetensors
    #[arg(long, value_name = "DIR", required_unless_present = "roofline")]
    model: Option<PathBuf>,

    #[command(flatten)]
    storage: StorageArgs,

    #[command(flatten)]
    cache: CacheArgs,

    /// Compute as `serve --batch-invariant` does: what do the same bits in any company cost?
    #[arg(long)]
    batch_invariant: bool,

    /// Threads to compute with; 0 means one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,

    /// Only measure the machine's limits; needs no model
    #[arg(long, conflicts_with = "model")]
    roofline: bool,

    /// Prompt lengths to prefill, or "none"
    #[arg(long, value_name = "N,…", default_value = "512")]
    prompt_tokens: Counts,

    /// Tokens that each sequence decodes per repeat; 0 to measure no decode
    #[arg(long, value_name = "N", default_value_t = 64)]
    decode_tokens: usize,

    /// Tokens in the cache before decoding begins
    #[arg(long, value_name = "N,…", default_value = "0")]
    context: Counts,

    /// Sequences side by side
    #[arg(long, value_name = "N,…", default_value = "1")]
    batch: Counts,

    /// Timed repeats of each case, after one that warms up
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,

    /// Of the random tokens
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Memory read to measure the bandwidth, in MiB; many times the last-level cache, or it is the
    /// cache that is measured [default: 2048, or a quarter of the free memory if that is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    bandwidth_mib: Option<u64>,

    /// Also tell the decode speed of a model of N layers like the measured ones: what one or a few
    /// layers of true dimensions say about the whole
    #[arg(long, value_name = "N")]
    of_layers: Option<usize>,

    /// Print everything as JSON, raw samples too
    #[arg(long)]
    json: bool,
}

impl Args {
    fn plan(&self) -> Plan {
        Plan {
            prompt_tokens: self.prompt_tokens.clone(),
            decode_tokens: self.decode_tokens,
            contexts: self.context.clone(),
            batches: self.batch.clone(),
            repeats: self.repeats,
            seed: self.seed,
            of_layers: self.of_layers,
        }
    }

    fn effort(&self) -> Result<Effort> {
        let mut effort = Effort::standard();
        if let Some(mib) = self.bandwidth_mib {
            let bytes = mib.saturating_mul(1 << 20);
            match fathom_bench::available_memory() {
                Some(available) if bytes > available => {
                    bail!("--bandwidth-mib {mib}: only {} MiB of memory are free", available >> 20)
                }
                _ => effort.bytes = usize::try_from(bytes).context("--bandwidth-mib")?,
            }
        }
        Ok(effort)
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let (plan, effort) = (args.plan(), args.effort()?);
    let Some(dir) = &args.model else {
        let bar = spinner()?;
        bar.set_message("the machine's limits");
        let limits = Limits::measure(&Compute::new(args.threads)?, effort);
        bar.finish_and_clear();
        return print(&limits, args.json, || json!(limits));
    };
    let model_args = ModelArgs {
        model: dir.clone(),
        storage: args.storage.clone(),
        cache: args.cache.clone(),
        batch_invariant: args.batch_invariant,
        threads: args.threads,
    };
    // Before minutes of loading.
    plan.check(&read_config(dir)?)?;
    let model = model_args.load(false)?;

    interrupt::catch(Second::Ends)?;
    let bar = spinner()?;
    let hooks = Hooks {
        note: &mut |what| {
            // Where there is no terminal, FATHOM_LOG=info shows what takes so long.
            tracing::info!("{what}");
            bar.set_message(what.to_owned());
        },
        stop: &interrupt::pressed,
    };
    let report = fathom_bench::run(&model, &plan, effort, hooks);
    bar.finish_and_clear();
    let report = report?;
    print(&report, args.json, || json!(report))?;
    if report.complete { Ok(()) } else { Err(Interrupted.into()) }
}

fn print(text: &impl std::fmt::Display, as_json: bool, value: impl Fn() -> serde_json::Value) -> Result<()> {
    let mut out = stdout().lock();
    if as_json {
        writeln!(out, "{:#}", value())?;
    } else {
        write!(out, "{text}")?;
    }
    Ok(out.flush()?)
}

fn spinner() -> Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}").context("the template is valid")?;
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}
