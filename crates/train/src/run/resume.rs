//! Whether a checkpoint is one of this run.

use std::path::Path;

use serde_json::Value;

use super::{Plan, Resume};
use crate::checkpoints::{Checkpoints, Saved, TrainingState};
use crate::{Error, Result, RunConfig};

/// Parts of a run file that may change between two sittings: they decide no number of a step that both make.
const FREE: [&str; 9] =
    ["out", "threads", "steps", "tokens", "epochs", "validation", "samples", "checkpoint", "trouble"];

/// The checkpoint that `plan` goes on from, if it does.
pub(super) fn checkpoint(plan: &Plan, checkpoints: &Checkpoints) -> Result<Option<(Saved, TrainingState)>> {
    let (saved, state) = match &plan.resume {
        Resume::No => return Ok(None),
        Resume::Newest => checkpoints.newest()?,
        Resume::From(path) => {
            let state = TrainingState::verified(path)?;
            (Saved { step: state.step, path: path.clone() }, state)
        }
    };
    same_run(&plan.config, &state.config, &saved.path)?;
    Ok(Some((saved, state)))
}

/// Compares everything that decides the numbers.
fn same_run(now: &RunConfig, was: &Value, path: &Path) -> Result<()> {
    let now = now.to_json();
    let fields = now.as_object().expect("a run file is a table").keys();
    for field in fields.filter(|field| !FREE.contains(&field.as_str())) {
        if let Some((at, was, now)) = difference(field, &was[field.as_str()], &now[field.as_str()]) {
            return Err(Error::OtherRun { path: path.to_owned(), field: at, was, now });
        }
    }
    Ok(())
}

/// The first place where two values differ, and what stands there.
fn difference(at: &str, was: &Value, now: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(was), Value::Object(now)) = (was, now) {
        let keys = was.keys().chain(now.keys().filter(|key| !was.contains_key(*key)));
        return keys
            .map(|key| (key, was.get(key).unwrap_or(&Value::Null), now.get(key).unwrap_or(&Value::Null)))
            .find_map(|(key, was, now)| difference(&format!("{at}.{key}"), was, now));
    }
    (was != now).then(|| (at.to_owned(), was.to_string(), now.to_string()))
}
