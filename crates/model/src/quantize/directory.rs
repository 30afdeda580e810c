//! A quantized directory: safetensors, and a `config.json` that says what is in them.

use std::path::Path;

use fathom_checkpoint::{Dtype, ShardedWriter, TensorPlan, WriteOptions};
use serde_json::{Value, json};

use super::{CHUNK, Progress, Quantizer, Report, scheme, sizes};
use crate::export::{OfCheckpoint, Weights as _};
use crate::manifest::TensorSpec;
use crate::synthesize::beside::{Beside, NewDirectory, refuse_existing};
use crate::{Error, Result};

/// What goes into the directory besides weights.
#[derive(Clone, Debug)]
pub struct DirectoryOptions {
    /// The text of the source's `config.json`; its `quantization_config` is replaced.
    pub config_json: String,
    /// Other files, such as the tokenizer: name and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// Bytes of tensors after which a new shard begins.
    pub max_shard_bytes: u64,
    /// Whether a model already in the directory may be replaced.
    pub overwrite: bool,
}

impl Quantizer<'_> {
    /// Writes the model to `dir`. `None` if `progress` asked to stop.
    ///
    /// # Errors
    /// If the source is damaged, the directory holds a model already, or it cannot be written (no space
    /// included); nothing stays then.
    pub fn write_directory(
        &self,
        dir: &Path,
        options: &DirectoryOptions,
        progress: Progress<'_>,
    ) -> Result<Option<Report>> {
        let specs = self.tensors()?;
        let planned: Vec<(TensorSpec, Dtype)> = specs
            .into_iter()
            .map(|spec| {
                let dtype = self.dtype_of(&spec)?;
                Ok((spec, dtype))
            })
            .collect::<Result<_>>()?;
        let plan = |(spec, dtype): &(TensorSpec, Dtype)| {
            TensorPlan::new(spec.name.clone(), *dtype, spec.shape.clone())
        };
        let plans: Vec<TensorPlan> = planned.iter().map(plan).collect();
        let lengths: Vec<u64> = plans.iter().map(|plan| plan.byte_len().unwrap_or(u64::MAX)).collect();
        let total = lengths.iter().copied().fold(0, u64::saturating_add);
        let parts = sizes(
            planned.iter().zip(&lengths).map(|((spec, _), &bytes)| (spec.part, spec.elements(), bytes)),
        );

        let mut beside = vec![("config.json".to_owned(), with_rules(&options.config_json, &planned)?)];
        beside.extend(options.files.iter().cloned());
        if !options.overwrite {
            refuse_existing(dir, &beside)?;
        }
        // Dropped last: removes the directory if it was made here and is left empty.
        let mut directory = NewDirectory::unless_there(dir);
        let limits = WriteOptions { max_shard_bytes: options.max_shard_bytes, overwrite: options.overwrite };
        let mut writer = ShardedWriter::create(dir, plans, &limits)?;
        let beside = Beside::write(dir, &beside)?;
        let mut done = 0;
        let mut advance = |bytes: usize| {
            done += bytes as u64;
            progress(done, total)
        };
        for (spec, dtype) in &planned {
            writer.begin(&spec.name)?;
            let mut put = |piece: Piece<'_>| {
                let bytes = piece.write(*dtype, &mut writer)?;
                if advance(bytes).is_break() { Err(Error::Cancelled) } else { Ok(()) }
            };
            match self.pieces(spec, *dtype, &mut put) {
                Err(Error::Cancelled) => return Ok(None),
                other => other?,
            }
            self.release(&spec.name);
        }
        let mut files = writer.finish()?;
        files.extend(beside.publish()?);
        directory.keep();
        Ok(Some(Report { files, parts, unfitting: 0 }))
    }

    /// Hands a tensor to `put`, some rows at a time.
    fn pieces(
        &self,
        spec: &TensorSpec,
        dtype: Dtype,
        put: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<()> {
        let cols = *spec.shape.last().expect("every tensor has a dimension");
        let rows = spec.elements() as usize / cols;
        let step = (CHUNK / cols).max(1);
        let (mut numbers, mut blocks) = (Vec::new(), Vec::new());
        for start in (0..rows).step_by(step) {
            let range = start..rows.min(start + step);
            if let Dtype::Block(format) = dtype {
                blocks.resize(range.len() * format.row_bytes(cols), 0);
                if !self.copy_blocks(&spec.name, format, cols, range.clone(), &mut blocks)? {
                    self.encode_rows(spec, format, range, &mut blocks)?;
                }
                put(Piece::Blocks(&blocks))?;
            } else {
                numbers.resize(range.len() * cols, 0.0);
                OfCheckpoint::new(self.checkpoint, self.config).rows(&spec.name, range, &mut numbers)?;
                put(Piece::Numbers(&numbers))?;
            }
        }
        Ok(())
    }
}

/// Some rows of a tensor.
enum Piece<'a> {
    Blocks(&'a [u8]),
    Numbers(&'a [f32]),
}

impl Piece<'_> {
    /// Writes it, and returns its bytes.
    fn write(&self, dtype: Dtype, writer: &mut ShardedWriter) -> Result<usize> {
        match self {
            Piece::Blocks(blocks) => writer.write(blocks)?,
            Piece::Numbers(numbers) => writer.write_f32(numbers)?,
        }
        Ok(match self {
            Piece::Blocks(blocks) => blocks.len(),
            Piece::Numbers(numbers) => numbers.len() * dtype.size(),
        })
    }
}

/// The configuration with `quantization_config` set to our scheme.
fn with_rules(config_json: &str, planned: &[(TensorSpec, Dtype)]) -> Result<Vec<u8>> {
    let bad = |reason: String| Error::ConfigSyntax { file: "config.json".into(), reason };
    let mut config: Value = serde_json::from_str(config_json).map_err(|error| bad(error.to_string()))?;
    let object = config.as_object_mut().ok_or_else(|| bad("it is no object".to_owned()))?;
    let rules = scheme::rules(planned).to_json();
    object.insert(
        "quantization_config".to_owned(),
        json!({ "quant_method": "fathom", "version": 1, "rules": rules }),
    );
    Ok(format!("{config:#}\n").into_bytes())
}
