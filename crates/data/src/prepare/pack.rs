//! Documents in their last order become the shards of a dataset.

use std::path::Path;
use std::time::Instant;

use super::config::PrepareConfig;
use super::mix::{Corpus, MixedSource, Place};
use super::report::{PrepareReport, SourceReport};
use super::{Phase, Progress};
use crate::dataset::Source;
use crate::permutation::Permutation;
use crate::{DatasetWriter, Error, Result, TokenizerEntry, publish};

/// Between two calls of the progress.
const COPIES_PER_TELL: u64 = 1 << 12;

/// Every copy of every document that there could be, by number: the passes over the first source, those over the second, …
struct Copies {
    /// The first copy of each source, and the end.
    first_of_source: Vec<u64>,
    order: Option<Permutation>,
}

impl Copies {
    fn new(config: &PrepareConfig, sources: &[MixedSource]) -> Self {
        let mut first_of_source = vec![0];
        for source in sources {
            let passes = (source.epochs.ceil() as u64).max(1);
            first_of_source.push(first_of_source[first_of_source.len() - 1] + passes * source.documents);
        }
        let count = first_of_source[sources.len()];
        let order = config.pack.shuffle.then(|| Permutation::new(count, config.seed));
        Self { first_of_source, order }
    }

    fn count(&self) -> u64 {
        self.first_of_source[self.first_of_source.len() - 1]
    }

    /// Source, document and pass of the copy that comes as number `index`.
    fn copy(&self, index: u64, sources: &[MixedSource]) -> (usize, u64, u64) {
        let index = self.order.map_or(index, |order| order.apply(index));
        let source = self.first_of_source.partition_point(|&first| first <= index) - 1;
        let MixedSource { first, documents, .. } = sources[source];
        let within = index - self.first_of_source[source];
        (source, first + within % documents, within / documents)
    }
}

/// Writes the dataset and its report.
pub(crate) fn pack(
    config: &PrepareConfig,
    corpus: &Corpus,
    (tokenizer, entry): (&Path, TokenizerEntry),
    started: Instant,
    progress: &Progress<'_>,
) -> Result<PrepareReport> {
    let mut writer =
        DatasetWriter::begin(&config.out, tokenizer, entry, false, config.pack.tokens_per_shard)?;
    let mut sources: Vec<SourceReport> = corpus
        .sources
        .iter()
        .zip(&config.source)
        .map(|(mixed, described)| SourceReport::new(mixed, described))
        .collect();
    let copies = Copies::new(config, &corpus.sources);
    let mut ids = Vec::new();
    for index in 0..copies.count() {
        let (source, number, pass) = copies.copy(index, &corpus.sources);
        let (stage, document) = corpus.document(number);
        let place = corpus.place(&corpus.sources[source], number, pass, document.kept.hash);
        if place != Place::Nowhere {
            stage.ids(document, &mut ids);
            writer.append(place == Place::Validation, &ids, None, document.kept.text_bytes.into())?;
            sources[source].count(place, document.kept);
        }
        if index % COPIES_PER_TELL == 0 && progress(Phase::Pack, index, copies.count()).is_break() {
            return Err(Error::Stopped);
        }
    }
    if sources.iter().all(|source| source.train_documents == 0) {
        let read = sources.iter().map(|source| source.counts.documents_in).sum();
        return Err(Error::NoDocuments { out: config.out.clone(), read });
    }
    let described = sources.iter().map(|source| Source {
        name: source.name.clone(),
        license: source.license.clone(),
        epochs: source.epochs,
        documents: source.train_documents,
        tokens: source.train_tokens,
    });
    let described = described.collect();
    let work = corpus.sources.iter().map(|source| source.work_seconds).sum();
    let report = PrepareReport::new(sources, started.elapsed().as_secs_f64(), work);
    publish::write(&config.out.join("report.json"), report.to_json().as_bytes())?;
    writer.finish(described)?;
    Ok(report)
}
