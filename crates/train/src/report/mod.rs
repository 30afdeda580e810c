//! `report.html`: a run as a page that a person would want to look at.
//!
//! The page stands alone: style, script and data are in it, nothing is fetched. Curves are thinned
//! while the log is read, so it stays below a megabyte however long the run was. Everything that
//! comes from the run as text is escaped here; the script only ever sees numbers.

mod chart;
mod curve;
mod history;
mod load;
mod page;
mod text;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::metrics::{Error, FILE_NAME, Records, Result};
use history::History;

/// Name of the report in the folder of a run.
pub const REPORT_NAME: &str = "report.html";

/// Reads the log of the run in `run_dir` and writes the report beside it; returns the report's path.
///
/// The page is replaced as a whole, so a browser that loads it meanwhile gets the old or the new one.
pub fn write(run_dir: &Path) -> Result<PathBuf> {
    let log = run_dir.join(FILE_NAME);
    if !log.is_file() {
        return Err(Error::NotARun { dir: run_dir.to_owned() });
    }
    let mut history = History::default();
    for record in Records::open(&log)? {
        history.add(record?);
    }
    history.load.fit();
    let path = run_dir.join(REPORT_NAME);
    publish(&path, &page::html(&history, &fallback_name(run_dir)))?;
    Ok(path)
}

/// What a run without a name of its own is called: its folder.
fn fallback_name(run_dir: &Path) -> String {
    let absolute = run_dir.canonicalize().unwrap_or_else(|_| run_dir.to_owned());
    absolute.file_name().map_or_else(|| "Training run".into(), |name| name.to_string_lossy().into_owned())
}

fn publish(path: &Path, html: &str) -> Result<()> {
    let partial = path.with_extension("html.partial");
    let mut file = File::create(&partial).map_err(Error::io(&partial, "create"))?;
    file.write_all(html.as_bytes()).map_err(Error::io(&partial, "write"))?;
    file.sync_all().map_err(Error::io(&partial, "sync"))?;
    fs::rename(&partial, path).map_err(Error::io(path, "rename the finished report to"))
}

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;
