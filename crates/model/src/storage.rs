//! How weights are held in memory: as they are stored, converted, or by a plan.

use fathom_checkpoint::{Dtype, Matrix, Plan, Rule};
use fathom_kernels::gemm::WeightFormat;
use fathom_numeric::blocks::BlockFormat;

/// How each matrix is held. The gate of a MoE layer is always f32, vectors too.
#[derive(Clone, Debug)]
pub struct Storage {
    /// Matrices named here are held so; the first rule that matches counts.
    pub plan: Plan,
    /// Others stay in the format they are stored in, where there are kernels for it.
    pub as_stored: bool,
    /// The rest is held so: [`WeightFormat::F32`] or [`WeightFormat::Bf16`].
    pub floats: WeightFormat,
}

impl From<WeightFormat> for Storage {
    /// Every matrix in `format`, whatever it is stored as.
    fn from(format: WeightFormat) -> Self {
        match format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => {
                Self { plan: Plan::default(), as_stored: false, floats: format }
            }
            WeightFormat::Block(block) => Self::quantized(Plan::uniform(Dtype::Block(block))),
        }
    }
}

/// Named plans: rules of tensor and format, the first that matches counts.
const PRESETS: [(&str, &[(&str, &str)]); 3] = [
    ("int8", &[("*", "int8-g64")]),
    ("int4", &[("lm_head.weight", "q6_k"), ("model.embed_tokens.weight", "int8-g64"), ("*", "int4-g32")]),
    ("int4-mixed", &[("*.mlp.experts.*", "int4-g32"), ("*", "int8-g64")]),
];

/// Formats that are no blocks: a checkpoint becomes a GGUF file without being quantized.
const FLOATS: [(&str, Dtype); 3] = [("bf16", Dtype::BF16), ("f16", Dtype::F16), ("f32", Dtype::F32)];

impl Storage {
    /// A plan by name: `int8` (groups of 64), `int4` (groups of 32, the head in 6 bits), `int4-mixed` (only
    /// routed experts in 4 bits, all else in 8), or every matrix in one format, such as `q4_k` or `f16`.
    pub fn preset(name: &str) -> Option<Plan> {
        let rule = |&(tensors, format): &(&str, &str)| {
            Rule::new(tensors, format).expect("the presets name formats that exist")
        };
        match PRESETS.iter().find(|preset| preset.0 == name) {
            Some((_, rules)) => Some(Plan { rules: rules.iter().map(rule).collect() }),
            None => {
                let float = FLOATS.iter().find(|float| float.0 == name).map(|float| float.1);
                float.or(BlockFormat::from_name(name).map(Dtype::Block)).map(Plan::uniform)
            }
        }
    }

    /// Every name that [`Storage::preset`] knows.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        let formats = BlockFormat::all().map(BlockFormat::name).chain(FLOATS.iter().map(|float| float.0));
        PRESETS.iter().map(|preset| preset.0).chain(formats)
    }

    /// As stored; floats in bf16.
    pub fn as_stored() -> Self {
        Self { plan: Plan::default(), as_stored: true, floats: WeightFormat::Bf16 }
    }

    /// By a plan, and what it does not name as stored.
    pub fn quantized(plan: Plan) -> Self {
        Self { plan, as_stored: true, floats: WeightFormat::Bf16 }
    }

    /// How `matrix`, read from the tensor `name`, is to be held.
    pub(crate) fn of(&self, name: &str, matrix: &Matrix<'_>) -> WeightFormat {
        match self.plan.format_of(name).and_then(format_of_dtype) {
            Some(WeightFormat::Block(format)) => WeightFormat::Block(format.fitting(matrix.cols())),
            Some(format) => format,
            None if self.as_stored => stored(matrix).unwrap_or(self.floats),
            None => self.floats,
        }
    }

    /// What [`Storage::of`] gives for a tensor of `cols` columns that is stored as floats.
    pub(crate) fn of_floats(&self, name: &str, cols: usize) -> WeightFormat {
        match self.plan.format_of(name).and_then(format_of_dtype) {
            Some(WeightFormat::Block(format)) => WeightFormat::Block(format.fitting(cols)),
            Some(format) => format,
            None => self.floats,
        }
    }
}

fn format_of_dtype(dtype: Dtype) -> Option<WeightFormat> {
    match dtype {
        Dtype::F32 => Some(WeightFormat::F32),
        Dtype::F16 => Some(WeightFormat::F16),
        Dtype::BF16 => Some(WeightFormat::Bf16),
        Dtype::Block(format) => Some(WeightFormat::Block(format)),
        _ => None,
    }
}

/// The format `matrix` is stored in, if it can be multiplied in it; f32 cannot, it would be the slowest.
fn stored(matrix: &Matrix<'_>) -> Option<WeightFormat> {
    match matrix.dtype() {
        Dtype::F8E4M3 if matrix.has_fp8_rows() => Some(WeightFormat::Block(BlockFormat::Fp8)),
        Dtype::F32 => None,
        other => format_of_dtype(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_plans() {
        for name in Storage::presets() {
            assert!(!Storage::preset(name).expect("listed").rules.is_empty(), "{name}");
        }
        assert!(Storage::preset("int3").is_none());
        let mixed = Storage::quantized(Storage::preset("int4-mixed").expect("listed"));
        let format = |name, cols| mixed.of_floats(name, cols).name();
        assert_eq!(format("model.layers.3.mlp.experts.7.down_proj.weight", 1408), "q4_0");
        assert_eq!(format("model.layers.3.mlp.shared_experts.down_proj.weight", 2816), "int8-g64");
        let k = Storage::from(WeightFormat::Block(BlockFormat::Q4K));
        assert_eq!(k.of_floats("w", 1408).name(), "q5_0", "1408 is no multiple of 256");
    }
}
