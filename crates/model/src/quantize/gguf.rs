//! A quantized GGUF file.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use fathom_checkpoint::Dtype;
use fathom_checkpoint::gguf::Value;
use fathom_numeric::blocks::BlockFormat;

use super::{Progress, Quantizer, Report, sizes};
use crate::export::{GgufTensor, Layout, OfCheckpoint, Source, Weights, file_type, gguf_tensors, write_gguf};
use crate::manifest::{self, Part};
use crate::{Error, Result, config};

impl Quantizer<'_> {
    /// Writes the model to `path`; `words` are the metadata of its vocabulary. A file already there is replaced
    /// when the new one is complete. `None` if `progress` asked to stop.
    ///
    /// # Errors
    /// [`Error::FormatNotInGguf`] or [`Error::NotInGguf`], a damaged source, no space, or I/O; nothing is left at
    /// `path` then that was not there before.
    pub fn write_gguf(
        &self,
        path: &Path,
        words: Vec<(String, Value)>,
        progress: Progress<'_>,
    ) -> Result<Option<Report>> {
        self.tensors()?;
        let (tensors, unfitting) = self.gguf_tensors()?;
        let mut metadata = config::gguf::metadata(self.config, self.has_mtp())?;
        metadata.push(("general.file_type".to_owned(), Value::U32(file_type(&tensors))));
        metadata.push(("general.quantization_version".to_owned(), Value::U32(2)));
        metadata.extend(words);
        let bytes = |tensor: &GgufTensor| tensor.plan.byte_len().unwrap_or(u64::MAX);
        let numbers = |tensor: &GgufTensor| tensor.plan.shape.iter().map(|&dim| dim as u64).product::<u64>();
        let mut weights = Streamed {
            quantizer: self,
            source: OfCheckpoint::new(self.checkpoint, self.config),
            current: String::new(),
            done: 0,
            numbers: tensors.iter().map(numbers).sum(),
            bytes: tensors.iter().map(bytes).sum(),
            progress,
        };
        match write_gguf(path, self.config, &metadata, &tensors, &mut weights, &mut |_, _| ()) {
            Err(Error::Cancelled) => return Ok(None),
            other => other?,
        }
        let parts: HashMap<String, Part> =
            manifest::tensors(self.config).into_iter().map(|spec| (spec.name, spec.part)).collect();
        let part = |tensor: &GgufTensor| {
            let name = match &tensor.source {
                Source::Weight(name) | Source::Keys(name) | Source::Values(name) => name,
                Source::Stack(names) => &names[0],
            };
            (parts[name], numbers(tensor), bytes(tensor))
        };
        let parts = sizes(tensors.iter().map(part));
        Ok(Some(Report { files: vec![path.to_owned()], parts, unfitting }))
    }

    /// The file's tensors, and how many matrices no block fits.
    fn gguf_tensors(&self) -> Result<(Vec<GgufTensor>, usize)> {
        let failure = RefCell::new(None);
        let unfitting = RefCell::new(0);
        let dtype = |name: &str, cols: usize| {
            // Rules may speak of the whole or of its halves.
            let whole = name.replace(".k_b_proj.", ".kv_b_proj.").replace(".v_b_proj.", ".kv_b_proj.");
            let dtype = self.gguf_dtype_of(&[&whole, name], cols);
            let blocks = matches!(self.plan.format_of_any(&[&whole, name]), Some(Dtype::Block(_)));
            match dtype {
                Ok(dtype) => {
                    *unfitting.borrow_mut() += usize::from(blocks && dtype == Dtype::F16);
                    dtype
                }
                Err(error) => {
                    failure.borrow_mut().get_or_insert(error);
                    Dtype::F32
                }
            }
        };
        let tensors = gguf_tensors(self.config, &Layout { mtp: self.has_mtp(), dtype: &dtype });
        match failure.take() {
            Some(error) => Err(error),
            None => Ok((tensors?, unfitting.take())),
        }
    }
}

/// The source's weights, encoded on all threads, with their pages given back.
struct Streamed<'a> {
    quantizer: &'a Quantizer<'a>,
    source: OfCheckpoint<'a>,
    /// The weight that is being read.
    current: String,
    /// Numbers read.
    done: u64,
    numbers: u64,
    /// Bytes of the result.
    bytes: u64,
    progress: Progress<'a>,
}

impl Streamed<'_> {
    fn advance(&mut self, name: &str, numbers: usize) -> Result<()> {
        if self.current != name {
            self.quantizer.release(&self.current);
            name.clone_into(&mut self.current);
        }
        self.done += numbers as u64;
        let share = self.done as f64 / self.numbers.max(1) as f64;
        let bytes = (share * self.bytes as f64) as u64;
        match (self.progress)(bytes.min(self.bytes), self.bytes) {
            std::ops::ControlFlow::Break(()) => Err(Error::Cancelled),
            std::ops::ControlFlow::Continue(()) => Ok(()),
        }
    }
}

impl Weights for Streamed<'_> {
    fn rows(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.source.rows(name, rows, out)?;
        self.advance(name, out.len())
    }

    fn blocks(
        &mut self,
        name: &str,
        format: BlockFormat,
        columns: usize,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool> {
        let numbers = rows.len() * columns;
        let copied = self.quantizer.copy_blocks(name, format, columns, rows, out)?;
        if copied {
            self.advance(name, numbers)?;
        }
        Ok(copied)
    }

    fn encode(&mut self, name: &str, format: BlockFormat, columns: usize, rows: &[f32], out: &mut [u8]) {
        let importance = self.quantizer.importance_of(name, columns);
        self.quantizer.encode_values(format, columns, importance, rows, out);
    }
}
