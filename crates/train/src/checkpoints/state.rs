//! `state.json`: where a run stood.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{STATE, checksum, write_atomically};
use crate::{Error, Result};

/// Everything that is needed to go on, but for weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingState {
    /// Of this file.
    pub version: u32,
    /// Steps made, skipped ones among them.
    pub step: u64,
    /// Steps of the optimizer: those that were not skipped.
    pub optimizer_steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Where the loader is.
    pub position: fathom_data::Position,
    /// The lowest validation loss, and the step of the checkpoint that has it.
    pub best: Option<Best>,
    /// The last losses, from which spikes are told.
    pub recent_losses: Vec<f64>,
    /// Steps skipped one after another.
    pub skips: u64,
    /// Seconds trained, over all sittings.
    pub seconds: f64,
    /// The configuration of the run, as it was.
    pub config: serde_json::Value,
    /// All other files of the directory.
    pub files: Vec<FileEntry>,
}

/// The lowest validation loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Loss in nats per token.
    pub loss: f64,
    /// When.
    pub step: u64,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path in the directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// XXH3-128 of its bytes, in hexadecimal.
    pub checksum: String,
}

impl TrainingState {
    /// The version that this code writes and reads.
    pub const VERSION: u32 = 1;

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("strings and numbers are always JSON");
        write_atomically(path, &json)
    }

    /// Reads the state of the checkpoint in `directory`, whose files must be what it says.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn verified(directory: &Path) -> Result<Self> {
        let damaged = |reason: String| Error::Damaged {
            path: directory.to_owned(),
            reason,
            mend: "take another one".to_owned(),
        };
        let text =
            std::fs::read(directory.join(STATE)).map_err(|error| damaged(format!("{STATE}: {error}")))?;
        let state: Self =
            serde_json::from_slice(&text).map_err(|error| damaged(format!("{STATE}: {error}")))?;
        if state.version != Self::VERSION {
            let (is, wanted) = (state.version, Self::VERSION);
            return Err(damaged(format!("{STATE} is of version {is}, this program reads {wanted}")));
        }
        for entry in &state.files {
            let path = directory.join(&entry.name);
            let (bytes, sum) = checksum(&path).map_err(|error| damaged(error.to_string()))?;
            if bytes != entry.bytes {
                return Err(damaged(format!("{} has {bytes} bytes, expected {}", entry.name, entry.bytes)));
            }
            if sum != entry.checksum {
                return Err(damaged(format!("{} is not what was written", entry.name)));
            }
        }
        Ok(state)
    }
}
