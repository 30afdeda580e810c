//! `fathom generate`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fathom_engine::{
    Completion, Event, Language, SamplingParams, Session, TokenLogprobs, check_prompt, eos_token_ids,
};
use fathom_text::{Message, Tokenizer};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::input;
use crate::interrupt::{self, Interrupted, Second};
use crate::language::{ChatWriter, Prompt};
use crate::model_args::{ModelArgs, read_config};
use crate::sampling_args::SamplingArgs;
use crate::terminal::LateBar;

/// Generate text from a prompt.
///
/// The prompt comes from --prompt, --file, --tokens or standard input. It is taken as what a user says and put into
/// the model's chat template; --raw continues it as it is. The answer streams to standard output, the reasoning of
/// models that reason to standard error (dimmed, before the answer, on a terminal). Ctrl-C ends the answer, keeps
/// what there is, and exits with code 130.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom generate --model DIR --prompt 'Why is the sky blue?' --max-tokens 200
  git diff | fathom generate --model DIR --system 'Write a commit message.' --temperature 0.3
  fathom generate --model DIR --raw --prompt 'Once upon a time' --seed 7 --stop 'The end'
  fathom generate --model DIR --tokens ids.json --greedy --ignore-eos --max-tokens 32 --dtype f32 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The prompt; a single - means standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["file", "tokens"])]
    prompt: Option<String>,

    /// Read the prompt from a file (- is standard input), without its last line end
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    file: Option<PathBuf>,

    /// Take token ids from a JSON file, [0, 17, 4]; needs no tokenizer together with --json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "system"])]
    tokens: Option<PathBuf>,

    /// Continue the text as it is, without the chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,

    /// Instructions that stand before the prompt in the chat template
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,

    /// Print one JSON object at the end: text, reasoning, token ids, log-probabilities, timings, finish reason
    #[arg(long)]
    json: bool,

    /// With --json: report the N likeliest tokens beside each chosen one (their raw log-probabilities)
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,

    /// Go on after the model's end tokens
    #[arg(long)]
    ignore_eos: bool,

    #[command(flatten)]
    sampling: SamplingArgs,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let dir = &args.model.model;
    let config = read_config(dir)?;
    let language = Language::open(dir)?;
    let tokenizer = match (&args.tokens, args.json) {
        (Some(_), true) => language.tokenizer_if_present()?,
        (Some(_), false) => Some(language.tokenizer_if_present()?.with_context(|| {
            format!(
                "{} has no tokenizer.json to turn the answer into text with; give --json to get its token ids, or \
                 copy tokenizer.json and tokenizer_config.json from the model's release into it",
                dir.display()
            )
        })?),
        (None, _) => Some(language.tokenizer()?),
    };
    let prompt = prompt(&args, &language, tokenizer.as_ref())?;
    let recommendation = language.recommendation()?;
    let params = SamplingParams {
        logprobs: args.logprobs,
        ignore_eos: args.ignore_eos,
        ..args.sampling.params(&recommendation)
    };
    args.sampling.check(&params, dir, config.vocab_size)?;
    check_prompt(&config, args.sampling.context, &prompt.ids)?;

    let loading = Instant::now();
    let model = args.model.load(false)?;
    let load = loading.elapsed();
    interrupt::catch(Second::Ends)?;
    let eos = eos_token_ids(&config, &recommendation, tokenizer.as_ref());
    let mut session = Session::new(&model, tokenizer.as_ref(), eos, args.sampling.context)?;
    let chat = !args.raw && args.tokens.is_none();
    let mut answer = Answer::new(chat.then(|| prompt.splitter()), !args.json);
    let completion = stream(&mut session, &prompt.ids, &params, &mut answer)?;
    if args.json {
        println_json(&report(&completion, &answer, &prompt, load))?;
    }
    if interrupt::pressed() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Generates, showing what comes; ends early on Ctrl-C or if nobody reads the output any more.
pub(crate) fn stream(
    session: &mut Session<'_>,
    prompt: &[u32],
    params: &SamplingParams,
    answer: &mut Answer,
) -> Result<Completion> {
    let mut written = Ok(());
    let mut bar = Some(LateBar::of_tokens("reading"));
    let completion = session.generate(prompt, params, &mut |event| {
        match event {
            Event::Prefill { done, total } if done < total => {
                bar.iter_mut().for_each(|bar| bar.set(done as u64, total as u64));
            }
            // The line is needed for the answer.
            Event::Prefill { .. } => bar = None,
            Event::Token(_) => {}
            Event::Text(text) => written = answer.push(text),
        }
        if interrupt::pressed() || written.is_err() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    drop(bar);
    let completion = completion?;
    written?;
    answer.finish()?;
    Ok(completion)
}

fn prompt(args: &Args, language: &Language, tokenizer: Option<&Tokenizer>) -> Result<Prompt> {
    if let Some(file) = &args.tokens {
        let ids = input::read_token_list(file)?;
        if ids.is_empty() {
            bail!("{}: the prompt is empty; give at least one token id", file.display());
        }
        return Ok(Prompt { ids, starts_in_reasoning: false });
    }
    let text = match &args.prompt {
        Some(prompt) if prompt != "-" => Some(prompt.clone()),
        Some(_) => Some(input::read_text("-".as_ref())?),
        None => input::read_text_or_pipe(args.file.as_deref())?,
    };
    let text = text.context("no prompt: give --prompt, --file or --tokens, or pipe text in")?;
    let text = if args.prompt.as_deref().is_some_and(|prompt| prompt != "-") {
        text.as_str()
    } else {
        input::without_last_line_end(&text)
    };
    if text.is_empty() {
        bail!("the prompt is empty; give at least one character (or token ids with --tokens)");
    }
    let tokenizer = tokenizer.context("text needs a tokenizer")?;
    if args.raw {
        return Ok(Prompt { ids: tokenizer.encode(text, true)?, starts_in_reasoning: false });
    }
    let system = args.system.iter().map(Message::system);
    let messages: Vec<Message> = system.chain([Message::user(text)]).collect();
    ChatWriter::new(language, tokenizer, None)?.prompt(&messages)
}

fn report(completion: &Completion, answer: &Answer, prompt: &Prompt, load: Duration) -> Value {
    let seconds = |time: Duration| time.as_secs_f64();
    let tokens = completion.tokens.len();
    json!({
        "text": completion.text.as_ref().map(|_| &answer.content),
        "reasoning": Some(&answer.reasoning).filter(|reasoning| !reasoning.is_empty()),
        "finish_reason": completion.finish_reason,
        "token_ids": completion.token_ids(),
        "prompt_token_ids": prompt.ids,
        "logprobs": completion.tokens.iter().map(token_report).collect::<Vec<_>>(),
        "seed": completion.seed,
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": completion.prompt_tokens + tokens,
        },
        "timings": {
            "load_s": seconds(load),
            "prefill_s": seconds(completion.timings.prefill),
            "decode_s": seconds(completion.timings.decode),
        },
        "prefill_tokens_per_second": completion.prefill_tokens_per_second(),
        "tokens_per_second": completion.decode_tokens_per_second(),
    })
}

fn token_report(token: &TokenLogprobs) -> Value {
    let top = |&(id, logprob): &(u32, f32)| json!({ "token_id": id, "logprob": logprob });
    json!({
        "token_id": token.token_id,
        "logprob": token.logprob,
        "top": token.top.iter().map(top).collect::<Vec<_>>(),
    })
}

/// One object on one line.
pub(crate) fn println_json(value: &Value) -> Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{value}")?)
}
