//! Everything a model computes on given tokens, written to one safetensors file, for comparison with other
//! implementations.
//!
//! Every sequence can be run in three forms that must agree: whole ([`Form::Prefill`]), token by token through
//! the cache ([`Form::Decode`]), and all sequences together ([`Form::Batch`]). The names and shapes of what is
//! written stand in `contents.rs`.
//!
//! Logits go to the file as they are computed, so that at most one piece of them is in memory; a batch holds
//! those of sequences whose turn in the file has not come.

mod contents;
mod record;

use std::ops::ControlFlow;
use std::path::Path;

use fathom_checkpoint::SafetensorsWriter;
use fathom_model::{
    AttentionForm, Config, ForwardOptions, LatentCache, LogitRows, Model, MtpSegment, Observed, Segment,
    Sequence, Workspace,
};

use crate::error::{Error, Result};
pub use contents::Contents;
use record::{PassRows, Record, Values};

/// Rows per forward pass where the form leaves it open.
const ROWS_MAX: usize = 512;

/// How sequences are fed to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One sequence after the other, whole (in pieces of 512 tokens).
    Prefill,
    /// One sequence after the other, one token at a time through the cache.
    Decode,
    /// All sequences in the same forward passes.
    Batch,
}

/// How a [`LogitsFile`] is filled.
#[derive(Clone, Copy, Debug)]
pub struct Feeding {
    /// How sequences are fed.
    pub form: Form,
    /// Forces a form of attention; by cost if `None`.
    pub attention: Option<AttentionForm>,
}

/// Told of tokens run so far and in all; [`ControlFlow::Break`] ends it and leaves no file.
pub type OnTokens<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// A file that waits for its numbers. Dropped before [`LogitsFile::fill`] is done, it leaves nothing behind.
#[derive(Debug)]
pub struct LogitsFile<'a> {
    writer: SafetensorsWriter,
    sequences: &'a [Vec<u32>],
    contents: Contents,
}

impl<'a> LogitsFile<'a> {
    /// Begins the file at `path` for these sequences; nothing has to be loaded for it.
    ///
    /// # Errors
    /// A sequence that is empty, beyond the context or outside the vocabulary, named by its place in the list; a
    /// path that cannot be written, or too little space there.
    pub fn create(
        path: &Path,
        config: &Config,
        sequences: &'a [Vec<u32>],
        contents: Contents,
    ) -> Result<Self> {
        for (sequence, tokens) in sequences.iter().enumerate() {
            admit(config, sequence, tokens)?;
        }
        let plan =
            sequences.iter().enumerate().flat_map(|(i, tokens)| contents.plan(config, i, tokens.len()));
        let writer = SafetensorsWriter::create(path, plan.collect())?;
        Ok(Self { writer, sequences, contents })
    }

    /// Runs the sequences and completes the file. `Break` if the caller ended it; there is no file then.
    ///
    /// # Errors
    /// The model's, or what can go wrong on writing.
    pub fn fill(self, model: &Model, feeding: Feeding, on_tokens: OnTokens<'_>) -> Result<ControlFlow<()>> {
        let blocks = |tokens: &Vec<u32>| tokens.len().next_multiple_of(64);
        let capacity = match feeding.form {
            Form::Prefill | Form::Decode => self.sequences.iter().map(blocks).max(),
            Form::Batch => Some(self.sequences.iter().map(blocks).sum()),
        };
        let mut filling = Filling {
            model,
            feeding,
            workspace: Workspace::default(),
            cache: model.new_cache(capacity.unwrap_or(0))?,
            places: self.sequences.iter().map(|_| Sequence::default()).collect(),
            records: self.sequences.iter().map(|_| Record::default()).collect(),
            turn: 0,
            file: self,
        };
        filling.begin_turn()?;
        if filling.feed(on_tokens)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        filling.file.writer.finish()?;
        Ok(ControlFlow::Continue(()))
    }
}

fn admit(config: &Config, sequence: usize, tokens: &[u32]) -> Result<()> {
    let refused = |source| Error::Sequence { sequence, source };
    let (wanted, context) = (tokens.len(), config.max_position_embeddings);
    if tokens.is_empty() {
        return Err(refused(fathom_model::Error::NoTokens));
    }
    if wanted > context {
        return Err(refused(fathom_model::Error::ContextTooLong { wanted, context }));
    }
    let vocab_size = config.vocab_size;
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        Some(position) => {
            let token = tokens[position];
            Err(refused(fathom_model::Error::TokenOutOfRange { token, position, vocab_size }))
        }
        None => Ok(()),
    }
}

struct Filling<'a> {
    model: &'a Model,
    feeding: Feeding,
    file: LogitsFile<'a>,
    workspace: Workspace,
    cache: LatentCache,
    /// Of every sequence, in the cache.
    places: Vec<Sequence>,
    /// Of every sequence: what is not in the file yet.
    records: Vec<Record>,
    /// The sequence whose tensors are being written.
    turn: usize,
}

/// Rows of one sequence in a forward pass.
struct Part {
    sequence: usize,
    rows: usize,
}

impl Filling<'_> {
    fn feed(&mut self, on_tokens: OnTokens<'_>) -> Result<ControlFlow<()>> {
        let total = self.file.sequences.iter().map(Vec::len).sum();
        let mut done = 0;
        while let Some(parts) = self.next_parts() {
            done += parts.iter().map(|part| part.rows).sum::<usize>();
            self.pass(&parts)?;
            self.end_turns()?;
            if on_tokens(done, total).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What runs next; `None` when all is done.
    fn next_parts(&self) -> Option<Vec<Part>> {
        let left = |sequence: usize| self.file.sequences[sequence].len() - self.places[sequence].len();
        let unfinished: Vec<usize> = (self.turn..self.places.len()).filter(|&i| left(i) > 0).collect();
        let (together, rows) = match self.feeding.form {
            Form::Prefill => (1, ROWS_MAX),
            Form::Decode => (1, 1),
            Form::Batch => (unfinished.len(), (ROWS_MAX / unfinished.len().max(1)).max(1)),
        };
        let part = |&sequence: &usize| Part { sequence, rows: rows.min(left(sequence)) };
        let parts: Vec<Part> = unfinished.iter().take(together).map(part).collect();
        (!parts.is_empty()).then_some(parts)
    }

    /// One forward pass.
    fn pass(&mut self, parts: &[Part]) -> Result<()> {
        let (model, trace) = (self.model, self.file.contents.trace);
        let mut segments: Vec<Segment<'_>> = Vec::with_capacity(parts.len());
        let mut places = self.places.iter_mut().enumerate();
        for part in parts {
            // Parts are in the order of the sequences.
            let place = places.find(|(index, _)| *index == part.sequence);
            let (_, sequence) = place.expect("parts name sequences, each once, in ascending order");
            let tokens = &self.file.sequences[part.sequence][sequence.len()..][..part.rows];
            segments.push(Segment { sequence, tokens, logits: LogitRows::All });
        }
        let records = &mut self.records;
        let all = parts.iter().map(|part| part.rows).sum();
        let mut observer = |observed: Observed<'_>| {
            let mut first = 0;
            for part in parts {
                records[part.sequence].observe(observed, PassRows { first, rows: part.rows, all }, trace);
                first += part.rows;
            }
        };
        let options =
            ForwardOptions { attention_form: self.feeding.attention, observer: Some(&mut observer) };
        let mut logits = model.forward(&mut self.workspace, &mut self.cache, &mut segments, options)?;
        for part in parts {
            let (rows, rest) = logits.split_at(part.rows * model.config().vocab_size);
            if part.sequence == self.turn {
                self.file.writer.write_f32(rows)?;
            } else {
                self.records[part.sequence].push_f32("logits", rows);
            }
            logits = rest;
        }
        let mut hidden = model.hidden(&self.workspace);
        for part in parts {
            let (rows, rest) = hidden.split_at(part.rows * model.config().hidden_size);
            self.records[part.sequence].push_f32("last_hidden", rows);
            hidden = rest;
        }
        Ok(())
    }

    /// Opens the logits of the sequence whose turn it is and writes those that waited.
    fn begin_turn(&mut self) -> Result<()> {
        let Some(record) = self.records.get_mut(self.turn) else { return Ok(()) };
        self.file.writer.begin(&Contents::name("", self.turn, "logits"))?;
        if let Some(Values::F32(held)) = record.take("logits") {
            self.file.writer.write_f32(&held)?;
        }
        Ok(())
    }

    /// Writes what remains of every sequence that is finished and whose turn it is.
    fn end_turns(&mut self) -> Result<()> {
        while self.turn < self.places.len()
            && self.places[self.turn].len() == self.file.sequences[self.turn].len()
        {
            let (turn, config) = (self.turn, self.model.config());
            let mut record = std::mem::take(&mut self.records[turn]);
            let mut states = match record.get("last_hidden") {
                Some(Values::F32(states)) if self.file.contents.mtp_modules > 0 => states.clone(),
                _ => Vec::new(),
            };
            for tensor in self.file.contents.main(config).skip(1) {
                record.write(&mut self.file.writer, "", turn, &tensor.name)?;
            }
            // The modules' rows need places of their own; the main rows are no longer needed.
            self.cache.release(std::mem::take(&mut self.places[turn]));
            for module in 0..self.file.contents.modules(self.file.sequences[turn].len()) {
                states = self.mtp(module, states)?;
            }
            self.turn += 1;
            self.begin_turn()?;
        }
        Ok(())
    }

    /// Runs and writes one MTP module for the sequence whose turn it is. `states` are the hidden states before
    /// it, one row more than it uses; returns those after it.
    fn mtp(&mut self, module: usize, states: Vec<f32>) -> Result<Vec<f32>> {
        let (model, turn, hidden) = (self.model, self.turn, self.model.config().hidden_size);
        let tokens = &self.file.sequences[turn][1 + module..];
        let prefix = Contents::mtp_prefix(module);
        let rows = if self.feeding.form == Form::Decode { 1 } else { ROWS_MAX };
        let (mut sequence, mut record) = (Sequence::default(), Record::default());
        self.file.writer.begin(&Contents::name(&prefix, turn, "logits"))?;
        for (states, tokens) in states.chunks(rows * hidden).zip(tokens.chunks(rows)) {
            let states = &states[..tokens.len() * hidden];
            let mut observer = |observed: Observed<'_>| record.observe_module(observed, tokens.len());
            let options =
                ForwardOptions { attention_form: self.feeding.attention, observer: Some(&mut observer) };
            let segment =
                MtpSegment { sequence: &mut sequence, hidden: states, tokens, logits: LogitRows::All };
            let logits =
                model.forward_mtp(module, &mut self.workspace, &mut self.cache, &mut [segment], options)?;
            self.file.writer.write_f32(logits)?;
            record.push_f32("hidden", &model.hidden(&self.workspace)[..tokens.len() * hidden]);
        }
        self.cache.release(sequence);
        let after = match record.get("hidden") {
            Some(Values::F32(states)) => states.clone(),
            _ => Vec::new(),
        };
        for tensor in self.file.contents.module(model.config(), module).skip(1) {
            record.write(&mut self.file.writer, &prefix, turn, &tensor.name)?;
        }
        Ok(after)
    }
}
