//! What was observed of one sequence and is not in the file yet, row after row.

use std::collections::HashMap;

use fathom_checkpoint::SafetensorsWriter;
use fathom_model::{Observed, Routing};

use super::contents::Contents;
use crate::error::Result;

#[derive(Clone, Debug)]
pub(super) enum Values {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

/// Values by the tensor's name without its sequence.
#[derive(Debug, Default)]
pub(super) struct Record(HashMap<String, Values>);

impl Record {
    pub(super) fn push_f32(&mut self, name: &str, rows: &[f32]) {
        let values = self.0.entry(name.to_owned()).or_insert_with(|| Values::F32(Vec::new()));
        if let Values::F32(values) = values {
            values.extend_from_slice(rows);
        }
    }

    fn push_ids(&mut self, name: &str, rows: &[u32]) {
        let values = self.0.entry(name.to_owned()).or_insert_with(|| Values::I32(Vec::new()));
        if let Values::I32(values) = values {
            values.extend(rows.iter().map(|&id| id as i32));
        }
    }

    /// Takes the rows of one sequence from what a pass over several shows.
    pub(super) fn observe(&mut self, observed: Observed<'_>, part: PassRows, trace: bool) {
        if let Observed::Routed { layer, routing, .. } = observed {
            self.push_routing(&format!("layer{layer}."), routing, part);
        }
        if !trace {
            return;
        }
        let (name, values) = match observed {
            Observed::Embed(values) => ("trace.embed".to_owned(), values),
            Observed::AttentionOut { layer, values } => (format!("trace.layer{layer}.attn_out"), values),
            Observed::MlpOut { layer, values } => (format!("trace.layer{layer}.mlp_out"), values),
            Observed::Hidden { layer, values } => (format!("trace.layer{layer}.hidden"), values),
            Observed::Routed { layer, router_logits, .. } => {
                (format!("trace.layer{layer}.router_logits"), router_logits)
            }
            Observed::AttentionInputs { .. } | Observed::FeedForwardInputs { .. } => return,
        };
        self.push_f32(&name, part.of(values));
    }

    /// Takes the routing of an MTP module, which runs one sequence at a time.
    pub(super) fn observe_module(&mut self, observed: Observed<'_>, rows: usize) {
        if let Observed::Routed { routing, .. } = observed {
            self.push_routing("", routing, PassRows { first: 0, rows, all: rows });
        }
    }

    fn push_routing(&mut self, layer: &str, routing: Routing<'_>, part: PassRows) {
        self.push_ids(&format!("{layer}expert_ids"), part.of(routing.expert_ids));
        self.push_f32(&format!("{layer}expert_weights"), part.of(routing.expert_weights));
    }

    pub(super) fn get(&self, name: &str) -> Option<&Values> {
        self.0.get(name)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Values> {
        self.0.remove(name)
    }

    /// Writes one planned tensor and forgets it.
    pub(super) fn write(
        &mut self,
        writer: &mut SafetensorsWriter,
        prefix: &str,
        sequence: usize,
        name: &str,
    ) -> Result<()> {
        writer.begin(&Contents::name(prefix, sequence, name))?;
        match self.take(name) {
            Some(Values::F32(values)) => writer.write_f32(&values)?,
            Some(Values::I32(values)) => {
                let bytes: Vec<u8> = values.into_iter().flat_map(i32::to_le_bytes).collect();
                writer.write(&bytes)?;
            }
            // The writer says that the tensor is incomplete.
            None => {}
        }
        Ok(())
    }
}

/// The rows of one sequence in a forward pass.
#[derive(Clone, Copy)]
pub(super) struct PassRows {
    pub(super) first: usize,
    pub(super) rows: usize,
    /// Rows of the whole pass.
    pub(super) all: usize,
}

impl PassRows {
    /// Those rows of `values`, `[all, columns]`.
    fn of<T>(self, values: &[T]) -> &[T] {
        let columns = values.len() / self.all;
        &values[self.first * columns..][..self.rows * columns]
    }
}
