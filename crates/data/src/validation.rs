//! The validation split in its own order, once.

use crate::Result;
use crate::dataset::Dataset;
use crate::loader::{Batch, check_sizes};

/// The batches of [`Dataset::validation_batches`]; the last one may have fewer rows.
#[derive(Clone, Debug)]
pub struct ValidationBatches {
    dataset: Dataset,
    batch: u64,
    seq: usize,
    rows: u64,
    next: u64,
}

impl Dataset {
    /// All whole rows of the validation split in their order, `batch` at a time: the same tokens whatever `batch` is.
    ///
    /// # Errors
    /// `batch` or `seq` is zero; the validation split is shorter than a row.
    pub fn validation_batches(&self, batch: usize, seq: usize) -> Result<ValidationBatches> {
        check_sizes(batch, seq)?;
        let rows = self.validation().rows(seq)?;
        Ok(ValidationBatches { dataset: self.clone(), batch: batch as u64, seq, rows, next: 0 })
    }
}

impl Iterator for ValidationBatches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = (self.next + self.batch).min(self.rows);
        let rows: Vec<u64> = (self.next..end).collect();
        self.next = end;
        (!rows.is_empty()).then(|| Batch::read(self.dataset.validation(), &rows, self.seq, true))
    }
}
