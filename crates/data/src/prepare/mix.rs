//! All stages together: which documents are duplicates, and how often each source is taken.

use twox_hash::XxHash3_64;

use super::config::{Deduplication, PrepareConfig};
use super::counts::Counts;
use super::documents::is_validation;
use super::duplicates::{Duplicates, search};
use super::pipeline::Plan;
use super::stage::{Stage, StageDocument};
use super::{Phase, Progress};
use crate::{Error, Result};

/// Between two calls of the progress.
const DOCUMENTS_PER_TELL: u64 = 1 << 14;

/// All documents that were kept, by their number over all stages.
pub(crate) struct Corpus {
    stages: Vec<Stage>,
    /// The first document of each stage, and the end.
    first_of_stage: Vec<u64>,
    pub(crate) sources: Vec<MixedSource>,
    duplicates: Duplicates,
    validation: f64,
    seed: u64,
}

/// One source of the mixture.
#[derive(Clone, Debug, Default)]
pub(crate) struct MixedSource {
    pub(crate) files: u64,
    /// Its documents are those from here on.
    pub(crate) first: u64,
    pub(crate) documents: u64,
    pub(crate) counts: Counts,
    pub(crate) exact_duplicates: u64,
    pub(crate) near_duplicates: u64,
    /// What training can have of it, once.
    pub(crate) train_documents: u64,
    pub(crate) train_tokens: u64,
    /// How often it is taken.
    pub(crate) epochs: f64,
    /// Seconds of work on it, over all threads.
    pub(crate) work_seconds: f64,
}

/// Where a copy of a document goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Train,
    Validation,
    Nowhere,
}

impl Corpus {
    pub(crate) fn new(
        config: &PrepareConfig,
        plan: &Plan<'_>,
        stages: Vec<Stage>,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        let mut first_of_stage = vec![0];
        let mut sources = vec![MixedSource::default(); config.source.len()];
        for (stage, file) in stages.iter().zip(&plan.files) {
            let first = first_of_stage[first_of_stage.len() - 1];
            let source = &mut sources[file.input.source];
            if source.files == 0 {
                source.first = first;
            }
            source.files += 1;
            source.documents += stage.documents();
            source.counts.add(&stage.summary.counts);
            source.work_seconds += stage.summary.work_seconds;
            first_of_stage.push(first + stage.documents());
        }
        let duplicates = find_duplicates(config, plan, &stages, progress)?;
        let (validation, seed) = (config.pack.validation, config.seed);
        let mut corpus = Self { stages, first_of_stage, sources, duplicates, validation, seed };
        corpus.count();
        corpus.set_epochs(config)?;
        Ok(corpus)
    }

    /// A document, and the stage that it is in.
    pub(crate) fn document(&self, number: u64) -> (&Stage, StageDocument) {
        let stage = self.first_of_stage.partition_point(|&first| first <= number) - 1;
        let found = &self.stages[stage];
        (found, found.document(number - self.first_of_stage[stage]))
    }

    /// Where copy `pass` (from 0) of a document of `source` goes.
    pub(crate) fn place(&self, source: &MixedSource, number: u64, pass: u64, hash: u128) -> Place {
        if self.duplicates.exact.has(number) || self.duplicates.near.has(number) {
            return Place::Nowhere;
        }
        // A part of an epoch takes the same documents whatever else is taken.
        let bytes = [&hash.to_le_bytes()[..], b"epoch"].concat();
        let drawn = XxHash3_64::oneshot_with_seed(self.seed, &bytes) as f64 / 2f64.powi(64);
        if pass as f64 + drawn >= source.epochs {
            return Place::Nowhere;
        }
        match is_validation(hash, self.validation) {
            false => Place::Train,
            true if pass == 0 => Place::Validation,
            true => Place::Nowhere,
        }
    }

    /// What is left of each source.
    fn count(&mut self) {
        let mut sources = std::mem::take(&mut self.sources);
        for source in &mut sources {
            for number in source.first..source.first + source.documents {
                let document = self.document(number).1.kept;
                if self.duplicates.exact.has(number) {
                    source.exact_duplicates += 1;
                } else if self.duplicates.near.has(number) {
                    source.near_duplicates += 1;
                } else if !is_validation(document.hash, self.validation) {
                    source.train_documents += 1;
                    source.train_tokens += u64::from(document.tokens);
                }
            }
        }
        self.sources = sources;
    }

    fn set_epochs(&mut self, config: &PrepareConfig) -> Result<()> {
        if self.sources.iter().all(|source| source.train_documents == 0) {
            let read = self.sources.iter().map(|source| source.counts.documents_in).sum();
            return Err(Error::NoDocuments { out: config.out.clone(), read });
        }
        let weights: f64 = config.source.iter().filter_map(|source| source.weight).sum();
        let mut most = f64::INFINITY;
        for (source, described) in self.sources.iter_mut().zip(&config.source) {
            source.epochs = described.epochs.unwrap_or(1.0);
            if let Some(weight) = described.weight {
                if source.train_tokens == 0 {
                    let name = described.name.clone();
                    return Err(Error::EmptySource { name, read: source.counts.documents_in });
                }
                most = most.min(source.train_tokens as f64 * weights / weight);
            }
        }
        let tokens = config.mix.tokens.map_or(most, |tokens| tokens as f64);
        for (source, described) in self.sources.iter_mut().zip(&config.source) {
            if let Some(weight) = described.weight {
                source.epochs = tokens * weight / weights / source.train_tokens as f64;
            }
        }
        Ok(())
    }
}

fn find_duplicates(
    config: &PrepareConfig,
    plan: &Plan<'_>,
    stages: &[Stage],
    progress: &Progress<'_>,
) -> Result<Duplicates> {
    let documents = stages.iter().map(Stage::documents).sum();
    let entries = stages.iter().map(|stage| stage.documents() * (1 + stage.bands() as u64)).sum();
    let scratch = config.out.join("stages");
    search(documents, entries, config.memory, &scratch, |take| {
        let (mut near, mut done) = (Vec::new(), 0);
        for (stage, file) in stages.iter().zip(&plan.files) {
            let looks = plan.recipe.source(file.input.source).deduplication != Deduplication::None;
            for number in 0..stage.documents() {
                stage.keys(number, &mut near);
                let hash = looks.then(|| stage.document(number).kept.hash);
                take(hash, &near)?;
                done += 1;
                if done % DOCUMENTS_PER_TELL == 0 && progress(Phase::Duplicates, done, documents).is_break() {
                    return Err(Error::Stopped);
                }
            }
        }
        Ok(())
    })
}
