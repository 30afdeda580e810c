//! Input files become stages: one thread reads, all threads work, one writes what they did in its order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use twox_hash::{XxHash3_64, XxHash3_128};

use super::config::PrepareConfig;
use super::counts::Counts;
use super::documents::{Processed, Recipe};
use super::input::{InputFile, RawRecords, Reader};
use super::stage::{Stage, StageWriter};
use super::{Outcome, Phase, Progress};
use crate::{Error, Result, ShardLayout};

/// Part of every key: stages of another version are made again.
const VERSION: u32 = 1;

/// What is to become of which file.
pub(crate) struct Plan<'c> {
    pub(crate) config: &'c PrepareConfig,
    pub(crate) recipe: Recipe,
    pub(crate) files: Vec<PlannedFile>,
    directory: PathBuf,
    token_bytes: usize,
}

/// An input file and its stage.
pub(crate) struct PlannedFile {
    pub(crate) input: InputFile,
    name: String,
    key: String,
}

/// Records on their way to a worker.
struct Job {
    number: u64,
    file: usize,
    /// `None` at the end of the file.
    records: Option<Result<RawRecords>>,
}

/// What came of them.
struct Done {
    file: usize,
    /// `None` at the end of the file.
    processed: Option<Result<Processed>>,
    work: Duration,
}

impl<'c> Plan<'c> {
    pub(crate) fn new(
        config: &'c PrepareConfig,
        recipe: Recipe,
        files: Vec<InputFile>,
        directory: &Path,
    ) -> Result<Self> {
        let vocab_size = recipe.vocab_size();
        let token_bytes = ShardLayout { vocab_size, masked: false }.token_bytes();
        let common = recipe.fingerprint(config);
        let plan = |input: InputFile| {
            let path = input.path.canonicalize().map_err(Error::io(&input.path, "open"))?;
            let source = &config.source[input.source];
            let name = format!("{}\0{}", source.name, path.display());
            let key =
                json!([VERSION, common, source.of_documents(), input.bytes, input.modified.to_string()]);
            let key = format!("{:032x}", XxHash3_128::oneshot(key.to_string().as_bytes()));
            Ok(PlannedFile { input, name: format!("{:016x}", XxHash3_64::oneshot(name.as_bytes())), key })
        };
        let files = files.into_iter().map(plan).collect::<Result<_>>()?;
        Ok(Self { config, recipe, files, directory: directory.to_owned(), token_bytes })
    }

    /// Makes the stages of the files that `chosen` takes, but for those that are there.
    pub(crate) fn make(&self, chosen: impl Fn(usize) -> bool, progress: &Progress<'_>) -> Result<Outcome> {
        let mut wanted = Vec::new();
        let (mut found, mut missing) = (0, 0);
        for file in 0..self.files.len() {
            match (self.stage(file)?.is_some(), chosen(file)) {
                (true, true) => found += 1,
                (true, false) => {}
                (false, true) => wanted.push(file),
                (false, false) => missing += 1,
            }
        }
        self.run(&wanted, progress)?;
        Ok(Outcome::Stages { made: wanted.len() as u64, found, missing })
    }

    /// All stages.
    pub(crate) fn stages(&self) -> Result<Vec<Stage>> {
        let stages: Vec<Option<Stage>> =
            (0..self.files.len()).map(|file| self.stage(file)).collect::<Result<_>>()?;
        match stages.iter().position(Option::is_none) {
            None => Ok(stages.into_iter().flatten().collect()),
            Some(first) => Err(Error::MissingStages {
                missing: stages.iter().filter(|stage| stage.is_none()).count(),
                files: stages.len(),
                first: self.files[first].input.path.clone(),
                index: first,
            }),
        }
    }

    fn stage(&self, file: usize) -> Result<Option<Stage>> {
        let planned = &self.files[file];
        Stage::open(&self.directory, &planned.name, &planned.key)
    }

    fn run(&self, wanted: &[usize], progress: &Progress<'_>) -> Result<()> {
        let threads = match self.config.threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let read = Arc::new(AtomicU64::new(0));
        let (jobs, taken) = channel();
        let (results, done) = channel();
        // No more batches are under way than there are permits, however long one of them takes.
        let (permit, permits) = channel();
        for _ in 0..4 * threads {
            permit.send(()).expect("the receiver is here");
        }
        let taken = Mutex::new(taken);
        thread::scope(|scope| {
            let counter = Arc::clone(&read);
            scope.spawn(move || self.read_files(wanted, &counter, &permits, &jobs));
            for _ in 0..threads {
                let (taken, results) = (&taken, results.clone());
                scope.spawn(move || self.work(taken, &results));
            }
            drop(results);
            let total = wanted.iter().map(|&file| self.files[file].input.bytes).sum();
            let tell = || progress(Phase::Stages, read.load(Ordering::Relaxed).min(total), total);
            // When this returns, `done` and `permit` are dropped, and the other threads end.
            self.write_stages(done, permit, tell)
        })
    }

    fn read_files(
        &self,
        wanted: &[usize],
        read: &Arc<AtomicU64>,
        permits: &Receiver<()>,
        jobs: &Sender<Job>,
    ) {
        let mut number = 0;
        let mut send = |file, records| {
            let sent = permits.recv().is_ok() && jobs.send(Job { number, file, records }).is_ok();
            number += 1;
            sent
        };
        for &file in wanted {
            let input = &self.files[file].input;
            let mut reader = match Reader::open(input, &self.config.source[input.source], Arc::clone(read)) {
                Ok(reader) => reader,
                Err(error) => {
                    send(file, Some(Err(error)));
                    return;
                }
            };
            loop {
                let (records, last) = match reader.next() {
                    Ok(Some(records)) => (Some(Ok(records)), false),
                    Ok(None) => (None, false),
                    Err(error) => (Some(Err(error)), true),
                };
                let ended = records.is_none();
                if !send(file, records) || last {
                    return;
                }
                if ended {
                    break;
                }
            }
        }
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>, results: &Sender<(u64, Done)>) {
        let mut worker = self.recipe.worker();
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { number, file, records }) = job else { return };
            let started = Instant::now();
            let input = &self.files[file].input;
            let processed =
                records.map(|records| records.and_then(|records| worker.process(input, &records)));
            if results.send((number, Done { file, processed, work: started.elapsed() })).is_err() {
                return;
            }
        }
    }

    /// Takes results in the order in which their records were read.
    fn write_stages(
        &self,
        done: Receiver<(u64, Done)>,
        permit: Sender<()>,
        tell: impl Fn() -> ControlFlow<()>,
    ) -> Result<()> {
        let (mut early, mut next) = (BTreeMap::new(), 0);
        let mut open: Option<OpenStage> = None;
        for (number, result) in done {
            early.insert(number, result);
            while let Some(result) = early.remove(&next) {
                next += 1;
                // The reader has ended when it needs no more.
                let _ = permit.send(());
                self.take(result, &mut open)?;
            }
            if tell().is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    fn take(&self, result: Done, open: &mut Option<OpenStage>) -> Result<()> {
        let planned = &self.files[result.file];
        let stage = match open {
            Some(stage) => stage,
            None => {
                let bands = self.recipe.bands(self.config, planned.input.source);
                let writer = StageWriter::create(&self.directory, &planned.name, self.token_bytes, bands)?;
                open.insert(OpenStage { writer, counts: Counts::default(), work: Duration::ZERO })
            }
        };
        stage.work += result.work;
        match result.processed {
            Some(processed) => {
                let processed = processed?;
                stage.counts.add(&processed.counts);
                stage.writer.append(&processed.kept, &processed.ids, &processed.keys)
            }
            None => {
                let OpenStage { writer, counts, work } = open.take().expect("it is open");
                writer.finish(planned.key.clone(), counts, work.as_secs_f64())
            }
        }
    }
}

struct OpenStage {
    writer: StageWriter,
    counts: Counts,
    work: Duration,
}
