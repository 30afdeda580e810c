//! A trained model on the disk, in Hugging Face form.

use std::path::Path;

use fathom_checkpoint::{Dtype, ShardedWriter, TensorPlan, WriteOptions};

use super::{DifferentiableModel, Named};
use crate::Result;

impl DifferentiableModel {
    /// Writes every weight as F32 to `model.safetensors` in `directory` (shards and an index, if they are many): the
    /// masters themselves, so that reading them gives this model again to the bit. `config.json` is the caller's.
    ///
    /// # Errors
    /// Weights that are there already, no space, or I/O.
    pub fn save_weights(&self, directory: &Path) -> Result<()> {
        write_weights(directory, &self.named_values())
    }

    /// Bytes that [`DifferentiableModel::save_weights`] writes, but for headers.
    pub fn saved_bytes(&self) -> u64 {
        4 * self.named_values().iter().map(|named| named.values().len() as u64).sum::<u64>()
    }
}

fn write_weights(directory: &Path, named: &[Named]) -> Result<()> {
    let plan =
        named.iter().map(|named| TensorPlan::new(&named.name, Dtype::F32, named.shape.clone())).collect();
    let mut writer = ShardedWriter::create(directory, plan, &WriteOptions::default())?;
    for named in named {
        writer.begin(&named.name)?;
        writer.write_f32(named.values())?;
    }
    writer.finish()?;
    Ok(())
}
