//! `fathom data poems`.

use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use fathom_data::generate::Split;
use fathom_data::generate::poems::{Filter, Given, Poem, Rejection, Row};
use serde_json::json;

use super::{Lines, Side};

/// Regular poems of a collection, as conversations or as plain documents: one JSON object per line.
///
/// Reads JSON lines with `title` and `paragraphs` and keeps 五言絕句, 七言絕句, 五言律詩 and 七言律詩 whose lines have exactly
/// five or seven Han characters, each once. A conversation asks for the form and the title, the form and the first
/// line, or the title alone, in simplified or traditional Chinese or English.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  zstd -dc poems.jsonl.zst | fathom data poems --poems - --out train.jsonl
  fathom data poems --poems poems.jsonl --out text.jsonl --form text
  fathom data poems --poems poems.jsonl --out test.jsonl --split held-out")]
pub(crate) struct Args {
    /// The collection, as JSON lines; - is standard input
    #[arg(long, value_name = "FILE.jsonl")]
    poems: PathBuf,

    /// Where to write
    #[arg(long, value_name = "FILE.jsonl")]
    out: PathBuf,

    /// chat: `messages`; text: `text`, the title and the poem
    #[arg(long, value_enum, default_value_t = Form::Chat)]
    form: Form,

    /// Which phrases ask for which poem
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// The side of the split
    #[arg(long, value_enum, default_value_t = Side::Train)]
    split: Side,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Form {
    Chat,
    Text,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let split: Split = args.split.into();
    let (mut filter, mut lines) = (Filter::default(), Lines::create(&args.out)?);
    let (mut kept, mut other, mut irregular, mut duplicates) = (0u64, 0u64, 0u64, 0u64);
    for (number, line) in open(&args.poems)?.lines().enumerate() {
        let place = || format!("{}, line {}", args.poems.display(), number + 1);
        let row: Row = serde_json::from_str(&line.with_context(place)?)
            .with_context(|| format!("{}: expected an object with title and paragraphs", place()))?;
        match filter.take(&row) {
            Ok(poem) if poem.split() == split => {
                kept += 1;
                match args.form {
                    Form::Text => lines.write(&json!({ "text": poem.document() }))?,
                    Form::Chat => write_chat(&mut lines, &poem, args.seed, number as u64)?,
                }
            }
            Ok(_) => other += 1,
            Err(Rejection::NoRegularForm) => irregular += 1,
            Err(Rejection::Duplicate) => duplicates += 1,
        }
    }
    lines.finish()?;
    eprintln!(
        "{kept} poems; {other} on the other side, {irregular} of no regular form, {duplicates} seen before"
    );
    Ok(())
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(stdin())));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// One conversation: title, first line and title alone take turns, the first line where there is no title.
fn write_chat(lines: &mut Lines, poem: &Poem, seed: u64, number: u64) -> Result<()> {
    let given = [Given::Title, Given::FirstLine, Given::Title, Given::FirstLine, Given::TitleAlone];
    let request = poem
        .request(seed, number, given[(number % 5) as usize])
        .or_else(|| poem.request(seed, number, Given::FirstLine))
        .expect("every poem has a first line");
    lines.write(&json!({
        "messages": poem.turns(&request),
        "form": request.form,
        "given": request.given,
    }))
}
