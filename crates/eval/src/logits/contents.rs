//! Names and shapes in a logits file. T is a sequence's length, V `vocab_size`, H `hidden_size`, E
//! `n_routed_experts`, k `num_experts_per_tok`; `i` counts sequences, `l` layers.
//!
//! | name | shape, dtype | |
//! |---|---|---|
//! | `seq{i}.logits` | [T, V] f32 | |
//! | `seq{i}.last_hidden` | [T, H] f32 | after the final norm |
//! | `seq{i}.layer{l}.expert_ids`, `.expert_weights` | [T, k] i32, f32 | of MoE layers; sorted by id, final weights |
//! | `seq{i}.trace.embed` | [T, H] f32 | with `trace` |
//! | `seq{i}.trace.layer{l}.attn_out`, `.mlp_out` | [T, H] f32 | with `trace`; before the residual add |
//! | `seq{i}.trace.layer{l}.hidden` | [T, H] f32 | with `trace`; the residual stream after the layer |
//! | `seq{i}.trace.layer{l}.router_logits` | [T, E] f32 | with `trace`; before softmax or sigmoid |
//! | `mtp.seq{i}.logits` | [T-1, V] f32 | first MTP module; row r sees tokens up to r+1 |
//! | `mtp.seq{i}.hidden` | [T-1, H] f32 | after `shared_head.norm` |
//! | `mtp.seq{i}.expert_ids`, `.expert_weights` | [T-1, k] i32, f32 | |
//! | `mtp2.seq{i}.…` | [T-2, …] | second module, and so on; only for sequences that are long enough |

use fathom_checkpoint::{Dtype, TensorPlan};
use fathom_model::Config;

/// What is written besides logits, final hidden states and routing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Hidden states of every layer.
    pub trace: bool,
    /// This many MTP modules, which the model must have loaded.
    pub mtp_modules: usize,
}

/// A tensor's name without its sequence, and the shape of a row.
pub(super) struct Tensor {
    pub(super) name: String,
    dtype: Dtype,
    columns: usize,
}

impl Tensor {
    fn f32(name: impl Into<String>, columns: usize) -> Self {
        Self { name: name.into(), dtype: Dtype::F32, columns }
    }

    fn routing(layer: &str, config: &Config) -> [Self; 2] {
        let top_k = config.num_experts_per_tok;
        let ids = Self { name: format!("{layer}expert_ids"), dtype: Dtype::I32, columns: top_k };
        [ids, Self::f32(format!("{layer}expert_weights"), top_k)]
    }

    fn plan(self, prefix: &str, sequence: usize, rows: usize) -> TensorPlan {
        TensorPlan::new(Contents::name(prefix, sequence, &self.name), self.dtype, vec![rows, self.columns])
    }
}

impl Contents {
    pub(super) fn name(prefix: &str, sequence: usize, tensor: &str) -> String {
        format!("{prefix}seq{sequence}.{tensor}")
    }

    pub(super) fn mtp_prefix(module: usize) -> String {
        if module == 0 { "mtp.".to_owned() } else { format!("mtp{}.", module + 1) }
    }

    /// How many modules have a row for a sequence of `tokens`.
    pub(super) fn modules(&self, tokens: usize) -> usize {
        self.mtp_modules.min(tokens - 1)
    }

    /// All tensors of one sequence, in the order of the file.
    pub(super) fn plan(&self, config: &Config, sequence: usize, tokens: usize) -> Vec<TensorPlan> {
        let mut plan: Vec<TensorPlan> =
            self.main(config).map(|tensor| tensor.plan("", sequence, tokens)).collect();
        for module in 0..self.modules(tokens) {
            let (prefix, rows) = (Self::mtp_prefix(module), tokens - 1 - module);
            plan.extend(self.module(config, module).map(|tensor| tensor.plan(&prefix, sequence, rows)));
        }
        plan
    }

    /// Of the main model; logits first.
    pub(super) fn main(&self, config: &Config) -> impl Iterator<Item = Tensor> + use<> {
        let hidden = config.hidden_size;
        let mut tensors = vec![Tensor::f32("logits", config.vocab_size), Tensor::f32("last_hidden", hidden)];
        let layers = 0..config.num_hidden_layers;
        for layer in layers.clone().filter(|&layer| config.is_moe(layer)) {
            tensors.extend(Tensor::routing(&format!("layer{layer}."), config));
        }
        if self.trace {
            tensors.push(Tensor::f32("trace.embed", hidden));
            for layer in layers {
                let part = |part: &str| format!("trace.layer{layer}.{part}");
                tensors.extend(["attn_out", "mlp_out", "hidden"].map(|name| Tensor::f32(part(name), hidden)));
                if config.is_moe(layer) {
                    tensors.push(Tensor::f32(part("router_logits"), config.n_routed_experts));
                }
            }
        }
        tensors.into_iter()
    }

    /// Of one MTP module; logits first.
    pub(super) fn module(&self, config: &Config, module: usize) -> impl Iterator<Item = Tensor> + use<> {
        let mut tensors =
            vec![Tensor::f32("logits", config.vocab_size), Tensor::f32("hidden", config.hidden_size)];
        if config.is_moe(config.num_hidden_layers + module) {
            tensors.extend(Tensor::routing("", config));
        }
        tensors.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shapes() {
        let mut config = fathom_model::presets::find("v2-lite").unwrap();
        config.num_hidden_layers = 2;
        config.num_nextn_predict_layers = 2;
        let plan = |contents: Contents, tokens: usize| -> Vec<(String, Vec<usize>)> {
            let plan = contents.plan(&config, 3, tokens);
            plan.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
        };
        let rows = |rows: &[(&str, usize, usize)]| -> Vec<(String, Vec<usize>)> {
            rows.iter().map(|&(name, rows, columns)| (name.to_owned(), vec![rows, columns])).collect()
        };
        let (v, h, e, k) = (102_400, 2048, 64, 6);
        let main = [
            ("seq3.logits", 3, v),
            ("seq3.last_hidden", 3, h),
            ("seq3.layer1.expert_ids", 3, k),
            ("seq3.layer1.expert_weights", 3, k),
        ];
        assert_eq!(plan(Contents::default(), 3), rows(&main));
        let trace = [
            ("seq3.trace.embed", 3, h),
            ("seq3.trace.layer0.attn_out", 3, h),
            ("seq3.trace.layer0.mlp_out", 3, h),
            ("seq3.trace.layer0.hidden", 3, h),
            ("seq3.trace.layer1.attn_out", 3, h),
            ("seq3.trace.layer1.mlp_out", 3, h),
            ("seq3.trace.layer1.hidden", 3, h),
            ("seq3.trace.layer1.router_logits", 3, e),
        ];
        assert_eq!(plan(Contents { trace: true, mtp_modules: 0 }, 3), rows(&[&main[..], &trace].concat()));
        let mtp = [
            ("mtp.seq3.logits", 2, v),
            ("mtp.seq3.hidden", 2, h),
            ("mtp.seq3.expert_ids", 2, k),
            ("mtp.seq3.expert_weights", 2, k),
            ("mtp2.seq3.logits", 1, v),
            ("mtp2.seq3.hidden", 1, h),
            ("mtp2.seq3.expert_ids", 1, k),
            ("mtp2.seq3.expert_weights", 1, k),
        ];
        let contents = Contents { trace: false, mtp_modules: 2 };
        assert_eq!(plan(contents, 3), rows(&[&main[..], &mtp].concat()));
        assert_eq!(plan(contents, 2).len(), main.len() + 4);
        assert_eq!(plan(contents, 1).len(), main.len());
    }
}
