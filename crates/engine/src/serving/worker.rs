//! The engine's thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use fathom_kernels::attention::BLOCK_TOKENS;
use fathom_model::{ForwardOptions, LatentCache, LogitRows, Model, MtpSegment, Segment, Sequence, Workspace};
use sha2::{Digest, Sha256};

use super::Shared;
use super::active::{Active, Next};
use super::constraint::MaskWorker;
use super::disk::{Disk, FromDisk};
use super::options::EngineOptions;
use super::pace::Pace;
use super::scheduler::{Limits, Plan, Scheduler, Work};
use crate::error::{Error, Result};
use crate::finish::FinishReason;

/// How often cancellation is looked for while the disk reads.
const DISK_POLL: Duration = Duration::from_millis(20);

/// What the thread is told.
pub(super) enum Message {
    Submit { active: Box<Active>, prompt: Vec<u32>, tenant: String, namespace: String },
    Disk(FromDisk),
    Stop,
}

pub(super) struct Worker {
    model: Model,
    cache: LatentCache,
    workspace: Workspace,
    scheduler: Scheduler,
    active: HashMap<u64, Box<Active>>,
    pace: Pace,
    step_tokens: usize,
    /// Sequences up to which drafts are made; 0 without the module.
    speculation: usize,
    masks: MaskWorker,
    disk: Option<Disk>,
    inbox: Receiver<Message>,
    shared: Arc<Shared>,
    /// Hidden states of a step's rows, for the MTP module.
    hidden: Vec<f32>,
    tokens: Vec<u32>,
}

/// A sequence in a step.
struct Row {
    work: Work,
    active: Box<Active>,
    /// Its rows of the step.
    first: usize,
    rows: usize,
    /// Rows whose tokens turned out right.
    kept: usize,
    next: Next,
    error: Option<String>,
}

impl Worker {
    pub(super) fn new(
        model: Model,
        options: &EngineOptions,
        context: usize,
        shared: Arc<Shared>,
        inbox: Receiver<Message>,
        sender: Sender<Message>,
    ) -> Result<Self> {
        let blocks = options.cache_tokens / BLOCK_TOKENS;
        let mut cache = model.new_block_cache(blocks)?;
        let limits = Limits { sequences: options.sequences, step_tokens: options.step_tokens, context };
        let disk = match &options.disk_cache {
            None => None,
            Some(options) => {
                let fingerprint = fingerprint(&model, &mut cache)?;
                let report = move |report| sender.send(Message::Disk(report)).is_ok();
                Some(Disk::open(options, &fingerprint, report)?)
            }
        };
        let masks = MaskWorker::start()
            .map_err(|source| Error::Io { what: "a thread for grammars".to_owned(), source })?;
        shared.statistics().cache_blocks = blocks;
        Ok(Self {
            speculation: if model.mtp_modules() > 0 { options.speculation } else { 0 },
            model,
            cache,
            workspace: Workspace::default(),
            scheduler: Scheduler::new(limits, blocks),
            active: HashMap::new(),
            pace: Pace::new(options.inter_token_latency),
            step_tokens: options.step_tokens,
            masks,
            disk,
            inbox,
            shared,
            hidden: Vec::new(),
            tokens: Vec::new(),
        })
    }

    pub(super) fn run(mut self) {
        let mut waits_for_disk = false;
        while self.receive(waits_for_disk) {
            self.drop_cancelled();
            waits_for_disk = !self.step() && !self.active.is_empty();
        }
        for (id, active) in std::mem::take(&mut self.active) {
            self.forget(id);
            active.finish(FinishReason::Unavailable, None);
            self.shared.one_fewer();
        }
    }

    /// Takes what has come; waits if there is nothing to do. `false`: stop.
    fn receive(&mut self, waits_for_disk: bool) -> bool {
        let first = if self.active.is_empty() {
            self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else if waits_for_disk {
            self.inbox.recv_timeout(DISK_POLL)
        } else {
            Err(RecvTimeoutError::Timeout)
        };
        match first {
            Ok(message) => {
                if !self.take(message) {
                    return false;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => {}
        }
        while let Ok(message) = self.inbox.try_recv() {
            if !self.take(message) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Submit { active, prompt, tenant, namespace } => {
                self.scheduler.add(active.id, &tenant, &namespace, prompt);
                self.active.insert(active.id, active);
            }
            Message::Disk(FromDisk::Stored(name)) => self.scheduler.set_stored(name, true),
            Message::Disk(FromDisk::Dropped(name)) => self.scheduler.set_stored(name, false),
            Message::Disk(FromDisk::Read { id, blocks }) => {
                let expected = self.scheduler.awaited(id);
                let block_bytes = self.cache.block_bytes();
                let fits = blocks
                    .iter()
                    .zip(expected)
                    .take_while(|((block, name, bytes), awaited)| {
                        (*block, *name) == *awaited && bytes.len() == block_bytes
                    })
                    .count();
                for (block, _, bytes) in &blocks[..fits] {
                    self.cache.fill_block(*block, bytes);
                }
                if let Some(cached) = self.scheduler.fetched(id, fits) {
                    self.shared.statistics().disk_blocks_read += fits as u64;
                    self.begin(id, cached);
                }
            }
            Message::Stop => return false,
        }
        true
    }

    fn drop_cancelled(&mut self) {
        let cancelled = self.active.iter().filter(|(_, active)| active.is_cancelled());
        let cancelled: Vec<u64> = cancelled.map(|(id, _)| *id).collect();
        for id in cancelled {
            self.end(id, Next::End(FinishReason::Cancelled), None);
        }
    }

    /// Plans and runs one step. `false` if there was nothing to run.
    fn step(&mut self) -> bool {
        let decoding = self.scheduler.decoding();
        let plan = self.scheduler.plan(self.pace.prompt_tokens(decoding, self.step_tokens));
        self.apply(&plan);
        let started = Instant::now();
        let mut rows = self.gather(plan.work);
        if rows.is_empty() {
            return false;
        }
        if let Err(error) = self.forward(&mut rows) {
            tracing::error!("a step of {} sequences failed: {error}", rows.len());
            for row in &mut rows {
                row.next = Next::End(FinishReason::Failed);
                row.error = Some(error.to_string());
            }
        }
        self.record(&rows, started.elapsed().as_secs_f64());
        for row in rows {
            let id = row.active.id;
            self.active.insert(id, row.active);
            if row.next != Next::Run {
                self.end(id, row.next, row.error);
            }
        }
        true
    }

    /// Carries out what the plan says of places and blocks.
    fn apply(&mut self, plan: &Plan) {
        for id in &plan.preempted {
            let active = self.active.get_mut(id).expect("the scheduler knows active requests only");
            (active.sequence, active.mtp) = (Sequence::default(), None);
        }
        self.shared.statistics().preemptions += plan.preempted.len() as u64;
        for copy in &plan.copies {
            self.cache.duplicate_block(copy.from, copy.to);
            self.scheduler.copied(copy);
        }
        for &(id, cached) in &plan.admitted {
            self.begin(id, cached);
        }
        for fetch in &plan.fetches {
            let disk = self.disk.as_ref().expect("only a disk tells of stored blocks");
            disk.read(fetch.id, fetch.blocks.clone());
        }
    }

    /// A sequence was let in and `cached` of its tokens have latents.
    fn begin(&mut self, id: u64, cached: usize) {
        let blocks = self.scheduler.entry(id).blocks.clone();
        let active = self.active.get_mut(&id).expect("the scheduler knows active requests only");
        if active.times.started.is_none() {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            let mut statistics = self.shared.statistics();
            statistics.prompt_tokens += active.prompt_tokens as u64;
            statistics.cached_tokens += cached as u64;
        }
        active.sequence = Sequence::over(blocks.clone(), cached);
        active.mtp = (self.speculation > 0).then(|| Sequence::over(blocks, cached));
        if active.start(cached) == Next::Gone {
            active.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Takes the sequences of a step, and gives them the blocks that the scheduler lent.
    fn gather(&mut self, work: Vec<Work>) -> Vec<Row> {
        let mut first = 0;
        let mut rows = Vec::with_capacity(work.len());
        for work in work {
            let mut active = self.active.remove(&work.id).expect("the scheduler knows active requests only");
            let blocks = &self.scheduler.entry(work.id).blocks;
            for sequence in std::iter::once(&mut active.sequence).chain(&mut active.mtp) {
                blocks[sequence.blocks().len()..].iter().for_each(|&block| sequence.push_block(block));
            }
            let count = work.tokens + usize::from(work.draft.is_some());
            rows.push(Row { work, active, first, rows: count, kept: 0, next: Next::Run, error: None });
            first += count;
        }
        rows
    }

    /// Runs the model on the rows, chooses tokens, and makes the next drafts.
    fn forward(&mut self, rows: &mut [Row]) -> Result<()> {
        self.tokens.clear();
        for row in rows.iter_mut() {
            let entry = self.scheduler.entry(row.work.id);
            self.tokens.extend_from_slice(&entry.tokens[entry.computed..entry.computed + row.work.tokens]);
            self.tokens.extend(row.work.draft);
            if row.work.reaches_end
                && row.active.allowed.is_none()
                && let Some(constraint) = row.active.constraint.take()
            {
                self.masks.send(row.work.id, constraint);
            }
        }
        let mut segments: Vec<Segment<'_>> = rows
            .iter_mut()
            .map(|row| Segment {
                sequence: &mut row.active.sequence,
                tokens: &self.tokens[row.first..row.first + row.rows],
                logits: match (row.work.reaches_end, row.work.draft) {
                    (false, _) => LogitRows::None,
                    (true, None) => LogitRows::Last,
                    (true, Some(_)) => LogitRows::All,
                },
            })
            .collect();
        let options = ForwardOptions::default();
        let logits = self.model.forward(&mut self.workspace, &mut self.cache, &mut segments, options);
        for (id, constraint, allowed) in self.masks.collect() {
            let row = rows.iter_mut().find(|row| row.work.id == id).expect("masks are computed for rows");
            row.active.constraint = Some(constraint);
            match allowed {
                Ok(allowed) => row.active.allowed = Some(allowed),
                Err(error) => fail(row, &error),
            }
        }
        let mut logits = logits?.chunks_exact(self.model.config().vocab_size);
        for row in rows.iter_mut() {
            row.kept = row.work.tokens;
            let wanted = if row.work.reaches_end { row.rows - row.work.tokens + 1 } else { 0 };
            let logits: Vec<&[f32]> = logits.by_ref().take(wanted).collect();
            if row.next == Next::Run {
                choose(row, &logits, &mut self.scheduler);
            }
            let new = self.scheduler.computed(row.work.id, row.kept);
            row.active.sequence.rewind(self.scheduler.entry(row.work.id).computed);
            if let Some(disk) = &self.disk {
                for (block, name) in new.into_iter().filter(|(_, name)| !self.scheduler.is_stored(name)) {
                    if disk.takes_more() {
                        let mut bytes = Vec::with_capacity(self.cache.block_bytes());
                        self.cache.copy_block(block, &mut bytes);
                        disk.write(name, bytes);
                        self.shared.statistics().disk_blocks_written += 1;
                    }
                }
            }
        }
        self.speculate(rows)
    }

    /// Feeds the MTP module what the model has just computed, and takes its guesses.
    fn speculate(&mut self, rows: &mut [Row]) -> Result<()> {
        if self.speculation == 0 {
            return Ok(());
        }
        let crowded = self.scheduler.decoding() > self.speculation;
        let width = self.model.config().hidden_size;
        self.hidden.clear();
        self.hidden.extend_from_slice(self.model.hidden(&self.workspace));
        let mut ends = Vec::new();
        let mut segments = Vec::new();
        for row in rows.iter_mut() {
            let entry = self.scheduler.entry(row.work.id);
            let first = entry.computed - row.kept;
            // A row left out once leaves a gap for good.
            let up_to_date = row.active.mtp.as_ref().is_some_and(|mtp| mtp.len() == first);
            if row.next != Next::Run || !up_to_date || (crowded && row.work.reaches_end) {
                row.active.mtp = None;
                ends.extend(row.work.reaches_end.then_some((row.work.id, false)));
                continue;
            }
            if row.work.reaches_end {
                ends.push((row.work.id, true));
            }
            segments.push(MtpSegment {
                sequence: row.active.mtp.as_mut().expect("it is up to date"),
                hidden: &self.hidden[row.first * width..(row.first + row.kept) * width],
                tokens: &entry.tokens[first + 1..first + 1 + row.kept],
                logits: if row.work.reaches_end { LogitRows::Last } else { LogitRows::None },
            });
        }
        let drafts: Vec<u32> = if segments.is_empty() {
            Vec::new()
        } else {
            let options = ForwardOptions::default();
            let logits =
                self.model.forward_mtp(0, &mut self.workspace, &mut self.cache, &mut segments, options)?;
            logits.chunks_exact(self.model.config().vocab_size).map(likeliest).collect()
        };
        let mut drafts = drafts.into_iter();
        for (id, drafted) in ends {
            let draft = if drafted { drafts.next() } else { None };
            self.scheduler.set_draft(id, draft);
        }
        Ok(())
    }

    /// Learns from a step.
    fn record(&mut self, rows: &[Row], seconds: f64) {
        let of_prompts = |row: &&Row| row.work.tokens > 1 || !row.work.reaches_end;
        let prompt_tokens = rows.iter().filter(of_prompts).map(|row| row.work.tokens).sum();
        let decoding = rows.len() - rows.iter().filter(of_prompts).count();
        self.pace.record(decoding, prompt_tokens, seconds);
        let mut statistics = self.shared.statistics();
        statistics.steps += 1;
        statistics.step_seconds += seconds;
        for row in rows {
            let accepted = row.kept - row.work.tokens.min(row.kept);
            statistics.drafted_tokens += u64::from(row.work.draft.is_some());
            statistics.accepted_tokens += accepted as u64;
            statistics.generated_tokens += if row.work.reaches_end { 1 + accepted as u64 } else { 0 };
        }
        statistics.running = self.scheduler.running();
        statistics.cache_blocks_used = self.scheduler.pool.held();
    }

    /// Ends a request that is not in a step.
    fn end(&mut self, id: u64, next: Next, error: Option<String>) {
        let Some(active) = self.active.remove(&id) else { return };
        if active.times.started.is_none() {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
        }
        self.forget(id);
        if let Next::End(reason) = next {
            active.finish(reason, error);
        }
        self.shared.one_fewer();
    }

    fn forget(&mut self, id: u64) {
        self.scheduler.remove(id);
        let mut statistics = self.shared.statistics();
        statistics.finished_requests += 1;
        statistics.running = self.scheduler.running();
        statistics.cache_blocks_used = self.scheduler.pool.held();
    }
}

/// Chooses the next token, and the one after if the draft was right. A draft is accepted if it is what would
/// have been chosen anyway, from the same logits with the same random number: the answer is the one without
/// speculation, token for token, greedy or sampled. (For a draft without a distribution of its own this
/// accepts as often as speculative sampling does, Leviathan et al. 2023: with the draft's probability.)
fn choose(row: &mut Row, logits: &[&[f32]], scheduler: &mut Scheduler) {
    for (index, logits) in logits.iter().enumerate() {
        match row.active.choose(logits) {
            Ok((token, next)) => {
                scheduler.append(row.work.id, token);
                row.next = next;
                // The row before this one was the draft's: it stands.
                row.kept = row.work.tokens + index;
                if next != Next::Run || row.work.draft != Some(token) {
                    return;
                }
            }
            Err(error) => return fail(row, &error),
        }
    }
}

fn fail(row: &mut Row, error: &Error) {
    row.next = Next::End(FinishReason::Failed);
    row.error = Some(error.to_string());
}

/// The greatest logit, the lowest id of equal ones.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Names what a model computes on this machine: latents of a few tokens, for latents are what is kept.
fn fingerprint(model: &Model, cache: &mut LatentCache) -> Result<String> {
    const TOKENS: usize = 16;
    let vocab_size = model.config().vocab_size;
    let tokens: Vec<u32> = (0..TOKENS).map(|i| (i * (vocab_size / TOKENS)) as u32).collect();
    let mut sequence = Sequence::over(vec![0], 0);
    let segment = Segment { sequence: &mut sequence, tokens: &tokens, logits: LogitRows::Last };
    let mut workspace = Workspace::default();
    let logits = model.forward(&mut workspace, cache, &mut [segment], ForwardOptions::default())?;
    let arithmetic = if model.is_batch_invariant() { "batch-invariant " } else { "" };
    let mut hash =
        Sha256::new_with_prefix(format!("{arithmetic}{} {:?}", model.cache_format(), model.config()));
    logits.iter().for_each(|logit| hash.update(logit.to_le_bytes()));
    let mut latents = Vec::new();
    cache.copy_block(0, &mut latents);
    hash.update(&latents);
    Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}
