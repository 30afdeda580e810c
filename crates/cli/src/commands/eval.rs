//! `fathom eval`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use fathom_data::generate::poems::Row;
use fathom_engine::{Language, SamplingParams, eos_token_ids};
use fathom_eval::tasks::{Arithmetic, Poems, Results, Task};
use fathom_eval::{Answer, Answering, answers};
use fathom_text::{Message, Tokenizer};
use serde_json::json;

use crate::commands::generate::println_json;
use crate::interrupt::{self, Interrupted, Second};
use crate::language::{ChatWriter, Prompt};
use crate::model_args::{ModelArgs, read_config};
use crate::sampling_args::SamplingArgs;
use crate::terminal::LateBar;

/// Ask a model questions that a program can judge.
///
/// arithmetic: sums, differences, products, divisions with remainder and short stories, in English and Chinese, on the
/// held-out side of `fathom data arithmetic`; only the exact result, as it is asked for, counts. poems: regular classical
/// poems by form and title, by form and first line, or by title, all of them held out; what counts is the form: lines,
/// characters, punctuation. Answers are sampled as the model's
/// generation_config.json recommends, unless flags say otherwise; the seed is 0 unless given, so that a result can be
/// repeated.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom eval --model DIR --task arithmetic --count 1000
  fathom eval --model DIR --task arithmetic --greedy --answers answers.jsonl --json
  zstd -dc poems.jsonl.zst | fathom eval --model DIR --task poems --poems - --count 500")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// What to ask
    #[arg(long, value_enum)]
    task: Asked,

    /// How many questions
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: usize,

    /// Which questions
    #[arg(long, value_name = "N", default_value_t = 2)]
    questions: u64,

    /// For --task poems: the collection that `fathom data poems` read, as JSON lines; - is standard input
    #[arg(long, value_name = "FILE.jsonl", required_if_eq("task", "poems"))]
    poems: Option<PathBuf>,

    /// Questions answered at a time. Answers depend on it only as far as sums of another order round differently
    #[arg(long, value_name = "N", default_value_t = 16)]
    parallel: usize,

    /// Write every question with the model's answer and the verdict, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl")]
    answers: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sampling: SamplingArgs,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Arithmetic,
    Poems,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let dir = &args.model.model;
    let config = read_config(dir)?;
    let language = Language::open(dir)?;
    let tokenizer = language.tokenizer()?;
    let recommendation = language.recommendation()?;
    let sampling = args.sampling.params(&recommendation);
    let params = SamplingParams { seed: Some(sampling.seed.unwrap_or(0)), ..sampling };
    args.sampling.check(&params, dir, config.vocab_size)?;
    let context = args.sampling.context.unwrap_or(config.max_position_embeddings);
    let task = task(&args)?;
    let writer = ChatWriter::new(&language, &tokenizer, None)?;
    let prompts: Vec<Prompt> = (0..task.len())
        .map(|number| writer.prompt(&[Message::user(task.question(number))]))
        .collect::<Result<_>>()?;
    let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
    let model = args.model.load(false)?;
    interrupt::catch(Second::Ends)?;

    let started = Instant::now();
    let mut bar = LateBar::of_questions("asking");
    let eos = eos_token_ids(&config, &recommendation, Some(&tokenizer));
    let how = Answering { params: &params, eos_token_ids: &eos, width: args.parallel, context };
    let given = answers(&model, &ids, &how, &mut |done| {
        bar.set(done as u64, ids.len() as u64);
        if interrupt::pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    drop(bar);
    if interrupt::pressed() {
        return Err(Interrupted.into());
    }
    let seconds = started.elapsed().as_secs_f64();
    let results = judge(&args, task.as_ref(), &tokenizer, &prompts, &given)?;
    let tokens: usize = given.iter().map(|answer| answer.ids.len()).sum();
    print(&args, task.as_ref(), &results, (tokens, seconds))
}

fn task(args: &Args) -> Result<Box<dyn Task>> {
    let task: Box<dyn Task> = match (args.task, &args.poems) {
        (Asked::Poems, Some(file)) => {
            let mut rows = Vec::new();
            for (number, line) in open(file)?.lines().enumerate() {
                let place = || format!("{}, line {}", file.display(), number + 1);
                let row: Row = serde_json::from_str(&line.with_context(place)?)
                    .with_context(|| format!("{}: expected an object with title and paragraphs", place()))?;
                rows.push(row);
            }
            Box::new(Poems::new(rows.into_iter(), args.questions, args.count))
        }
        _ => Box::new(Arithmetic::new(args.questions, args.count)),
    };
    if task.is_empty() {
        bail!("there is no question to ask: give a larger --count, or a collection with regular poems");
    }
    Ok(task)
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Counts right answers, and writes all of them down where asked to.
fn judge(
    args: &Args,
    task: &dyn Task,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    given: &[Answer],
) -> Result<Results> {
    let mut results = Results::default();
    let mut file = match &args.answers {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Some((BufWriter::new(file), path))
        }
        None => None,
    };
    for (number, (answer, prompt)) in given.iter().zip(prompts).enumerate() {
        let mut parts = crate::answer::Answer::new(Some(prompt.splitter()), false);
        parts.push(&tokenizer.decode(&answer.ids, false)?)?;
        parts.finish()?;
        // An answer that was cut off is none.
        let right = results.count(task, number, if answer.finished { &parts.content } else { "" });
        if let Some((file, path)) = &mut file {
            let line = json!({
                "question": task.question(number),
                "kind": task.kind(number),
                "reasoning": parts.reasoning,
                "answer": parts.content,
                "finished": answer.finished,
                "right": right,
            });
            writeln!(file, "{line}").with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if let Some((mut file, path)) = file {
        file.flush().with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(results)
}

fn print(args: &Args, task: &dyn Task, results: &Results, (tokens, seconds): (usize, f64)) -> Result<()> {
    let [low, high] = results.all.interval();
    if args.json {
        return println_json(&json!({
            "task": task.name(),
            "right": results.all.right,
            "of": results.all.of,
            "share": results.all.share(),
            "interval_95": [low, high],
            "kinds": results.kinds,
            "tokens": tokens,
            "seconds": seconds,
        }));
    }
    let mut out = stdout().lock();
    for (kind, tally) in &results.kinds {
        writeln!(out, "{:6.2} %  {:5} of {:5}  {kind}", 100.0 * tally.share(), tally.right, tally.of)?;
    }
    writeln!(
        out,
        "{:6.2} %  {:5} of {:5}  {} (95 % confidence: {:.1} to {:.1} %)",
        100.0 * results.all.share(),
        results.all.right,
        results.all.of,
        task.name(),
        100.0 * low,
        100.0 * high,
    )?;
    writeln!(out, "{tokens} tokens in {seconds:.1} s")?;
    Ok(())
}
