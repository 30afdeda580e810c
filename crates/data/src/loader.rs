//! Shuffled batches of packed rows, from an exact position.
//!
//! The training split is one long row of tokens, cut into rows of `seq + 1` that cross documents, as DeepSeek-V3 packs
//! them (neighbours share a token, so that every token is predicted once). Each epoch goes through all rows in an order
//! of its own, which a [`Permutation`] decides: no list of rows is kept, and the position is a single number.

use crate::dataset::{Dataset, Split};
use crate::permutation::Permutation;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// What a loader is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens that are predicted in a row.
    pub seq: usize,
    /// Decides the order of rows.
    pub seed: u64,
    /// Whether rows come in a random order, another one in each epoch; otherwise in that of the files.
    pub shuffle: bool,
    /// Whether what is left of a document that began before its row counts in the loss.
    pub learn_cut_documents: bool,
}

/// Rows for one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Ids `[batch, seq + 1]`: the first `seq` of a row are the inputs, the last `seq` the targets.
    pub tokens: Vec<u32>,
    /// Rows.
    pub batch: usize,
    /// Predicted tokens of a row.
    pub seq: usize,
    /// `[batch, seq]`: for each input, the index in its row of the first token of its document (0 if the document began
    /// before the row). With sample-level masking, position i attends to positions `document[i]..=i`.
    pub document: Vec<u32>,
    /// `[batch, seq]`: whether the target counts in the loss; `None` if all do.
    pub loss_mask: Option<Vec<bool>>,
}

impl Batch {
    pub(crate) fn read(split: &Split, rows: &[u64], seq: usize, learn_cut: bool) -> Result<Self> {
        let batch = rows.len();
        let mut tokens = vec![0; batch * (seq + 1)];
        let mut document = vec![0; batch * seq];
        let mut loss_mask = (split.is_masked() || !learn_cut).then(|| vec![true; batch * seq]);
        for (index, row) in rows.iter().enumerate() {
            let start = row * seq as u64;
            split.read(start, &mut tokens[index * (seq + 1)..][..seq + 1])?;
            split.read_documents(start, &mut document[index * seq..][..seq]);
            let Some(mask) = &mut loss_mask else { continue };
            let mask = &mut mask[index * seq..][..seq];
            if split.is_masked() {
                split.read_mask(start + 1, mask);
            }
            if !learn_cut && !split.begins_document(start) {
                let row = document[index * seq..][..seq].iter();
                let cut = mask.iter_mut().zip(row).take_while(|(_, first)| **first == 0);
                cut.for_each(|(learn, _)| *learn = false);
            }
        }
        Ok(Self { tokens, batch, seq, document, loss_mask })
    }
}

/// Where a loader is, to be saved with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// [`Dataset::fingerprint`].
    pub dataset: String,
    /// As in [`LoaderOptions`].
    pub seq: usize,
    /// As in [`LoaderOptions`].
    pub seed: u64,
    /// As in [`LoaderOptions`].
    pub shuffle: bool,
    /// Rows handed out since the beginning of the first epoch.
    pub rows: u64,
}

/// Endless batches of the training split.
#[derive(Clone, Debug)]
pub struct Loader {
    dataset: Dataset,
    options: LoaderOptions,
    rows_per_epoch: u64,
    rows: u64,
}

impl Loader {
    /// A loader at the beginning of the first epoch.
    ///
    /// # Errors
    /// `batch` or `seq` is zero; the training split is shorter than a row.
    pub fn new(dataset: &Dataset, options: LoaderOptions) -> Result<Self> {
        check_sizes(options.batch, options.seq)?;
        let rows_per_epoch = dataset.train().rows(options.seq)?;
        Ok(Self { dataset: dataset.clone(), options, rows_per_epoch, rows: 0 })
    }

    /// The next batch. One that begins at the end of an epoch takes the rest of its rows from the next epoch, so that
    /// every row comes exactly once per epoch.
    ///
    /// # Errors
    /// Damage that opening with [`crate::Verify::Content`] would have found; the position stays.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let end = self.rows + self.options.batch as u64;
        let rows: Vec<u64> = (self.rows..end).map(|row| self.row(row)).collect();
        let batch =
            Batch::read(self.dataset.train(), &rows, self.options.seq, self.options.learn_cut_documents)?;
        self.rows = end;
        Ok(batch)
    }

    /// From now on batches have `batch` rows; their order is not touched.
    ///
    /// # Errors
    /// `batch` is zero.
    pub fn set_batch(&mut self, batch: usize) -> Result<()> {
        check_sizes(batch, self.options.seq)?;
        self.options.batch = batch;
        Ok(())
    }

    /// Rows of an epoch.
    pub fn rows_per_epoch(&self) -> u64 {
        self.rows_per_epoch
    }

    /// Epochs so far, in parts.
    pub fn epochs(&self) -> f64 {
        self.rows as f64 / self.rows_per_epoch as f64
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        let LoaderOptions { seq, seed, shuffle, .. } = self.options;
        Position { dataset: self.dataset.fingerprint().to_owned(), seq, seed, shuffle, rows: self.rows }
    }

    /// Goes to a saved position: the next batches are those that followed it. The size of batches may be another one.
    ///
    /// # Errors
    /// [`Error::OtherPosition`] if it is one of other data, another sequence length, seed or order.
    pub fn seek(&mut self, position: &Position) -> Result<()> {
        let current = self.position();
        let rows = [
            ("dataset", position.dataset.clone(), current.dataset),
            ("seq", position.seq.to_string(), current.seq.to_string()),
            ("seed", position.seed.to_string(), current.seed.to_string()),
            ("shuffle", position.shuffle.to_string(), current.shuffle.to_string()),
        ];
        if let Some((field, saved, current)) = rows.into_iter().find(|(_, saved, current)| saved != current) {
            return Err(Error::OtherPosition { field, saved, current });
        }
        self.rows = position.rows;
        Ok(())
    }

    /// The row of the split that comes as number `index` since the beginning.
    fn row(&self, index: u64) -> u64 {
        let (epoch, index) = (index / self.rows_per_epoch, index % self.rows_per_epoch);
        if !self.options.shuffle {
            return index;
        }
        let key = XxHash3_64::oneshot_with_seed(self.options.seed, &epoch.to_le_bytes());
        Permutation::new(self.rows_per_epoch, key).apply(index)
    }
}

pub(crate) fn check_sizes(batch: usize, seq: usize) -> Result<()> {
    for (field, size) in [("batch", batch), ("seq", seq)] {
        if size == 0 {
            return Err(Error::BadOption { field, expected: "at least 1", got: size.to_string() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
