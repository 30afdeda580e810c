//! `fathom tokenize`.

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use fathom_engine::Language;
use serde_json::json;

use crate::input;
use crate::model_args::require_model;

/// Turn text into token ids and back.
///
/// Ids are printed as a JSON list, without bos and eos unless --add-special-tokens. With --decode the input is ids
/// (JSON, or numbers between white space) and the output is exactly their text: no line end is added when it
/// is piped on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom tokenize --model DIR --text 'Hello, world!'          [19923, 14, 2058, 3]
  fathom tokenize --model DIR --file book.txt --count
  echo '[19923, 14, 2058, 3]' | fathom tokenize --model DIR --decode")]
pub(crate) struct Args {
    /// Directory with tokenizer.json (and tokenizer_config.json)
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// The text, or ids with --decode
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    text: Option<String>,

    /// Read from a file, as it is; - is standard input, which is also read if neither is given
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// From ids to text
    #[arg(long)]
    decode: bool,

    /// Print how many tokens there are
    #[arg(long)]
    count: bool,

    /// Add bos and eos as the model's tokenizer_config.json says
    #[arg(long, conflicts_with_all = ["decode", "plain"])]
    add_special_tokens: bool,

    /// Take control tokens written out in the text, such as <｜User｜>, as plain characters
    #[arg(long, conflicts_with = "decode")]
    plain: bool,

    /// With --decode: leave special tokens out of the text
    #[arg(long, requires = "decode")]
    skip_special_tokens: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    require_model(&args.model)?;
    let tokenizer = Language::open(&args.model)?.tokenizer()?;
    let text = match args.text {
        Some(text) => text,
        None => input::read_text_or_pipe(args.file.as_deref())?
            .context("no input: give --text or --file, or pipe it in")?,
    };
    let ids = if args.decode {
        let ids = input::parse_token_ids(&text)?;
        if let Some(position) = ids.iter().position(|&id| tokenizer.id_to_token(id).is_none()) {
            let (id, count) = (ids[position], tokenizer.vocab_size());
            bail!("id {id} at position {position} is not in tokenizer.json, which has {count} ids");
        }
        ids
    } else if args.plain {
        tokenizer.encode_plain(&text)?
    } else {
        tokenizer.encode(&text, args.add_special_tokens)?
    };
    let mut out = stdout().lock();
    if args.count {
        writeln!(out, "{}", ids.len())?;
    } else if args.decode {
        out.write_all(tokenizer.decode(&ids, args.skip_special_tokens)?.as_bytes())?;
        if out.is_terminal() {
            out.write_all(b"\n")?;
        }
    } else {
        writeln!(out, "{}", json!(ids))?;
    }
    Ok(out.flush()?)
}
