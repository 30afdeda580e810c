//! `fathom quantize`.

mod report;
mod words;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use fathom_checkpoint::gguf::is_gguf;
use fathom_checkpoint::{Checkpoint, Plan, WriteOptions};
use fathom_engine::Language;
use fathom_eval::{Comparison, Document, Windowing, calibrate, compare};
use fathom_kernels::Compute;
use fathom_model::quantize::{DirectoryOptions, MIXES, Quantizer, Report, mix};
use fathom_model::{Config, Importance, LoadOptions, Model, Storage};

use crate::input;
use crate::interrupt::{self, Interrupted, Second};
use crate::model_args::{read_config, read_plan};
use crate::terminal::LateBar;

/// Tokens that the models see at a time in calibration and report.
const WINDOW: usize = 2048;

/// Write a model with its matrices quantized, as a directory or a GGUF file.
///
/// Norms, biases and the gates of MoE layers keep their precision. Tensors stream through one after the other, so
/// that a model of any size can be quantized on any machine; calibration and report run the model and need it in
/// memory (the report source and result together). The result appears under its name when it is complete.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom quantize --model DIR --to int8 --out DIR-int8
  fathom quantize --model DIR --to q4_k_m --out model.gguf --calibrate book.txt
  fathom quantize --model DIR --to int4 --out DIR-int4 --report held-out.txt --json")]
pub(crate) struct Args {
    /// The source: directory of a Hugging Face checkpoint, or a .gguf file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    model: PathBuf,

    /// int8, int4, int4-mixed (routed experts in 4 bits, the rest in 8), q4_k_m, q5_k_m (llama.cpp's mixtures), one
    /// format for every matrix (int8-g64, q4_k, q6_k, iq4_nl, ...; bf16, f16 and f32 only convert), or a JSON file with
    /// a list of {"tensors": "<name, * for any characters>", "format": "..."}
    #[arg(long, value_name = "PLAN")]
    to: String,

    /// Where to write: a name that ends in .gguf is written as GGUF, which llama.cpp loads too
    #[arg(long, value_name = "DIR|FILE.gguf")]
    out: PathBuf,

    /// Run the source over this text first, and encode with least error where its activations are large
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,

    /// With --calibrate: keep what it found in this file; without: use what an earlier run kept
    #[arg(long, value_name = "FILE.safetensors")]
    importance: Option<PathBuf>,

    /// Compare the result with the source on this text: KL divergence, agreement, perplexity, worst layers. Give one
    /// that was not used to calibrate
    #[arg(long, value_name = "TEXT")]
    report: Option<PathBuf>,

    /// Replace what is there already
    #[arg(long)]
    overwrite: bool,

    /// Threads; 0 means one per processor. The result does not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let config = read_config(&args.model)?;
    let plan = plan(&args.to, &config)?;
    let checkpoint = config.open_checkpoint(&args.model)?;
    refuse_places(&args, &checkpoint)?;
    // Before hours of work: what is wrong with a text is said at once.
    let read =
        |text: &Option<PathBuf>| text.as_deref().map(|text| read_document(&args, text, &config)).transpose();
    let (calibration, held_out) = (read(&args.calibrate)?, read(&args.report)?);
    let compute = Compute::new(args.threads)?;
    interrupt::catch(Second::Waits)?;

    let started = Instant::now();
    let importance = importance(&args, calibration.as_ref())?;
    let quantizer = Quantizer {
        config: &config,
        checkpoint: &checkpoint,
        compute: &compute,
        plan: &plan,
        importance: importance.as_ref(),
    };
    let written = write(&args, &quantizer)?;
    let seconds = started.elapsed().as_secs_f64();
    let comparison = held_out.map(|document| compare_with_source(&args, &document)).transpose()?;
    let is_partial = comparison.as_ref().is_some_and(|comparison| !comparison.complete);
    let outcome = report::Outcome { out: &args.out, written: &written, seconds, comparison };
    if args.json {
        outcome.print_json()?
    } else {
        outcome.print()?
    }
    if is_partial { Err(Interrupted.into()) } else { Ok(()) }
}

/// A plan by name, of a file, or one of llama.cpp's mixtures.
fn plan(to: &str, config: &Config) -> Result<Plan> {
    match mix(to, config) {
        Some(plan) => Ok(plan),
        None => read_plan(to).with_context(|| format!("--to (which takes {} too)", MIXES.join(" and "))),
    }
}

/// The source is never written to, and other models only if asked for.
fn refuse_places(args: &Args, source: &Checkpoint) -> Result<()> {
    let same = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a));
    let out = &args.out;
    let in_source = !is_gguf_name(out) && source.files().filter_map(Path::parent).any(|dir| same(dir, out));
    if same(out, &args.model) || in_source || source.files().any(|file| same(file, out)) {
        bail!("--out {} is the source; give another name", out.display());
    }
    if is_gguf_name(out) && out.exists() && !args.overwrite {
        bail!("{} already exists: choose another name, or give --overwrite", out.display());
    }
    Ok(())
}

fn is_gguf_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn read_document(args: &Args, text: &Path, config: &Config) -> Result<Document> {
    let tokenizer = Language::open(&args.model)?.tokenizer()?;
    let document = Document::encode(&tokenizer, &input::read_text(text)?)?;
    windowing(config).check(config, &document).with_context(|| text.display().to_string())?;
    Ok(document)
}

fn windowing(config: &Config) -> Windowing {
    let window = WINDOW.min(config.max_position_embeddings);
    Windowing { window, stride: window }
}

fn load(model: &Path, threads: usize, what: &'static str) -> Result<Model> {
    let mut bar = LateBar::of_bytes(what);
    let options = LoadOptions::new(Storage::as_stored());
    let compute = Compute::new(threads)?;
    Ok(Model::load(model, compute, options, &mut |done, total| bar.set(done, total))?)
}

/// What calibration finds, or has found before.
fn importance(args: &Args, text: Option<&Document>) -> Result<Option<Importance>> {
    let Some(document) = text else {
        return Ok(args.importance.as_deref().map(Importance::load).transpose()?);
    };
    let model = load(&args.model, args.threads, "loading")?;
    let window = windowing(model.config()).window;
    let mut bar = LateBar::of_tokens("calibrating");
    let found = calibrate(&model, document, window, &mut |done, total| {
        bar.set(done as u64, total as u64);
        flow()
    });
    drop(bar);
    let found = found?.ok_or(Interrupted)?;
    if let Some(file) = &args.importance {
        found.save(file)?;
    }
    Ok(Some(found))
}

fn write(args: &Args, quantizer: &Quantizer<'_>) -> Result<Report> {
    let mut bar = LateBar::of_bytes("quantizing");
    let mut progress = |done, total| {
        bar.set(done, total);
        flow()
    };
    let written = if is_gguf_name(&args.out) {
        let words = words::gguf_entries(&args.model, quantizer.config)?;
        quantizer.write_gguf(&args.out, words, &mut progress)
    } else {
        let options = DirectoryOptions {
            config_json: words::config_json(&args.model, quantizer.checkpoint)?,
            files: if is_gguf(&args.model) {
                words::of_gguf(&args.model)?
            } else {
                words::of_directory(&args.model)?
            },
            max_shard_bytes: WriteOptions::default().max_shard_bytes,
            overwrite: args.overwrite,
        };
        quantizer.write_directory(&args.out, &options, &mut progress)
    };
    drop(bar);
    let written = written.map_err(|error| match error {
        fathom_model::Error::Checkpoint(fathom_checkpoint::Error::AlreadyExists { path }) => {
            anyhow!("{} already exists: choose another directory, or give --overwrite", path.display())
        }
        other => other.into(),
    })?;
    written.ok_or_else(|| {
        eprintln!("interrupted: nothing was left in {}", args.out.display());
        Interrupted.into()
    })
}

fn compare_with_source(args: &Args, document: &Document) -> Result<Comparison> {
    let source = load(&args.model, args.threads, "loading the source")?;
    let result = load(&args.out, args.threads, "loading the result")?;
    let mut bar = LateBar::of_tokens("comparing");
    let windowing = windowing(source.config());
    Ok(compare(&source, &result, document, windowing, &mut |done, total| {
        bar.set(done as u64, total as u64);
        flow()
    })?)
}

fn flow() -> ControlFlow<()> {
    if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
