//! Checkpoints of a run: directories that are whole or not there.
//!
//! `OUT/checkpoints/step-00000500/` holds a model in Hugging Face form (`config.json`, tokenizer, weights), and beside
//! it `optimizer.safetensors` and `state.json` ([`TrainingState`]). It is written under another name, brought to the
//! disk file by file, and renamed: a directory of this name is complete. `state.json` lists every file with its
//! checksum, so damage that comes later is found before anything is continued from it. `OUT/checkpoints/latest` names
//! the newest, for people and scripts; resuming looks at the directories themselves.

mod state;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_128;

pub use state::{Best, FileEntry, TrainingState};

use crate::{Error, Result};

const PREFIX: &str = "step-";
const PARTIAL: &str = ".partial";
const LATEST: &str = "latest";
const STATE: &str = "state.json";
/// Beginning of the name of a checkpoint that is being removed.
const REMOVED: &str = ".removed-";

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    directory: PathBuf,
}

/// One that is complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Steps made when it was saved.
    pub step: u64,
    /// Its directory.
    pub path: PathBuf,
}

impl Checkpoints {
    /// Those of the run in `out`. Nothing is read or made yet.
    pub fn of(out: &Path) -> Self {
        Self { directory: out.join("checkpoints") }
    }

    /// All of them, oldest first.
    ///
    /// # Errors
    /// If the directory cannot be read; none at all is no error.
    pub fn list(&self) -> Result<Vec<Saved>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io(&self.directory, "read"))?,
        };
        let mut saved = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io(&self.directory, "read"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let step = name.strip_prefix(PREFIX).and_then(|step| step.parse().ok());
            if let Some(step) = step {
                saved.push(Saved { step, path });
            }
        }
        saved.sort_by_key(|saved| saved.step);
        Ok(saved)
    }

    /// The newest checkpoint, read and verified.
    ///
    /// # Errors
    /// [`Error::NothingToResume`]; [`Error::Damaged`], which names the one before that is whole, if there is one.
    pub fn newest(&self) -> Result<(Saved, TrainingState)> {
        let mut saved = self.list()?;
        let Some(newest) = saved.pop() else {
            return Err(Error::NothingToResume { path: self.directory.clone() });
        };
        match TrainingState::verified(&newest.path) {
            Ok(state) => Ok((newest, state)),
            Err(Error::Damaged { path, reason, .. }) => {
                let whole = saved.iter().rev().find(|older| TrainingState::verified(&older.path).is_ok());
                let mend = match whole {
                    Some(older) => {
                        format!("{} is whole: go on from there with --resume {0}", older.path.display())
                    }
                    None => "no other is whole; begin anew with another --out".to_owned(),
                };
                Err(Error::Damaged { path, reason, mend })
            }
            Err(other) => Err(other),
        }
    }

    /// Saves a checkpoint: `write` puts everything but `state.json` into the directory that it is given. `needed` bytes
    /// should be free.
    ///
    /// # Errors
    /// [`Error::NoSpace`] before anything is written, what `write` returns, or I/O; then nothing has changed.
    pub fn save(
        &self,
        mut state: TrainingState,
        needed: u64,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Saved> {
        fs::create_dir_all(&self.directory).map_err(Error::io(&self.directory, "create"))?;
        self.require_space(needed)?;
        let path = self.directory.join(format!("{PREFIX}{:08}", state.step));
        let partial = self.directory.join(format!("{PREFIX}{:08}{PARTIAL}", state.step));
        self.remove_leftovers();
        fs::create_dir(&partial).map_err(Error::io(&partial, "create"))?;
        let written = write(&partial).and_then(|()| {
            state.files = settle(&partial)?;
            state.write(&partial.join(STATE))?;
            sync(&partial)
        });
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        // One of the same step is from a run that was resumed before it: the new one takes its place.
        if path.exists() {
            remove(&path)?;
        }
        fs::rename(&partial, &path).map_err(Error::io(&path, "rename the finished checkpoint to"))?;
        sync(&self.directory)?;
        self.point_at(&path)?;
        Ok(Saved { step: state.step, path })
    }

    /// Removes all but the newest `keep` and `best`.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        let saved = self.list()?;
        let old = saved.len().saturating_sub(keep);
        for saved in saved[..old].iter().filter(|saved| Some(saved.step) != best) {
            remove(&saved.path)?;
        }
        Ok(())
    }

    /// Removes those after `step`: a run that goes on from there makes them anew.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn forget_after(&self, step: u64) -> Result<()> {
        self.list()?.iter().filter(|saved| saved.step > step).try_for_each(|saved| remove(&saved.path))
    }

    /// # Errors
    /// [`Error::NoSpace`] if there is less than `needed` bytes free where checkpoints go.
    pub fn require_space(&self, needed: u64) -> Result<()> {
        let there = self.directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
        let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        let available = rustix::fs::statvfs(there)
            .map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize));
        if available < needed {
            return Err(Error::NoSpace { path: self.directory.clone(), needed, available });
        }
        Ok(())
    }

    /// Lets `latest` name `path`.
    fn point_at(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        write_atomically(&self.directory.join(LATEST), format!("{name}\n").as_bytes())
    }

    /// Removes what a killed process left half written or half removed.
    fn remove_leftovers(&self) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(REMOVED) || (name.starts_with(PREFIX) && name.ends_with(PARTIAL)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Removes a checkpoint so that there is never half of one under its name.
fn remove(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let removed = path.with_file_name(format!("{REMOVED}{name}"));
    fs::rename(path, &removed).map_err(Error::io(path, "remove"))?;
    fs::remove_dir_all(&removed).map_err(Error::io(path, "remove"))
}

/// Brings every file below `directory` to the disk, and lists them.
fn settle(directory: &Path) -> Result<Vec<FileEntry>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(current) = directories.pop() {
        for entry in fs::read_dir(&current).map_err(Error::io(&current, "read"))? {
            let path = entry.map_err(Error::io(&current, "read"))?.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            sync(&path)?;
            let (bytes, checksum) = checksum(&path)?;
            let name = path.strip_prefix(directory).expect("found below it").to_string_lossy().into_owned();
            files.push(FileEntry { name, bytes, checksum });
        }
        sync(&current)?;
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Length and XXH3 of a file.
fn checksum(path: &Path) -> Result<(u64, String)> {
    use std::io::Read;
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let (mut hash, mut bytes, mut buffer) = (XxHash3_128::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).map_err(Error::io(path, "read"))?;
        if read == 0 {
            return Ok((bytes, format!("{:032x}", hash.finish_128())));
        }
        hash.write(&buffer[..read]);
        bytes += read as u64;
    }
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path, "bring to the disk"))
}

/// Writes `path` beside its place and renames it.
pub(crate) fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    fs::write(&partial, contents).map_err(Error::io(&partial, "write"))?;
    sync(&partial)?;
    fs::rename(&partial, path).map_err(Error::io(path, "rename the finished file to"))
}
