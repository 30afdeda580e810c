//! The small files of a model, which appear under their names when the weights have, or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use fathom_checkpoint::Error;

use crate::Result;

/// Files under temporary names; those not published are removed.
pub(crate) struct Beside {
    /// Temporary name, then the name.
    files: Vec<(PathBuf, PathBuf)>,
}

fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, action, source }
}

/// # Errors
/// If one of `files` is in `dir` already.
pub(crate) fn refuse_existing(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    let mut paths = files.iter().map(|(name, _)| dir.join(name));
    match paths.find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(Error::AlreadyExists { path }.into()),
    }
}

impl Beside {
    /// Writes `files` (name, contents) to `dir` under temporary names.
    pub(crate) fn write(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<Self> {
        let mut beside = Self { files: Vec::with_capacity(files.len()) };
        for (name, contents) in files {
            let partial = dir.join(format!("{name}.partial"));
            beside.files.push((partial.clone(), dir.join(name)));
            fs::write(&partial, contents).map_err(io(&partial, "write"))?;
        }
        Ok(beside)
    }

    /// Gives all files their names, and returns these.
    pub(crate) fn publish(mut self) -> Result<Vec<PathBuf>> {
        let mut published = Vec::with_capacity(self.files.len());
        while let Some((partial, path)) = self.files.first().cloned() {
            fs::rename(&partial, &path).map_err(io(&path, "rename the finished file to"))?;
            self.files.remove(0);
            published.push(path);
        }
        Ok(published)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        for (partial, _) in &self.files {
            let _ = fs::remove_file(partial);
        }
    }
}

/// Removes a directory that was not there before, unless told to keep it or it is not empty.
pub(crate) struct NewDirectory(Option<PathBuf>);

impl NewDirectory {
    pub(crate) fn unless_there(dir: &Path) -> Self {
        Self((!dir.exists()).then(|| dir.to_owned()))
    }

    pub(crate) fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = fs::remove_dir(dir);
        }
    }
}
