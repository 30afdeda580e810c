//! How fast a corpus becomes a dataset.
//!
//! `cargo bench -p fathom-data --bench prepare -- data.toml [KEY=VALUE …]` prepares it three times, into a scratch directory beside `out`,
//! and prints megabytes (10^6 bytes) of text read per second of wall clock and of processor time, end to end. Processor
//! time is what says something on a machine that others use too; it is read from Linux.

use fathom_data::prepare::{Outcome, Part, PrepareConfig, prepare};
use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [file, overrides @ ..] = &*arguments else { return Err("which data.toml?".into()) };
    let mut config = PrepareConfig::read(Path::new(file), overrides)?;
    config.out.set_extension("bench");
    for _ in 0..ROUNDS {
        let _ = fs::remove_dir_all(&config.out);
        let (started, processor) = (Instant::now(), processor_seconds());
        let Outcome::Dataset(report) = prepare(&config, Part::All, &|_, _, _| ControlFlow::Continue(()))?
        else {
            return Err("no dataset came of it".into());
        };
        let wall = started.elapsed().as_secs_f64();
        let used = processor.and_then(|before| Some(processor_seconds()? - before));
        let megabytes = report.total.counts.text_bytes_in as f64 / 1e6;
        let per_processor = used.map_or(f64::NAN, |used| megabytes / used);
        println!(
            "{megabytes:.1} MB of text: {wall:.2} s, {:.1} MB/s; {per_processor:.1} MB per second of processor time; \
             {:.1} MB/s of a working thread",
            megabytes / wall,
            report.time.text_megabytes_per_work_second
        );
    }
    let _ = fs::remove_dir_all(&config.out);
    Ok(())
}

/// User and system time of this process so far, in hundredths.
fn processor_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / 100.0)
}
