//! `fathom data inspect`.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use fathom_data::{Dataset, Document, Split, Verify};
use fathom_text::Tokenizer;
use serde_json::{Value, json};

use super::table::table;
use crate::terminal::without_controls;

/// What a prepared dataset holds.
///
/// Prints its splits, tokenizer and sources, and with --show its first documents. What the model reads but does not learn
/// (in datasets with a mask) is shown in brackets ⟦…⟧.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom data inspect data
  fathom data inspect data --show 3 --split validation
  fathom data inspect data --verify --json")]
pub(crate) struct Args {
    /// The dataset
    #[arg(value_name = "DIR")]
    dataset: PathBuf,

    /// Print the first documents as text
    #[arg(long, value_name = "N", default_value_t = 0)]
    show: u64,

    /// Of which split
    #[arg(long, value_enum, default_value_t = Name::Train)]
    split: Name,

    /// Read everything and compare it with its checksums
    #[arg(long)]
    verify: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Name {
    Train,
    Validation,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let verify = if args.verify { Verify::Content } else { Verify::Structure };
    let dataset = Dataset::open(&args.dataset, verify)?;
    let tokenizer = Tokenizer::from_dir(&args.dataset)?;
    let split = match args.split {
        Name::Train => dataset.train(),
        Name::Validation => dataset.validation(),
    };
    let documents = (0..args.show.min(split.documents())).map(|index| split.document(index));
    let documents = documents.collect::<fathom_data::Result<Vec<Document>>>()?;
    let mut out = stdout();
    if args.json {
        writeln!(out, "{:#}", as_json(&dataset, &tokenizer, &documents)?)?;
        return Ok(());
    }
    write_summary(&mut out, &dataset)?;
    for (index, document) in documents.iter().enumerate() {
        writeln!(out, "\n── document {index}, {} tokens", document.tokens.len())?;
        writeln!(out, "{}", without_controls(&text(&tokenizer, document)?))?;
    }
    Ok(())
}

/// A document as text, control tokens included; what is not learnt in brackets.
fn text(tokenizer: &Tokenizer, document: &Document) -> Result<String> {
    let Some(learn) = &document.learn else { return Ok(tokenizer.decode(&document.tokens, false)?) };
    let mut text = String::new();
    let mut rest = (&*document.tokens, &**learn);
    while let (tokens, [first, ..]) = rest {
        let same = rest.1.iter().take_while(|learn| *learn == first).count();
        let part = tokenizer.decode(&tokens[..same], false)?;
        text += &if *first { part } else { format!("⟦{part}⟧") };
        rest = (&rest.0[same..], &rest.1[same..]);
    }
    Ok(text)
}

fn bytes_per_token(split: &Split) -> f64 {
    split.text_bytes() as f64 / split.tokens().max(1) as f64
}

fn as_json(dataset: &Dataset, tokenizer: &Tokenizer, documents: &[Document]) -> Result<Value> {
    let manifest = dataset.manifest();
    let split = |split: &Split, shards: usize| {
        json!({
            "tokens": split.tokens(),
            "documents": split.documents(),
            "text_bytes": split.text_bytes(),
            "bytes_per_token": bytes_per_token(split),
            "shards": shards,
        })
    };
    let shown = |document: &Document| -> Result<Value> {
        Ok(json!({ "tokens": document.tokens, "learn": document.learn, "text": text(tokenizer, document)? }))
    };
    Ok(json!({
        "fingerprint": dataset.fingerprint(),
        "masked": dataset.is_masked(),
        "tokenizer": manifest.tokenizer,
        "train": split(dataset.train(), manifest.train.shards.len()),
        "validation": split(dataset.validation(), manifest.validation.shards.len()),
        "sources": manifest.sources,
        "documents": documents.iter().map(shown).collect::<Result<Vec<_>>>()?,
    }))
}

fn write_summary(out: &mut impl Write, dataset: &Dataset) -> Result<()> {
    let manifest = dataset.manifest();
    let mut rows =
        vec![["split", "documents", "tokens", "text MB", "bytes/token", "shards"].map(str::to_owned)];
    for (name, split, entry) in [
        ("train", dataset.train(), &manifest.train),
        ("validation", dataset.validation(), &manifest.validation),
    ] {
        rows.push([
            name.to_owned(),
            split.documents().to_string(),
            split.tokens().to_string(),
            format!("{:.2}", split.text_bytes() as f64 / 1e6),
            format!("{:.3}", bytes_per_token(split)),
            entry.shards.len().to_string(),
        ]);
    }
    writeln!(out, "{}", table(&rows))?;
    let mut rows = vec![["source", "documents", "tokens", "epochs", "licence"].map(str::to_owned)];
    for source in &manifest.sources {
        rows.push([
            source.name.clone(),
            source.documents.to_string(),
            source.tokens.to_string(),
            format!("{:.2}", source.epochs),
            source.license.clone(),
        ]);
    }
    writeln!(out, "{}", table(&rows))?;
    let tokenizer = &manifest.tokenizer;
    let id = |id: Option<u32>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    writeln!(
        out,
        "tokenizer: {} ids, bos {}, eos {}, hash {}",
        tokenizer.vocab_size,
        id(tokenizer.bos_token_id),
        id(tokenizer.eos_token_id),
        tokenizer.hash
    )?;
    let learnt = if dataset.is_masked() { "answers only (masked)" } else { "every token" };
    writeln!(out, "learnt: {learnt}\nfingerprint: {}", dataset.fingerprint())?;
    Ok(())
}
