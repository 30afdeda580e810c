//! `fathom data arithmetic`.

use std::path::PathBuf;

use anyhow::Result;
use fathom_data::generate::arithmetic::Problem;
use serde_json::json;

use super::{Lines, Side};

/// Arithmetic problems with their reasoning, as conversations: one JSON object per line, with `messages`.
///
/// Sums, differences and products of numbers up to four digits, division with remainder, and short stories, in English
/// and Chinese. Problem number i
/// depends on the seed and i alone. Operations are split by a hash of their operands: no training problem contains a
/// held-out operation, and every held-out problem contains at least one.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fathom data arithmetic --out train.jsonl --count 200000 --seed 1
  fathom data arithmetic --out test.jsonl --count 1000 --seed 2 --split held-out")]
pub(crate) struct Args {
    /// Where to write
    #[arg(long, value_name = "FILE.jsonl")]
    out: PathBuf,

    /// How many problems
    #[arg(long, value_name = "N")]
    count: u64,

    /// Which problems
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// The side of the split
    #[arg(long, value_enum, default_value_t = Side::Train)]
    split: Side,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut lines = Lines::create(&args.out)?;
    for number in 0..args.count {
        let problem = Problem::generate(args.seed, number, args.split.into());
        let expressions: Vec<String> = problem.expressions.iter().map(ToString::to_string).collect();
        lines.write(&json!({
            "messages": problem.turns(),
            "expressions": expressions,
            "story": problem.story,
            "language": problem.language,
            "answer": problem.answer,
        }))?;
    }
    lines.finish()
}
