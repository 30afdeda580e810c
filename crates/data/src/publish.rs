//! Files that appear under their names when they are complete and on the disk.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the names of unfinished files end; what a killed process left behind can be told by it.
pub(crate) const SUFFIX: &str = ".partial";

/// A file under a name of its own, removed when dropped before [`Unfinished::publish`].
#[derive(Debug)]
pub(crate) struct Unfinished {
    target: PathBuf,
    path: PathBuf,
    pub(crate) file: File,
}

impl Unfinished {
    /// Begins a file that will be `target`.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.{}-{number}{SUFFIX}", std::process::id()));
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        Ok(Self { target: target.to_owned(), path, file })
    }

    /// Waits until the file is on the disk and puts it in its place.
    pub(crate) fn publish(self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.target, "write"))?;
        fs::rename(&self.path, &self.target)
            .map_err(Error::io(&self.target, "rename the finished file to"))?;
        sync_directory(&self.target)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After `publish` there is nothing of this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes a whole file.
pub(crate) fn write(target: &Path, contents: &[u8]) -> Result<()> {
    let mut unfinished = Unfinished::create(target)?;
    unfinished.file.write_all(contents).map_err(Error::io(target, "write"))?;
    unfinished.publish()
}

/// Removes what processes left behind that were killed while they wrote to `directory`. Nobody else may be writing to it.
pub(crate) fn remove_unfinished(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io(directory, "read"))? {
        let path = entry.map_err(Error::io(directory, "read"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(SUFFIX) {
            fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
        }
    }
    Ok(())
}

/// Waits until the rename of `file` is on the disk.
fn sync_directory(file: &Path) -> Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    #[cfg(unix)]
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(Error::io(parent, "write"))?;
    #[cfg(not(unix))]
    let _ = parent;
    Ok(())
}
