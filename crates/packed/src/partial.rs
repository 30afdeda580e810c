//! A file that is being written, under a name of its own until it is complete.
//!
//! Each writer has its own name, so that two processes that write the same file do not meet; the one that
//! ends last wins, with a whole file. A writer holds a lock on its file: one without a lock was left behind
//! by a process that is no more, and the next writer removes it. So nothing piles up.

use crate::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const SUFFIX: &str = ".partial";

/// A second process with the same id (another container on the same disk) costs one attempt.
const ATTEMPTS: usize = 100;

/// The file, removed when dropped before [`Partial::publish`].
#[derive(Debug)]
pub(crate) struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Begins a file that will be `target`. What dead writers of the same target left is removed.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        remove_abandoned(target);
        let mut attempt = 1;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}{}-{number}{SUFFIX}", prefix(target), std::process::id());
            let path = target.with_file_name(name);
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) if is_ours(&file, &path) => {
                    return Ok(Self { target: target.to_owned(), path, file });
                }
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists || attempt == ATTEMPTS => {
                    return Err(Error::io(&path, "create")(error));
                }
                _ if attempt == ATTEMPTS => {
                    return Err(Error::io(&path, "lock")(std::io::ErrorKind::WouldBlock.into()));
                }
                _ => attempt += 1,
            }
        }
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Waits until the file is on the disk and puts it in its place.
    pub(crate) fn publish(self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.target, "write"))?;
        // If this fails, dropping `self` removes the file.
        fs::rename(&self.path, &self.target)
            .map_err(Error::io(&self.target, "rename the finished file to"))?;
        sync_directory(directory_of(&self.target));
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After `publish` there is nothing of this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Locks a file just created. `false` if another writer took it for abandoned in that instant.
fn is_ours(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => false,
        // Without locks in this file system nobody takes a file for abandoned.
        Err(TryLockError::Error(_)) => true,
        Ok(()) => path.exists(),
    }
}

/// Removes what writers of `target` left behind that are no more.
fn remove_abandoned(target: &Path) {
    let prefix = prefix(target);
    for entry in fs::read_dir(directory_of(target)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let partial = name.starts_with(&prefix) && name.ends_with(SUFFIX);
        if partial && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let path = entry.path();
            // Opened for writing: some network file systems lock nothing else.
            let file = File::options().write(true).open(&path);
            if file.is_ok_and(|file| file.try_lock().is_ok()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The directory that a file of this path is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// How the partial names of `target` begin.
fn prefix(target: &Path) -> String {
    format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Waits until a rename is on the disk. A cache that a power cut loses is made again, so failing is none.
fn sync_directory(directory: &Path) {
    #[cfg(unix)]
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    #[cfg(not(unix))]
    let _ = directory;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn living_writers_keep_their_files_and_dead_ones_do_not() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("a.packed");
        fs::write(scratch.path().join(".a.packed.1-0.partial"), "left behind").unwrap();
        fs::write(scratch.path().join(".b.packed.1-0.partial"), "of another").unwrap();
        let first = Partial::create(&target).unwrap();
        let second = Partial::create(&target).unwrap();
        assert_eq!(names(scratch.path()).len(), 3, "{:?}", names(scratch.path()));
        first.publish().unwrap();
        drop(second);
        assert_eq!(names(scratch.path()), [".b.packed.1-0.partial", "a.packed"]);
    }
}
