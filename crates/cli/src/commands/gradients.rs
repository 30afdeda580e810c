//! `fathom gradients`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fathom_kernels::Compute;
use fathom_model::differentiable::DifferentiableModel;
use fathom_tensor::{Context, Precision};

use crate::input;

/// Write a model's loss and gradients on given tokens to a file.
///
/// For comparison with other implementations. The loss is the mean cross-entropy of the next token over all sequences,
/// without balance or MTP terms, computed in f32. The output is a safetensors file with loss (a single number) and
/// grad.NAME for every weight, named as in the checkpoint; experts that no token reaches have zeroes.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  echo '[[0, 17, 4, 99], [0, 5, 6, 7]]' > ids.json
  fathom gradients --model DIR --tokens ids.json --out gradients.safetensors")]
pub(crate) struct Args {
    /// Directory of a Hugging Face model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// JSON file with a list of token-id lists of one length: the batch
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,

    /// Where to write; replaced only when the new file is complete
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,

    /// Threads to compute on; 0 means one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,

    /// Print the loss as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let sequences = input::read_token_lists(&args.tokens)?;
    if sequences.is_empty() {
        bail!("{}: expected at least one list of token ids, got none", args.tokens.display());
    }
    if args.out.is_dir() {
        bail!("--out {} is a directory; give the name of a file in it", args.out.display());
    }
    let context = Context::new(Compute::new(args.threads)?, Precision::F32);
    let model = DifferentiableModel::load(&args.model, &context, false)?;
    let loss = fathom_eval::write_gradients(&model, &sequences, &args.out)
        .with_context(|| args.tokens.display().to_string())?;
    if args.json {
        println!("{}", serde_json::json!({ "loss": loss, "out": args.out }));
    } else {
        println!("loss {loss}");
    }
    Ok(())
}
