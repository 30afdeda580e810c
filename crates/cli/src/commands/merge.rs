//! `fathom merge`.

use std::path::PathBuf;

use anyhow::Result;
use fathom_train::run::merge;
use serde_json::json;

use crate::terminal::LateBar;

/// Add LoRA adapters to the weights they stand beside.
///
/// Reads adapters in PEFT's format (adapter_config.json, adapter_model.safetensors), whether `fathom sft` wrote them or
/// PEFT did, and writes a whole model: W + lora_alpha / r · B · A, stored as the model's weights were. Everything else in
/// the model's directory is copied.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom merge --model DIR --adapter runs/lora/checkpoints/step-00000300 --out merged
  fathom chat --model merged")]
pub(crate) struct Args {
    /// Directory of the model that the adapters were trained beside
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Directory of the adapters
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,

    /// Where the merged model goes; must hold none yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut bar = LateBar::of_tensors("merging");
    let merged =
        merge(&args.model, &args.adapter, &args.out, &mut |done, all| bar.set(done as u64, all as u64))?;
    drop(bar);
    if args.json {
        println!("{}", json!({ "merged_weights": merged, "out": args.out }));
    } else {
        println!("{}", args.out.display());
        eprintln!("{merged} weights changed");
    }
    Ok(())
}
