//! `fathom chat`.

use std::io::stderr;
use std::path::Path;

use anyhow::{Context, Result};
use fathom_engine::{
    Completion, FinishReason, Language, SamplingParams, Session, check_prompt, eos_token_ids,
};

use crate::answer::Answer;
use crate::commands::generate::stream;
use crate::conversation::{Conversation, HELP, Reply, Typed};
use crate::interrupt::{self, Second};
use crate::language::{ChatWriter, Prompt};
use crate::line_reader::{LineReader, Read};
use crate::model_args::{ModelArgs, read_config};
use crate::sampling_args::SamplingArgs;
use crate::terminal::Dim;

/// Talk with a model in the terminal.
///
/// Answers stream; reasoning stands dimmed before them. Ctrl-C stops an answer, Ctrl-D or /quit ends. /help lists the
/// commands: /reset /system /save /regenerate /quit. Only what is new of a conversation is computed; when it outgrows
/// the context, the oldest exchanges are forgotten. Where input is piped in, every line is a message and the answers
/// go to standard output.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom chat --model DIR
  fathom chat --model DIR --system 'You are a patient teacher.' --temperature 0.7 --max-tokens 1000
  printf 'Hello!\\n/save talk.json\\n' | fathom chat --model DIR --seed 1")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Instructions that stand before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,

    /// Ask models that can do both to reason (the template variable `thinking`)
    #[arg(long, conflicts_with = "no_think")]
    think: bool,

    /// Ask models that can do both to answer at once
    #[arg(long)]
    no_think: bool,

    #[command(flatten)]
    sampling: SamplingArgs,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let dir = &args.model.model;
    let config = read_config(dir)?;
    let language = Language::open(dir)?;
    let tokenizer = language.tokenizer()?;
    let thinking = (args.think || args.no_think).then_some(args.think);
    let writer = ChatWriter::new(&language, &tokenizer, thinking)?;
    let recommendation = language.recommendation()?;
    let params = args.sampling.params(&recommendation);
    args.sampling.check(&params, dir, config.vocab_size)?;
    check_prompt(&config, args.sampling.context, &[0])?;

    let model = args.model.load(false)?;
    interrupt::catch(Second::Waits)?;
    let eos = eos_token_ids(&config, &recommendation, Some(&tokenizer));
    let session = Session::new(&model, Some(&tokenizer), eos, args.sampling.context)?;
    let reader = LineReader::new()?;
    if reader.is_interactive() {
        let (kind, context) = (config.model_type.name(), session.context());
        aside(&format!("{} ({kind}), context {context} tokens. /help lists the commands.", dir.display()));
    }
    let conversation = Conversation::new(args.system);
    Chat { session, writer, params, conversation, attempt: 0 }.talk(reader)
}

/// Something about the conversation that is not part of it.
fn aside(text: &str) {
    let Dim { on, off } = Dim::for_stream(&stderr());
    eprintln!("{on}{text}{off}");
}

struct Chat<'m> {
    session: Session<'m>,
    writer: ChatWriter<'m>,
    params: SamplingParams,
    conversation: Conversation,
    /// How often the last answer was regenerated: a given seed would repeat it.
    attempt: u64,
}

impl Chat<'_> {
    /// Until the end. A mistake ends the program only if nobody sits there to mend it.
    fn talk(mut self, mut reader: LineReader) -> Result<()> {
        loop {
            let typed = match reader.read()? {
                Read::Text(text) => Typed::parse(&text),
                Read::Interrupted => {
                    aside("Ctrl-D or /quit ends");
                    continue;
                }
                Read::End => return Ok(()),
            };
            if typed == Typed::Quit {
                return Ok(());
            }
            match self.heed(typed) {
                Err(error) if reader.is_interactive() => eprintln!("error: {}", crate::one_line(&error)),
                heeded => heeded?,
            }
        }
    }

    fn heed(&mut self, typed: Typed) -> Result<()> {
        match typed {
            Typed::Nothing | Typed::Quit => {}
            Typed::Help => eprintln!("{HELP}"),
            Typed::Reset => {
                self.conversation.reset();
                aside("the conversation begins anew");
            }
            Typed::System(text) => {
                aside(if text.is_some() { "instructions set" } else { "no instructions" });
                self.conversation.system = text;
            }
            Typed::Save(file) => self.save(Path::new(&file))?,
            Typed::Wrong(reason) => anyhow::bail!(reason),
            Typed::Say(text) => {
                self.attempt = 0;
                self.conversation.say(text);
                self.answer(None)?;
            }
            Typed::Regenerate => match self.conversation.unanswer() {
                Some(before) => {
                    self.attempt += 1;
                    self.answer(Some(before))?;
                }
                None => anyhow::bail!("there is no answer yet to regenerate"),
            },
        }
        Ok(())
    }

    /// Answers the last message. If that fails, the conversation is as before: with the answer `before`, or
    /// without the message.
    fn answer(&mut self, before: Option<Reply>) -> Result<()> {
        interrupt::forget();
        match self.try_answer() {
            Ok((reply, completion)) => {
                self.conversation.answered(reply);
                self.report(&completion);
                Ok(())
            }
            Err(error) => {
                match before {
                    Some(before) => self.conversation.answered(before),
                    None => self.conversation.unsay(),
                }
                Err(error)
            }
        }
    }

    fn try_answer(&mut self) -> Result<(Reply, Completion)> {
        let prompt = self.prompt_that_fits()?;
        let seed = self.params.seed.map(|seed| seed.wrapping_add(self.attempt));
        let params = SamplingParams { seed, ..self.params.clone() };
        let mut answer = Answer::new(Some(prompt.splitter()), true);
        let completion = stream(&mut self.session, &prompt.ids, &params, &mut answer)?;
        Ok((Reply { content: answer.content, reasoning: answer.reasoning }, completion))
    }

    /// The prompt of the conversation, which forgets its oldest exchanges until there is room for an answer.
    fn prompt_that_fits(&mut self) -> Result<Prompt> {
        let context = self.session.context();
        let room = (context / 4).min(256);
        let mut forgotten = 0;
        let mut kept = self.conversation.clone();
        let prompt = loop {
            let prompt = self.writer.prompt(&kept.messages())?;
            if prompt.ids.len() + room <= context || !kept.forget_oldest() {
                break prompt;
            }
            forgotten += 1;
        };
        if prompt.ids.len() < context && forgotten > 0 {
            aside(&format!(
                "the conversation no longer fits the context of {context} tokens: its oldest {forgotten} \
                 exchange(s) are forgotten (--context raises the limit, /reset begins anew)"
            ));
            self.conversation = kept;
        }
        Ok(prompt)
    }

    fn report(&self, completion: &Completion) {
        let tokens = completion.tokens.len();
        let speed = completion.decode_tokens_per_second();
        let speed = speed.map_or_else(String::new, |speed| format!(", {speed:.1} tokens/s"));
        let read = completion.prompt_tokens - completion.cached_tokens;
        let seconds = completion.timings.prefill.as_secs_f64();
        let end = match completion.finish_reason {
            FinishReason::Cancelled => "; stopped",
            FinishReason::Length if self.params.max_tokens == Some(tokens) => "; cut at --max-tokens",
            FinishReason::Length => "; cut: the context is full",
            _ => "",
        };
        aside(&format!("[{tokens} tokens{speed}; {read} read in {seconds:.2} s{end}]"));
    }

    /// Writes the conversation beside its place and moves it there, so that a full disk costs no older one.
    fn save(&self, file: &Path) -> Result<()> {
        let place = fathom_checkpoint::destination(file)?;
        let mut partial = place.as_os_str().to_owned();
        partial.push(".partial");
        let text = format!("{:#}\n", self.conversation.to_json());
        let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, &place));
        if written.is_err() {
            // What is left of it is of no use.
            let _ = std::fs::remove_file(&partial);
        }
        written.with_context(|| format!("cannot write {}", file.display()))?;
        aside(&format!("saved to {}", file.display()));
        Ok(())
    }
}
