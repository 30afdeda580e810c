//! The data of a run: shards that are there, or conversations that become shards at its start.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fathom_data::{ChatOptions, Dataset, Verify, prepare_chat};

use super::{Event, Observer, Plan, Resume};
use crate::{Error, Result};

/// Where the tokens of conversations go, in the run's directory.
const DIRECTORY: &str = "conversations";

/// Opens the data of `plan`, verified.
pub(super) fn open(plan: &Plan, observer: &mut dyn Observer) -> Result<Dataset> {
    let data = &plan.config.data;
    if let Some(missing) = data.path.iter().find(|path| !path.exists()) {
        let problem = format!("{} does not exist", missing.display());
        return Err(Error::config(&plan.file, "data.path", problem));
    }
    if let [directory] = &data.path[..]
        && directory.is_dir()
    {
        if data.validation.is_some() {
            let problem = "prepared data has its validation split already: leave this out";
            return Err(Error::config(&plan.file, "data.validation", problem));
        }
        return Ok(Dataset::open(directory, Verify::Content)?);
    }
    if let Some(directory) = data.path.iter().find(|path| path.is_dir()) {
        let problem = format!(
            "{} is a directory: give one prepared dataset, or files of conversations",
            directory.display()
        );
        return Err(Error::config(&plan.file, "data.path", problem));
    }
    let tokens = plan.out.join(DIRECTORY);
    if plan.resume != Resume::No && tokens.exists() {
        return Ok(Dataset::open(&tokens, Verify::Content)?);
    }
    encode(plan, &tokens, observer)
}

/// Makes tokens of the conversations in `data.path`.
fn encode(plan: &Plan, out: &Path, observer: &mut dyn Observer) -> Result<Dataset> {
    let model = &plan.config.model;
    let tokenizer = model.tokenizer.as_ref().or(model.from.as_ref()).ok_or_else(|| {
        let problem = "conversations need a tokenizer with a chat template: give the directory that holds it";
        Error::config(&plan.file, "model.tokenizer", problem)
    })?;
    // Left by a start that came to nothing: a run that is there was refused before.
    if out.exists() {
        fs::remove_dir_all(out).map_err(Error::io(out, "remove the remains of"))?;
    }
    let files: Vec<PathBuf> = plan.config.data.path.clone();
    let validation = plan.config.data.validation.unwrap_or(0.0);
    let options = ChatOptions { files, tokenizer: tokenizer.clone(), out: out.to_owned(), validation };
    let made = prepare_chat(&options, &mut |conversations| {
        observer.event(Event::Reading(conversations));
        if observer.stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match made {
        Ok((dataset, _)) => Ok(dataset),
        Err(error) => {
            let _ = fs::remove_dir_all(out);
            Err(error.into())
        }
    }
}
