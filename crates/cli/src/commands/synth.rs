//! `fathom synth`: a random checkpoint of any configuration.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use fathom_kernels::THREADS_MAX;
use fathom_model::synthesize::{self, Report, SynthesizeOptions};
use fathom_model::{Config, presets};
use fathom_text::{Tokenizer, fit_vocabulary};
use indicatif::{ProgressBar, ProgressStyle};

use super::inspect::table::{bytes, count};
use crate::interrupt::{self, Interrupted, Second};

/// Write a random checkpoint of any configuration, for benchmarks and tests at true dimensions.
///
/// Names, shapes and dtypes are those of the released checkpoints: FP8 with block
/// scales where the configuration has a quantization_config. The values are random,
/// such that logits are finite and routing spreads over the experts. The same seed
/// gives the same bytes. The model is streamed to the disk and needs next to no
/// memory.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom synth --config v2-lite --layers 6 --tokenizer DIR --out v2-lite-6    7 GB: 6 of 27 layers
  fathom synth --config config.json --seed 1 --out model")]
pub(crate) struct Args {
    /// A config.json, or the name of a released configuration: v2-lite, v2, v3
    #[arg(long, value_name = "FILE|NAME")]
    config: String,

    /// Keep only the first N layers (MTP layers stay)
    #[arg(long, value_name = "N")]
    layers: Option<usize>,

    /// Decides every value
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Copy the tokenizer (tokenizer.json, tokenizer_config.json, …) of this directory; one with more ids than the
    /// configuration's vocab_size is cut to its first ones, special tokens moved to the end
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,

    /// Begin a new file after this many bytes: 500MB, 5GB, 2GiB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    shard_size: u64,

    /// Replace a model that is in the directory already
    #[arg(long)]
    overwrite: bool,

    /// Threads; 0 means one per processor. The result does not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,

    /// Directory to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What a tokenizer consists of. `generation_config.json` is not among them: it is the model's.
pub(crate) const TOKENIZER_FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

pub(crate) fn run(args: Args) -> Result<()> {
    if args.threads > THREADS_MAX {
        bail!(fathom_kernels::Error::TooManyThreads { asked: args.threads, max: THREADS_MAX });
    }
    let (mut json, file) = read_config(&args.config)?;
    if let Some(layers) = args.layers {
        json = synthesize::with_layers(&json, &file, layers).context("--layers")?;
    }
    let config = Config::parse(&json, &file)?;
    let mut options = SynthesizeOptions {
        seed: args.seed,
        max_shard_bytes: args.shard_size,
        overwrite: args.overwrite,
        threads: match args.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        files: Vec::new(),
    };
    if let Some(dir) = &args.tokenizer {
        options.files = tokenizer_files(dir, &config)?;
    }

    interrupt::catch(Second::Waits)?;
    let start = Instant::now();
    let bar = progress_bar()?;
    let report = synthesize::synthesize(&json, &file, &options, &args.out, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        if done == total {
            bar.set_message("waiting for the disk");
        }
        if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let report = report.map_err(|error| match error {
        fathom_model::Error::Checkpoint(fathom_checkpoint::Error::AlreadyExists { path }) => {
            anyhow!("{} already exists: choose another directory, or give --overwrite", path.display())
        }
        other => other.into(),
    });
    let Some(report) = report? else {
        eprintln!("interrupted: nothing was left in {}", args.out.display());
        return Err(Interrupted.into());
    };
    print_report(&args.out, &config, &report, start.elapsed())
}

/// The text of a `config.json` and what to call it in errors; `what` is the name of a preset, a file,
/// or a model's directory.
pub(crate) fn read_config(what: &str) -> Result<(String, PathBuf)> {
    if let Some(json) = presets::json(what) {
        return Ok((json.to_owned(), PathBuf::from(what)));
    }
    let path = Path::new(what);
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    if !file.exists() {
        let names = presets::names().collect::<Vec<_>>().join(", ");
        bail!("--config {what:?} is neither a known configuration ({names}) nor a file");
    }
    let json = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok((json, file))
}

/// Name and contents of the tokenizer's files, once it has been seen to work.
fn tokenizer_files(dir: &Path, config: &Config) -> Result<Vec<(String, Vec<u8>)>> {
    let tokenizer = Tokenizer::from_dir(dir)?;
    let (ids, vocab_size) = (tokenizer.vocab_size(), config.vocab_size);
    let mut files = Vec::new();
    for name in TOKENIZER_FILES {
        let path = dir.join(name);
        if path.exists() {
            let contents = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.push((name.to_owned(), contents));
        }
    }
    if ids > vocab_size {
        let json =
            &mut files.iter_mut().find(|(name, _)| name == TOKENIZER_FILES[0]).context("it was loaded")?.1;
        match fit_vocabulary(json, vocab_size) {
            Some(fitted) => {
                *json = fitted;
                eprintln!(
                    "note: the tokenizer has {ids} ids, the model's vocab_size is {vocab_size}: its copy is cut to the \
                     first {vocab_size}, special tokens moved to the end"
                );
            }
            None => eprintln!(
                "warning: the tokenizer has {ids} ids, the model's vocab_size is {vocab_size}: text with a token \
                 beyond that cannot be run"
            ),
        }
    }
    Ok(files)
}

fn progress_bar() -> Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}")
            .context("the progress template is valid")?;
    let bar = ProgressBar::new(0).with_style(style).with_message("writing");
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}

fn print_report(out: &Path, config: &Config, report: &Report, took: Duration) -> Result<()> {
    let shards = report.files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "safetensors"));
    let (kind, layers) = (config.model_type.name(), config.num_hidden_layers);
    writeln!(
        std::io::stdout(),
        "{}: {kind} with {layers} layers, {} parameters, {} in {} file(s), {:.1} s",
        out.display(),
        count(report.parameters),
        bytes(report.bytes),
        shards.count(),
        took.as_secs_f64()
    )?;
    Ok(())
}

/// Bytes from `5GB`, `500 MB`, `2GiB` or a plain number.
fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size such as 500MB, 5GB or 2GiB, got {text:?}");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| expected())?;
    let unit: f64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(expected()),
    };
    let bytes = number * unit;
    if bytes.is_finite() && bytes >= 1.0 { Ok(bytes as u64) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes() {
        let check = |text: &str, want: Option<u64>| assert_eq!(parse_size(text).ok(), want, "{text}");
        check("5GB", Some(5_000_000_000));
        check("0.5 gb", Some(500_000_000));
        check("2GiB", Some(2 << 30));
        check("700", Some(700));
        check("0", None);
        check("-1GB", None);
        check("5 apples", None);
        check("GB", None);
        check("", None);
    }
}
