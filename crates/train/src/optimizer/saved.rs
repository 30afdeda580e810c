//! `optimizer.safetensors`: moments (`adamw.exp_avg.NAME`, `adamw.exp_avg_sq.NAME`, `muon.momentum.NAME`) and the
//! average of the weights (`average.NAME`), exactly as they are in memory.

use std::path::Path;

use fathom_checkpoint::{Checkpoint, Dtype, SafetensorsWriter, TensorPlan};

use super::{Average, Optimizer, State};
use crate::{Error, Result};

const AVERAGE: &str = "average.";

impl State {
    /// Names of its moments, in order.
    fn tensors(&self) -> Vec<String> {
        let kinds: &[&str] = match self.memory.moments() {
            1 => &["muon.momentum"],
            _ => &["adamw.exp_avg", "adamw.exp_avg_sq"],
        };
        kinds.iter().map(|kind| format!("{kind}.{}", self.name)).collect()
    }

    fn dtype(&self) -> Dtype {
        if self.memory.is_bf16() { Dtype::BF16 } else { Dtype::F32 }
    }
}

impl Optimizer {
    /// Bytes of the file that [`Optimizer::save`] writes, but for its header.
    pub fn saved_bytes(&self, average: Option<&Average>) -> u64 {
        (self.bytes() + average.map_or(0, Average::bytes)) as u64
    }

    /// Writes moments and average to `file`.
    ///
    /// # Errors
    /// No space, or I/O.
    pub fn save(&self, file: &Path, average: Option<&Average>) -> Result<()> {
        let averages = average.map_or(&[][..], |average| &average.values);
        let mut plan = Vec::new();
        for state in &self.states {
            let tensors = state.tensors().into_iter();
            plan.extend(tensors.map(|name| TensorPlan::new(name, state.dtype(), state.shape.clone())));
        }
        let planned = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| {
            TensorPlan::new(format!("{AVERAGE}{name}"), Dtype::F32, shape.clone())
        };
        plan.extend(averages.iter().map(planned));
        let mut writer = SafetensorsWriter::create(file, plan)?;
        for state in &self.states {
            for (moment, name) in state.tensors().iter().enumerate() {
                writer.begin(name)?;
                let mut written = Ok(());
                state.memory.read(moment, |numbers| {
                    if written.is_ok() {
                        written = writer.write_f32(numbers);
                    }
                });
                written?;
            }
        }
        for (name, _, values) in averages {
            writer.begin(&format!("{AVERAGE}{name}"))?;
            writer.write_f32(values)?;
        }
        Ok(writer.finish()?)
    }

    /// Reads what [`Optimizer::save`] wrote of an optimizer of the same parameters, which had made `steps` steps.
    ///
    /// # Errors
    /// A file that is damaged, or of another optimizer or model.
    pub fn restore(&mut self, file: &Path, steps: u64, average: Option<&mut Average>) -> Result<()> {
        let checkpoint = Checkpoint::open(file)?;
        for state in &mut self.states {
            for (moment, name) in state.tensors().iter().enumerate() {
                let values = read(&checkpoint, file, name, &state.shape, state.dtype())?;
                state.memory.write(moment, &values);
            }
        }
        for (name, shape, values) in average.into_iter().flat_map(|average| &mut average.values) {
            *values = read(&checkpoint, file, &format!("{AVERAGE}{name}"), shape, Dtype::F32)?;
        }
        self.steps = steps;
        Ok(())
    }
}

fn read(checkpoint: &Checkpoint, file: &Path, name: &str, shape: &[usize], dtype: Dtype) -> Result<Vec<f32>> {
    let tensor = checkpoint.tensor(name)?;
    if tensor.shape != shape || tensor.dtype != dtype {
        return Err(Error::State {
            file: file.to_owned(),
            tensor: name.to_owned(),
            expected: format!("{dtype:?} {shape:?}: another optimizer or another model"),
            got: format!("{:?} {:?}", tensor.dtype, tensor.shape),
        });
    }
    Ok(tensor.to_f32()?)
}
