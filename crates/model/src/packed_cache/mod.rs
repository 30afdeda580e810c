//! The packed cache: weights as they were packed, mapped at the next start (docs/formats/packed-cache.md).
//!
//! The key is everything that decides a packed byte: the files of the checkpoint and its configuration, the
//! layout of panels and of this module's entries, and how weights were to be held. A cache with that key has
//! nothing to be read from the checkpoint but its headers.

mod pieces;
#[cfg(test)]
mod tests;
mod weights;

use std::num::NonZero;
use std::path::{Path, PathBuf};

use fathom_checkpoint::Checkpoint;
use fathom_kernels::Compute;
use fathom_kernels::gemm::LAYOUT;
use fathom_packed::{Key, Limits, Outcome, Reason, Source, Writer, place_in, places};
use serde_json::json;

use crate::load::{self, LoadOptions, Progress};
use crate::weights::Weights;
use crate::{Config, Result, Storage};

/// The version of what stands in the entries, and of how matrices are joined and cut before they are packed. To
/// be raised with `weights.rs` of this module and with `load/`.
const ENTRIES: u32 = 1;

/// Whether packed weights are kept for the next start, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CacheUse {
    /// Neither read nor written.
    #[default]
    Off,
    /// Beside the checkpoint, or in the user's cache directory where that cannot be written; models whose weights
    /// pack faster than anybody notices get none ([`LoadOptions::cache_from_bytes`]).
    Auto,
    /// In this directory, for a model of any size.
    Directory(PathBuf),
}

/// What came of the packed cache when a model was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheOutcome {
    /// There was nothing to do: it is off, or the model is small.
    Unused,
    /// The weights are the cache's; no tensor was read.
    Mapped,
    /// The weights were packed, and a cache was written.
    Written {
        /// Its file.
        path: PathBuf,
        /// Bytes of it.
        bytes: u64,
        /// Why the one that was there could not be used; `None` if there was none.
        instead: Option<String>,
    },
    /// The weights were packed, and no cache could be written: why, with the mend. The same was logged as a warning.
    Failed(String),
}

/// What is loaded.
pub(crate) struct Request<'a> {
    /// As the user gave it.
    pub(crate) path: &'a Path,
    pub(crate) config: &'a Config,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) compute: &'a Compute,
    pub(crate) options: &'a LoadOptions,
}

/// The weights, from the cache if there is one, else from the checkpoint; then a cache is written, if it is wanted.
pub(crate) fn weights(request: &Request<'_>, progress: Progress<'_>) -> Result<(Weights, CacheOutcome)> {
    let Request { config, checkpoint, compute, options, .. } = *request;
    let places = request.places();
    if places.is_empty() {
        let weights = load::weights(config, checkpoint, compute, options, progress)?;
        return Ok((weights, CacheOutcome::Unused));
    }
    // Before the first tensor is read, so that a change during loading is noticed.
    let key = request.key();
    let why = match &key {
        Ok(key) => match request.open(&places, key) {
            Ok(weights) => return Ok((weights, CacheOutcome::Mapped)),
            Err(reason) => Some(reason).filter(|reason| !matches!(reason, Reason::Missing)),
        },
        Err(_) => None,
    };
    let mut read = 0;
    let mut noted = |done, total| {
        read = total;
        progress(done, total);
    };
    let weights = load::weights(config, checkpoint, compute, options, &mut noted)?;
    if options.cache == CacheUse::Auto && weights.bytes() < options.cache_from_bytes {
        return Ok((weights, CacheOutcome::Unused));
    }
    let mut beyond = |done, total| progress(read + done, read + total);
    let outcome = match key.and_then(|key| request.write(&weights, &places, &key, &mut beyond)) {
        Ok((path, bytes)) => {
            CacheOutcome::Written { path, bytes, instead: why.map(|reason| reason.to_string()) }
        }
        Err(error) => {
            tracing::warn!("every start packs {} anew: {error}", request.path.display());
            CacheOutcome::Failed(error.to_string())
        }
    };
    Ok((weights, outcome))
}

impl Request<'_> {
    /// Where the cache may lie; nowhere if there is to be none.
    fn places(&self) -> Vec<PathBuf> {
        let id = options_id(&self.options.storage, self.options.mtp);
        match &self.options.cache {
            CacheUse::Off => Vec::new(),
            CacheUse::Auto => places(self.path, &id),
            CacheUse::Directory(directory) => vec![place_in(directory, self.path, &id)],
        }
    }

    fn key(&self) -> fathom_packed::Result<Key> {
        let mut files: Vec<PathBuf> = self.checkpoint.files().map(Path::to_owned).collect();
        // They say how the tensors are to be understood, and in which file they are.
        let beside = ["config.json", "model.safetensors.index.json"].map(|name| self.path.join(name));
        files.extend(beside.into_iter().filter(|file| file.is_file()));
        Ok(Key {
            source: Source::of(&files)?,
            layout: format!("{LAYOUT}, entries {ENTRIES}"),
            options: options_text(&self.options.storage, self.options.mtp),
        })
    }

    fn open(&self, places: &[PathBuf], key: &Key) -> std::result::Result<Weights, Reason> {
        match fathom_packed::Packed::open_in(places, key, self.threads()) {
            Outcome::Rebuild(reason) => Err(reason),
            Outcome::Ready(packed) => {
                let tied = load::is_tied(self.config, self.checkpoint);
                weights::read(self.config, &packed, tied, self.options.mtp)
            }
        }
    }

    /// Writes the cache; its path and size.
    fn write(
        &self,
        weights: &Weights,
        places: &[PathBuf],
        key: &Key,
        progress: Progress<'_>,
    ) -> fathom_packed::Result<(PathBuf, u64)> {
        let parts = weights::parts(self.config, weights);
        let planned = parts.iter().map(|parts| parts.len() as u64).sum();
        let limits = Limits { planned_bytes: planned, ..Limits::default() };
        let mut writer = Writer::create_in(places, key, limits)?;
        let path = writer.path().to_owned();
        let mut done = 0;
        std::thread::scope(|scope| {
            // The file is hashed while the disk is busy; an error of this comes back in `finish`.
            scope.spawn(|| key.source.contents(NonZero::<usize>::MIN).is_ok());
            parts.iter().try_for_each(|parts| {
                parts.write(&mut writer)?;
                done += parts.len() as u64;
                progress(done, planned);
                Ok(())
            })
        })?;
        writer.finish(self.threads())?;
        let bytes = std::fs::metadata(&path).map_or(planned, |metadata| metadata.len());
        Ok((path, bytes))
    }

    fn threads(&self) -> NonZero<usize> {
        NonZero::new(self.compute.threads()).unwrap_or(NonZero::<usize>::MIN)
    }
}

/// How weights are held, in full: part of the key.
fn options_text(storage: &Storage, mtp: bool) -> String {
    let Storage { plan, as_stored, floats } = storage;
    json!({ "plan": plan.to_json(), "as_stored": as_stored, "floats": floats.name(), "mtp": mtp }).to_string()
}

/// How weights are held, for a file name: one for each [`options_text`], readable where the plan has a name.
fn options_id(storage: &Storage, mtp: bool) -> String {
    let Storage { plan, as_stored, floats } = storage;
    let rest = if *as_stored { format!("stored-{floats}") } else { floats.to_string() };
    let mtp = if mtp { "-mtp" } else { "" };
    if plan.rules.is_empty() {
        return format!("{rest}{mtp}");
    }
    let named = Storage::presets().find(|name| Storage::preset(name).as_ref() == Some(plan));
    let plan = match named {
        Some(name) => name.to_owned(),
        None => format!("plan-{:016x}", fnv1a(plan.to_json().to_string().as_bytes())),
    };
    format!("{plan}-{rest}{mtp}")
}

/// FNV-1a in 64 bits: a name has to differ, and the key is compared anyway.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
