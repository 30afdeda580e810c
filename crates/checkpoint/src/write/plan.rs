//! Where every byte of a file will be, from names, dtypes and shapes alone.

use crate::{Dtype, Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;

/// One tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorPlan {
    /// Its name in the file.
    pub name: String,
    /// What its elements are. Blocks go into a safetensors file as [`Dtype::carried`] says.
    pub dtype: Dtype,
    /// Dimensions in elements, outermost first.
    pub shape: Vec<usize>,
}

impl TensorPlan {
    /// The three together.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }

    /// Bytes of its data; `None` if that overflows.
    pub fn byte_len(&self) -> Option<u64> {
        self.dtype.byte_len(&self.shape).map(|bytes| bytes as u64)
    }
}

/// A planned tensor with its place.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    /// From the start of the file.
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// A whole file before its first byte.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Length prefix and JSON.
    pub(crate) header: Vec<u8>,
    /// In the order of the plan, which is the order of writing.
    pub(crate) tensors: Vec<Placed>,
    pub(crate) file_bytes: u64,
}

/// Lengths of all tensors of a plan, with names and shapes checked.
pub(crate) fn lengths(path: &Path, plan: &[TensorPlan]) -> Result<Vec<u64>> {
    let bad = |tensor: &TensorPlan, reason: &str| Error::BadPlan {
        path: path.to_owned(),
        tensor: tensor.name.clone(),
        reason: reason.to_owned(),
    };
    let mut seen = HashSet::with_capacity(plan.len());
    let mut total = 0u64;
    plan.iter()
        .map(|tensor| {
            if !seen.insert(tensor.name.as_str()) {
                return Err(bad(tensor, "it is planned twice"));
            }
            if tensor.name == "__metadata__" {
                return Err(bad(tensor, "the format reserves this name"));
            }
            let length = tensor.byte_len().ok_or_else(|| bad(tensor, "its size overflows"))?;
            total = total.checked_add(length).ok_or_else(|| bad(tensor, "the sum of sizes overflows"))?;
            Ok(length)
        })
        .collect()
}

/// Lays out `plan`, whose `lengths` have been checked.
///
/// The data is ordered by falling element size, so that every tensor begins at a multiple of it: torch
/// refuses to view bytes at any other offset, and an FP8 matrix of odd size before its F32 scales would
/// leave them at one. Among equal sizes the order of the plan stays.
pub(crate) fn lay_out(plan: Vec<TensorPlan>, lengths: &[u64]) -> Layout {
    let mut order: Vec<usize> = (0..plan.len()).collect();
    order.sort_by_key(|&tensor| std::cmp::Reverse(plan[tensor].dtype.carried(&[]).0.size()));

    let mut json = Map::new();
    json.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut begins = vec![0; plan.len()];
    let mut data_bytes = 0;
    for tensor in order {
        let (begin, end) = (data_bytes, data_bytes + lengths[tensor]);
        let TensorPlan { name, dtype, shape } = &plan[tensor];
        let (carried, shape) = dtype.carried(shape);
        let entry = json!({ "dtype": carried.name(), "shape": shape, "data_offsets": [begin, end] });
        json.insert(name.clone(), entry);
        begins[tensor] = begin;
        data_bytes = end;
    }

    let mut text = Value::Object(json).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);

    let data_start = header.len() as u64;
    let tensors = plan
        .into_iter()
        .zip(begins.iter().zip(lengths))
        .map(|(TensorPlan { name, dtype, .. }, (begin, &length))| Placed {
            name,
            dtype,
            start: data_start.saturating_add(*begin),
            length,
        })
        .collect();
    // Saturated, it is refused for want of space.
    Layout { header, tensors, file_bytes: data_start.saturating_add(data_bytes) }
}
