//! What a checkpoint holds, checked against its configuration without reading the weights.

use std::collections::BTreeMap;

use fathom_checkpoint::Checkpoint;
use serde::Serialize;

use crate::manifest::{self, Part, TensorSpec};
use crate::{Config, Result};

/// A checkpoint's contents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stored {
    /// Files with tensors.
    pub files: usize,
    /// Tensors.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// By dtype, the largest first.
    pub dtypes: Vec<StoredDtype>,
    /// Whether the MTP layers that the configuration speaks of are there.
    pub mtp: bool,
}

/// The tensors of one dtype.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredDtype {
    /// As safetensors spells it.
    pub dtype: &'static str,
    /// How many.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Checks that `checkpoint` holds the tensors of `config` with their shapes, in a dtype that can be
/// loaded, and no others. Of the data it reads only vectors and block scales.
///
/// # Errors
/// A tensor that is missing, unexpected, or of another shape or dtype, by name.
pub fn stored(config: &Config, checkpoint: &Checkpoint) -> Result<Stored> {
    let of_mtp = |spec: &TensorSpec| spec.part == Part::Mtp && checkpoint.contains(&spec.name);
    let mtp = manifest::tensors(config).iter().any(of_mtp);
    manifest::check(config, checkpoint, mtp)?;
    Ok(Stored {
        files: checkpoint.files().count(),
        tensors: checkpoint.names().count(),
        bytes: checkpoint.total_bytes(),
        dtypes: by_dtype(checkpoint),
        mtp,
    })
}

fn by_dtype(checkpoint: &Checkpoint) -> Vec<StoredDtype> {
    let mut sums: BTreeMap<&'static str, (usize, u64)> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let (tensors, bytes) = sums.entry(tensor.dtype.name()).or_default();
        *tensors += 1;
        *bytes += tensor.bytes.len() as u64;
    }
    let row = |(dtype, (tensors, bytes))| StoredDtype { dtype, tensors, bytes };
    let mut dtypes: Vec<StoredDtype> = sums.into_iter().map(row).collect();
    dtypes.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    dtypes
}
