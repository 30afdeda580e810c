//! A model's gradients on given tokens, for comparison with other implementations.

use std::path::Path;

use fathom_checkpoint::{Dtype, OutTensor, write_safetensors};
use fathom_model::differentiable::{Batch, DifferentiableModel, PassOptions};
use fathom_tensor::Tape;

use crate::{Error, Result};

/// Writes `loss` (a single number) and `grad.<checkpoint name>` of every parameter to `out`, and returns the loss: the mean
/// cross-entropy of the next token over the batch `sequences`, without balance or MTP terms. An expert that no token
/// was routed to has a gradient of zeroes. The model's gradients are replaced.
///
/// # Errors
/// Sequences of unequal length or of fewer than two tokens; tokens that the model refuses; no place for the file.
pub fn write_gradients(model: &DifferentiableModel, sequences: &[Vec<u32>], out: &Path) -> Result<f32> {
    let length = sequences.first().map_or(0, Vec::len);
    if let Some((sequence, other)) = sequences.iter().enumerate().find(|(_, other)| other.len() != length) {
        return Err(Error::UnequalLengths { sequence, expected: length, got: other.len() });
    }
    if length < 2 {
        return Err(Error::TooShort { tokens: length, needed: 2 });
    }
    let batch = Batch {
        batch: sequences.len(),
        seq: length - 1,
        tokens: sequences.concat(),
        documents: None,
        learn: None,
    };
    model.parameters().iter().for_each(|parameter| parameter.clear_gradient());
    let tape = Tape::new(model.context());
    let losses = model.losses(&tape, &batch, &PassOptions::PLAIN)?;
    tape.backward(&losses.total);
    let gradients = model.named_gradients();
    let loss = [losses.main];
    let tensor = |name, shape, values| OutTensor {
        name,
        dtype: Dtype::F32,
        shape,
        bytes: bytemuck::cast_slice::<f32, u8>(values),
    };
    let mut tensors = vec![tensor("loss".to_owned(), Vec::new(), &loss[..])];
    tensors.extend(gradients.iter().map(|gradient| {
        tensor(format!("grad.{}", gradient.name), gradient.shape.clone(), gradient.values())
    }));
    write_safetensors(out, &tensors)?;
    Ok(losses.main)
}
