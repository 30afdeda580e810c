//! `fathom score`.

use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use fathom_engine::Language;
use fathom_eval::{Document, Windowing, perplexity};
use serde_json::json;

use crate::commands::generate::println_json;
use crate::input;
use crate::interrupt::{self, Interrupted, Second};
use crate::model_args::{ModelArgs, read_config};
use crate::terminal::LateBar;

const WINDOW: usize = 2048;

/// Perplexity and bits per byte of a text.
///
/// The model predicts every token of the text from those before it, in windows. Perplexity is comparable between
/// models of one tokenizer, bits per byte between all. Every token is scored once; bos, if the tokenizer has one,
/// begins every window and is not scored.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom score --model DIR --file wiki.test.txt
  fathom score --model DIR --file wiki.test.txt --window 2048 --stride 512 --json
  head -c 100000 book.txt | fathom score --model DIR --file -")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The text, UTF-8; - is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,

    /// Tokens that the model sees at a time [default: 2048, or the model's context if shorter]
    #[arg(long, value_name = "N")]
    window: Option<usize>,

    /// Tokens by which the window moves, at most the window; smaller is slower and gives every token more context
    /// [default: the window less the one token that is never scored]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let config = read_config(&args.model.model)?;
    let tokenizer = Language::open(&args.model.model)?.tokenizer()?;
    let document = Document::encode(&tokenizer, &input::read_text(&args.file)?)?;
    let window = args.window.unwrap_or(WINDOW.min(config.max_position_embeddings));
    let windowing = Windowing { window, stride: args.stride.unwrap_or(window) };
    windowing.check(&config, &document)?;
    let model = args.model.load(false)?;
    interrupt::catch(Second::Ends)?;

    let started = Instant::now();
    let mut bar = LateBar::of_tokens("scoring");
    let score = perplexity(&model, &document, windowing, &mut |score, total| {
        bar.set(score.tokens as u64, total as u64);
        if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(bar);
    let (score, seconds) = (score?, started.elapsed().as_secs_f64());
    if args.json {
        println_json(&json!({
            "perplexity": score.perplexity(),
            "bits_per_byte": score.bits_per_byte(),
            "nll": score.nll,
            "tokens": score.tokens,
            "bytes": score.bytes,
            "window": windowing.window,
            "stride": windowing.stride_in_force(),
            "complete": score.complete,
            "seconds": seconds,
            "tokens_per_second": score.tokens as f64 / seconds,
        }))?;
    } else {
        let mut out = stdout().lock();
        writeln!(out, "perplexity     {:.4}", score.perplexity())?;
        match score.bits_per_byte() {
            Some(bits) => writeln!(out, "bits per byte  {bits:.4}")?,
            None => writeln!(out, "bits per byte  unknown: interrupted")?,
        }
        writeln!(out, "tokens         {} (of {} bytes)", score.tokens, score.bytes)?;
        writeln!(out, "window         {}, stride {}", windowing.window, windowing.stride_in_force())?;
        writeln!(out, "tokens/s       {:.1}", score.tokens as f64 / seconds)?;
    }
    if score.complete { Ok(()) } else { Err(Interrupted.into()) }
}
