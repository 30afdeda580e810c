//! `fathom logits`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;
use fathom_eval::{Contents, Error, Feeding, Form, LogitsFile};
use fathom_model::AttentionForm;

use crate::input;
use crate::interrupt::{self, Interrupted, Second};
use crate::model_args::{ModelArgs, read_config};
use crate::terminal::LateBar;

/// Write a model's logits and routing to a file.
///
/// For comparison with other implementations. The output is a safetensors file with, for sequence i of T tokens,
/// seq{i}.logits [T, vocab_size] f32, seq{i}.last_hidden (after the final norm), and for every MoE layer l
/// seq{i}.layer{l}.expert_ids i32 and .expert_weights f32 [T, num_experts_per_tok], sorted by id. --trace adds
/// seq{i}.trace.embed and seq{i}.trace.layer{l}.attn_out, .mlp_out, .hidden, .router_logits. Checkpoints with MTP
/// modules also get mtp.seq{i}.logits [T-1, vocab_size], .hidden, .expert_ids, .expert_weights (the second
/// module mtp2.seq{i}..., [T-2, ...]).
#[derive(clap::Args)]
#[command(
    mut_arg("dtype", |dtype| dtype.default_value("f32")),
    after_help = "\
Examples:
  echo '[[0, 17, 4, 99]]' > ids.json
  fathom logits --model DIR --tokens ids.json --out logits.safetensors
  fathom logits --model DIR --tokens ids.json --out decode.safetensors --form decode --attention absorbed"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// JSON file with a list of token-id lists
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,

    /// Where to write; replaced only when the new file is complete
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,

    /// How the sequences are fed; all forms must agree
    #[arg(long, value_enum, default_value_t = FormArg::Prefill)]
    form: FormArg,

    /// Force a form of attention; by default the cheaper one runs
    #[arg(long, value_enum)]
    attention: Option<AttentionArg>,

    /// Write the hidden states of every layer too
    #[arg(long)]
    trace: bool,

    /// Leave MTP modules out, also for a checkpoint whose config.json names some but that has lost their weights
    #[arg(long)]
    no_mtp: bool,
}

#[derive(ValueEnum, Clone, Copy)]
enum FormArg {
    /// Each sequence whole
    Prefill,
    /// Each sequence token by token through the cache
    Decode,
    /// All sequences together
    Batch,
}

#[derive(ValueEnum, Clone, Copy)]
enum AttentionArg {
    /// Keys and values per head (MHA mode)
    Expanded,
    /// On the latents (MQA mode)
    Absorbed,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let config = read_config(&args.model.model)?;
    let sequences = input::read_token_lists(&args.tokens)?;
    let mtp_modules = if args.no_mtp { 0 } else { config.num_nextn_predict_layers };
    let contents = Contents { trace: args.trace, mtp_modules };
    // Before the model is loaded: what is wrong with tokens or path is said at once.
    if sequences.is_empty() {
        bail!("{}: expected at least one list of token ids, got none", args.tokens.display());
    }
    if args.out.is_dir() {
        bail!("--out {} is a directory; give the name of a file in it", args.out.display());
    }
    let file = LogitsFile::create(&args.out, &config, &sequences, contents).map_err(|error| match error {
        Error::Sequence { .. } => anyhow::Error::new(error).context(args.tokens.display().to_string()),
        other => other.into(),
    })?;
    let model = args.model.load(mtp_modules > 0)?;
    interrupt::catch(Second::Ends)?;
    let feeding = Feeding {
        form: match args.form {
            FormArg::Prefill => Form::Prefill,
            FormArg::Decode => Form::Decode,
            FormArg::Batch => Form::Batch,
        },
        attention: args.attention.map(|attention| match attention {
            AttentionArg::Expanded => AttentionForm::Expanded,
            AttentionArg::Absorbed => AttentionForm::Absorbed,
        }),
    };
    let mut bar = LateBar::of_tokens("running");
    let flow = file.fill(&model, feeding, &mut |done, total| {
        bar.set(done as u64, total as u64);
        if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(bar);
    if flow?.is_break() { Err(Interrupted.into()) } else { Ok(()) }
}
