//! Which tensor gets which format: a plan meets the widths that there are, and the rules that say so again.

use std::collections::BTreeMap;

use fathom_checkpoint::names::{self, Attention, Ffn, Layer};
use fathom_checkpoint::{Dtype, Plan, Rule};
use fathom_numeric::blocks::BlockFormat;

use super::Quantizer;
use crate::manifest::TensorSpec;
use crate::{Config, Error, Result};

/// Names that [`mix`] knows.
pub const MIXES: [&str; 2] = ["q4_k_m", "q5_k_m"];

/// llama.cpp's mixtures by name: `q4_k` or `q5_k` everywhere, the head in `q6_k`, and in about half of the layers
/// the down projections and `kv_b_proj` in `q6_k` too: in the first eighth, the last eighth, and every third of
/// those between. (llama.cpp gives `kv_b_proj` the extra bits only where a file has it whole.)
pub fn mix(name: &str, config: &Config) -> Option<Plan> {
    let base = match name {
        "q4_k_m" => BlockFormat::Q4K,
        "q5_k_m" => BlockFormat::Q5K,
        _ => return None,
    };
    let rule = |tensors: String, format| Rule { tensors, format: Dtype::Block(format) };
    let mut rules = vec![rule(names::LM_HEAD.to_owned(), BlockFormat::Q6K)];
    if config.tie_word_embeddings {
        rules.push(rule(names::EMBED_TOKENS.to_owned(), BlockFormat::Q6K));
    }
    let layers = config.num_hidden_layers;
    let (eighth, last) = (layers / 8, 7 * layers / 8);
    let more = |&layer: &usize| layer < eighth || layer >= last || (layer - eighth) % 3 == 2;
    for layer in (0..config.layers_with_mtp()).filter(more).map(Layer) {
        let any_expert = layer.expert(0, Ffn::DownProj).replace(".experts.0.", ".experts.*.");
        let down = [layer.mlp(Ffn::DownProj), any_expert, layer.shared_experts(Ffn::DownProj)];
        let names = down.into_iter().chain([layer.attention(Attention::KvBProj)]);
        rules.extend(names.map(|name| rule(name, BlockFormat::Q6K)));
    }
    rules.push(rule("*".to_owned(), base));
    Some(Plan { rules })
}

impl Quantizer<'_> {
    /// How a tensor is written to a directory.
    pub(super) fn dtype_of(&self, spec: &TensorSpec) -> Result<Dtype> {
        let &[rows, cols] = &spec.shape[..] else { return Ok(self.plain(&spec.name)) };
        if is_gate(&spec.name) {
            return Ok(self.plain(&spec.name));
        }
        match self.plan.format_of(&spec.name) {
            Some(Dtype::Block(format)) => Ok(Dtype::Block(format.fitting(cols))),
            Some(plain) => Ok(plain),
            None => self.as_stored(&spec.name, [rows, cols]),
        }
    }

    /// How the matrix that GGUF calls by one of `names` is written there.
    pub(super) fn gguf_dtype_of(&self, names: &[&str], cols: usize) -> Result<Dtype> {
        let dtype = match self.plan.format_of_any(names) {
            Some(Dtype::Block(format)) => Dtype::Block(format.fitting(cols)),
            Some(plain) => return Ok(plain),
            None => {
                let stored = names.iter().find_map(|name| self.checkpoint.find(name));
                match stored.map(|view| view.dtype) {
                    Some(Dtype::U8) => Dtype::Block(self.own_format(names)),
                    Some(Dtype::F8E4M3) | None => return Ok(Dtype::BF16),
                    Some(dtype) => dtype,
                }
            }
        };
        let Dtype::Block(format) = dtype else { return Ok(dtype) };
        let nearest = match format {
            BlockFormat::Fp8 | BlockFormat::Int8G64 | BlockFormat::Int8G128 => "q8_0",
            BlockFormat::Int4G64 | BlockFormat::Int4G128 => "q4_0",
            _ if !cols.is_multiple_of(format.block_len()) => return Ok(Dtype::F16),
            _ => return Ok(dtype),
        };
        let tensor = names.first().map_or_else(String::new, |name| (*name).to_owned());
        Err(Error::FormatNotInGguf { tensor, format: format.name(), nearest })
    }

    /// A vector or a gate: as it is stored, F32 if that is in blocks or FP8.
    fn plain(&self, name: &str) -> Dtype {
        match self.checkpoint.find(name).map(|view| view.dtype) {
            Some(dtype @ (Dtype::F16 | Dtype::BF16)) => dtype,
            _ => Dtype::F32,
        }
    }

    fn as_stored(&self, name: &str, shape: [usize; 2]) -> Result<Dtype> {
        if !self.checkpoint.contains(name) {
            // `kv_b_proj` of a file that has its halves.
            return Ok(Dtype::BF16);
        }
        let matrix = self.checkpoint.matrix(name, shape)?;
        Ok(match matrix.dtype() {
            Dtype::F8E4M3 if matrix.has_fp8_rows() => Dtype::Block(BlockFormat::Fp8),
            Dtype::F8E4M3 => Dtype::BF16,
            other => other,
        })
    }

    /// What our own directory says of a tensor whose bytes it carries.
    fn own_format(&self, names: &[&str]) -> BlockFormat {
        let plan = self.config.block_formats.as_ref();
        match plan.and_then(|plan| plan.format_of_any(names)) {
            Some(Dtype::Block(format)) => format,
            _ => BlockFormat::Q8_0,
        }
    }
}

/// The gate of a MoE layer, which decides more than it weighs.
pub(super) fn is_gate(name: &str) -> bool {
    name.ends_with(".mlp.gate.weight")
}

/// Rules that give every tensor its format: one for all layers where they agree, else one per layer, else one per
/// tensor.
pub(super) fn rules(tensors: &[(TensorSpec, Dtype)]) -> Plan {
    let mut rules = Vec::new();
    let mut rest: Vec<(&str, Dtype)> = tensors.iter().map(|(spec, dtype)| (&spec.name[..], *dtype)).collect();
    for pattern in [all_layers, all_experts] {
        let mut groups: BTreeMap<String, Vec<(&str, Dtype)>> = BTreeMap::new();
        for (name, dtype) in rest.drain(..) {
            groups.entry(pattern(name)).or_default().push((name, dtype));
        }
        for (tensors, group) in groups {
            let format = group[0].1;
            if group.iter().any(|tensor| tensor.1 != format) {
                rest.extend(group);
            } else if matches!(format, Dtype::Block(_)) {
                rules.push(Rule { tensors, format });
            }
        }
    }
    // The exact ones first: a tensor without a rule of its own must not fall under another's.
    let exact = rest.into_iter().map(|(name, format)| Rule { tensors: name.to_owned(), format });
    Plan { rules: exact.chain(rules.into_iter().rev()).collect() }
}

/// `name` with every number between dots replaced by `*`.
fn all_layers(name: &str) -> String {
    starred(name, 0)
}

/// The same but for the first number.
fn all_experts(name: &str) -> String {
    starred(name, 1)
}

fn starred(name: &str, mut keep: usize) -> String {
    let star = |part: &str| {
        let number = part.bytes().all(|byte| byte.is_ascii_digit());
        if !number || keep > 0 {
            keep -= usize::from(number);
            return part.to_owned();
        }
        "*".to_owned()
    };
    name.split('.').map(star).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{self, Part, Storage};

    fn spec(name: &str) -> TensorSpec {
        let (name, shape) = (name.to_owned(), vec![1, 1]);
        TensorSpec { name, shape, part: Part::Attention, optional: false, storage: Storage::Plain }
    }

    #[test]
    fn rules_say_what_was_planned() {
        let config = crate::presets::find("v3").expect("shipped");
        for plan in [
            mix("q4_k_m", &config).expect("listed"),
            crate::Storage::preset("int4-mixed").expect("listed"),
            crate::Storage::preset("q4_k").expect("listed"),
        ] {
            let dtype = |spec: &TensorSpec| match spec.shape[..] {
                [_, cols] if !is_gate(&spec.name) => match plan.format_of(&spec.name) {
                    Some(Dtype::Block(format)) => Dtype::Block(format.fitting(cols)),
                    _ => Dtype::BF16,
                },
                _ => Dtype::BF16,
            };
            let tensors: Vec<_> =
                manifest::tensors(&config).into_iter().map(|spec| (spec.clone(), dtype(&spec))).collect();
            let written = rules(&tensors);
            assert!(written.rules.len() < 400, "{}", written.rules.len());
            for (spec, dtype) in &tensors {
                let want = Some(*dtype).filter(|dtype| matches!(dtype, Dtype::Block(_)));
                let got = written.format_of(&spec.name).filter(|dtype| matches!(dtype, Dtype::Block(_)));
                assert_eq!(got, want, "{}", spec.name);
            }
        }
    }

    #[test]
    fn tensors_that_differ_get_rules_of_their_own() {
        let (int8, int4) = (Dtype::Block(BlockFormat::Q8_0), Dtype::Block(BlockFormat::Q4_0));
        let planned: Vec<(TensorSpec, Dtype)> = [
            ("model.layers.0.mlp.experts.0.up_proj.weight", int4),
            ("model.layers.0.mlp.experts.1.up_proj.weight", int4),
            ("model.layers.1.mlp.experts.0.up_proj.weight", int8),
            ("model.layers.1.mlp.experts.1.up_proj.weight", Dtype::BF16),
            ("model.norm.weight", Dtype::BF16),
            ("lm_head.weight", int8),
        ]
        .map(|(name, dtype)| (spec(name), dtype))
        .into();
        let plan = rules(&planned);
        for (spec, dtype) in planned.iter().filter(|(spec, _)| spec.name != "model.norm.weight") {
            assert_eq!(plan.format_of(&spec.name), Some(*dtype), "{}", spec.name);
        }
        assert_eq!(plan.format_of("model.norm.weight"), None);
        assert_eq!(plan.rules.len(), 4, "{plan:?}");
    }

    #[test]
    fn mixes_spend_bits_where_llama_cpp_does() {
        let config = crate::presets::find("v2-lite").expect("shipped");
        let plan = mix("q4_k_m", &config).expect("listed");
        let check = |name: &str, want: &str| {
            let Some(Dtype::Block(got)) = plan.format_of(name) else { panic!("{name} has no format") };
            assert_eq!(got.name(), want, "{name}");
        };
        check("lm_head.weight", "q6_k");
        check("model.embed_tokens.weight", "q4_k");
        // 27 layers: 0..3, every third from 5 on, 23..27.
        for (layer, want) in [(0, "q6_k"), (3, "q4_k"), (4, "q4_k"), (5, "q6_k"), (22, "q4_k"), (23, "q6_k")]
        {
            check(&format!("model.layers.{layer}.mlp.experts.9.down_proj.weight"), want);
            check(&format!("model.layers.{layer}.self_attn.kv_b_proj.weight"), want);
            check(&format!("model.layers.{layer}.mlp.experts.9.up_proj.weight"), "q4_k");
        }
        assert!(mix("q3_k_m", &config).is_none() && MIXES.iter().all(|name| mix(name, &config).is_some()));
    }
}
