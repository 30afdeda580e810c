//! What happens, written down and told.

use std::path::Path;
use std::time::SystemTime;

use super::{Event, Observer};
use crate::metrics::{FILE_NAME, Log, Record, TensorBoard};
use crate::{Error, Result};

/// The record of a run, in both forms.
#[derive(Debug)]
pub(super) struct Records {
    log: Log,
    board: TensorBoard,
}

impl Records {
    /// Opens the record in `out`; one that goes on from step `resumed` forgets what came after it.
    pub(super) fn open(out: &Path, resumed: Option<u64>) -> Result<Self> {
        let mut log = Log::open(&out.join(FILE_NAME))?;
        if let Some(step) = resumed {
            log.truncate_to(step)?;
        }
        let directory = out.join("tensorboard");
        std::fs::create_dir_all(&directory).map_err(Error::io(&directory, "create"))?;
        let board = TensorBoard::create(&directory, SystemTime::now(), resumed)?;
        Ok(Self { log, board })
    }

    /// Writes one record down, and tells it.
    pub(super) fn add(&mut self, record: Record, observer: &mut dyn Observer) -> Result<()> {
        self.log.append(&record)?;
        self.board.record(&record, SystemTime::now())?;
        observer.event(Event::Recorded(&record));
        Ok(())
    }
}
