//! Every tensor a configuration has: name, shape, and which part of the model it belongs to.
//!
//! One list serves loading (what must be there, what must not), writing synthetic checkpoints and
//! counting parameters, so that the three cannot disagree.

use std::collections::BTreeSet;

use fathom_checkpoint::Checkpoint;
use fathom_checkpoint::names::{self, Attention, Ffn, Layer};

use crate::config::ModelType;
use crate::{Config, Error, Result};

/// A part of the model, as reports count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `embed_tokens`.
    Embedding,
    /// The projections of MLA.
    Attention,
    /// MLPs of dense layers.
    DenseMlp,
    /// Gates and their correction biases.
    Router,
    /// Routed experts.
    RoutedExperts,
    /// Shared experts.
    SharedExperts,
    /// All RMSNorms of the main model.
    Norms,
    /// `lm_head`.
    Head,
    /// Everything in MTP layers.
    Mtp,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// What it belongs to.
    pub part: Part,
    /// May be absent: copies of other tensors.
    pub optional: bool,
    /// How released checkpoints store it.
    pub storage: Storage,
}

/// How released checkpoints store a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the checkpoint's main dtype; FP8 with block scales where the checkpoint is FP8.
    Projection,
    /// In the main dtype, bf16 where the checkpoint is FP8.
    Plain,
    /// Always f32: `e_score_correction_bias`.
    Float32,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }
}

/// All tensors of `config` in the order of the data flow; MTP layers last.
pub fn tensors(config: &Config) -> Vec<TensorSpec> {
    let mut list = List { config, specs: Vec::new() };
    list.plain(names::EMBED_TOKENS.to_owned(), [config.vocab_size, config.hidden_size], Part::Embedding);
    for layer in 0..config.num_hidden_layers {
        list.layer(layer, None);
    }
    list.plain(names::NORM.to_owned(), [config.hidden_size], Part::Norms);
    list.plain(names::LM_HEAD.to_owned(), [config.vocab_size, config.hidden_size], Part::Head);
    list.last().optional = config.tie_word_embeddings;
    for layer in config.num_hidden_layers..config.layers_with_mtp() {
        list.mtp_layer(layer);
    }
    list.specs
}

/// Checks that `checkpoint` holds the tensors of `config` with their shapes, in a dtype that can be
/// loaded, and no others; those of MTP layers may be missing unless `mtp`, and `kv_b_proj` may be in
/// its two halves, as GGUF files have it. Returns the bytes of
/// what a model with or without them reads. Of the data only vectors and block scales are read, so
/// that a damaged checkpoint is refused before a long load begins.
///
/// # Errors
/// A tensor that is missing, unexpected, or of another shape or dtype, by name.
pub fn check(config: &Config, checkpoint: &Checkpoint, mtp: bool) -> Result<u64> {
    let mut known = BTreeSet::new();
    let mut bytes = 0;
    for spec in held(config, checkpoint) {
        let wanted = mtp || spec.part != Part::Mtp;
        let view = checkpoint.find(&spec.name);
        if view.is_some() || (wanted && !spec.optional) {
            match spec.shape[..] {
                [rows, cols] => drop(checkpoint.matrix(&spec.name, [rows, cols])?),
                _ => drop(checkpoint.vector(&spec.name, spec.elements() as usize)?),
            }
        }
        // Copies of other tensors are checked but never read.
        if wanted && !(spec.optional && spec.part == Part::Mtp) {
            bytes += view.map_or(0, |view| view.bytes.len() as u64);
        }
        known.insert(names::scale_name(&spec.name));
        known.insert(spec.name);
    }
    // Old conversions stored the rotary frequencies, which follow from the config.
    let unexpected = |name: &&str| !known.contains(*name) && !name.ends_with("rotary_emb.inv_freq");
    let mut unexpected = checkpoint.names().filter(unexpected);
    match unexpected.next() {
        None => Ok(bytes),
        Some(first) => Err(Error::UnexpectedTensors {
            path: checkpoint.path().to_owned(),
            count: 1 + unexpected.count(),
            first: first.to_owned(),
        }),
    }
}

/// The tensors of `config`, `kv_b_proj` replaced by its halves where `checkpoint` has only those, and beside
/// them (optional) where it has both.
fn held(config: &Config, checkpoint: &Checkpoint) -> Vec<TensorSpec> {
    let mut specs = Vec::new();
    for spec in tensors(config) {
        let halves = kv_b_halves(config, &spec);
        let is_split = halves.iter().flatten().any(|half| checkpoint.contains(&half.name));
        let is_whole = checkpoint.contains(&spec.name);
        if is_whole || !is_split {
            specs.push(spec);
        }
        if is_split {
            let halves = halves.into_iter().flatten();
            specs.extend(halves.map(|half| TensorSpec { optional: is_whole, ..half }));
        }
    }
    specs
}

/// The halves of a `kv_b_proj` ([`Layer::k_b_proj`], [`Layer::v_b_proj`]); `None` of any other tensor.
fn kv_b_halves(config: &Config, whole: &TensorSpec) -> Option<[TensorSpec; 2]> {
    let base = whole.name.strip_suffix("kv_b_proj.weight")?;
    let (heads, latent) = (config.num_attention_heads, config.kv_lora_rank);
    let half = |own: &str, shape: [usize; 2]| TensorSpec {
        name: format!("{base}{own}.weight"),
        shape: shape.to_vec(),
        ..whole.clone()
    };
    Some([
        half("k_b_proj", [heads * latent, config.qk_nope_head_dim]),
        half("v_b_proj", [heads * config.v_head_dim, latent]),
    ])
}

struct List<'a> {
    config: &'a Config,
    specs: Vec<TensorSpec>,
}

impl List<'_> {
    fn push(&mut self, name: String, shape: impl Into<Vec<usize>>, part: Part, storage: Storage) {
        self.specs.push(TensorSpec { name, shape: shape.into(), part, optional: false, storage });
    }

    fn plain(&mut self, name: String, shape: impl Into<Vec<usize>>, part: Part) {
        self.push(name, shape, part, Storage::Plain);
    }

    fn last(&mut self) -> &mut TensorSpec {
        self.specs.last_mut().expect("called right after a push")
    }

    /// A decoder layer; all of it counts as `whole`, if given.
    fn layer(&mut self, layer: usize, whole: Option<Part>) {
        let (config, names) = (self.config, Layer(layer));
        let part = |own| whole.unwrap_or(own);
        self.plain(names.input_layernorm(), [config.hidden_size], part(Part::Norms));
        self.attention(names, whole);
        self.plain(names.post_attention_layernorm(), [config.hidden_size], part(Part::Norms));
        if !config.is_moe(layer) {
            self.mlp(|ffn| names.mlp(ffn), config.intermediate_size, config.mlp_bias, part(Part::DenseMlp));
            return;
        }
        let experts = config.n_routed_experts;
        self.plain(names.router(), [experts, config.hidden_size], part(Part::Router));
        if config.model_type == ModelType::DeepseekV3 {
            self.push(names.e_score_correction_bias(), [experts], part(Part::Router), Storage::Float32);
        }
        for expert in 0..experts {
            let width = config.moe_intermediate_size;
            self.mlp(|ffn| names.expert(expert, ffn), width, false, part(Part::RoutedExperts));
        }
        if config.n_shared_experts > 0 {
            let width = config.n_shared_experts * config.moe_intermediate_size;
            self.mlp(|ffn| names.shared_experts(ffn), width, config.mlp_bias, part(Part::SharedExperts));
        }
    }

    fn attention(&mut self, names: Layer, whole: Option<Part>) {
        let config = self.config;
        if config.model_type == ModelType::Deepseek {
            return self.grouped_attention(names, whole);
        }
        let (hidden, queries) = (config.hidden_size, config.num_attention_heads * config.qk_head_dim());
        let values = config.num_attention_heads * config.v_head_dim;
        let part = whole.unwrap_or(Part::Attention);
        let mut matrix = |tensor, rows, cols, bias: bool| {
            let name = names.attention(tensor);
            self.push(name, [rows, cols], part, Storage::Projection);
            if bias {
                self.plain(names.attention_bias(tensor), [rows], part);
            }
        };
        match config.q_lora_rank {
            None => matrix(Attention::QProj, queries, hidden, false),
            Some(rank) => {
                matrix(Attention::QAProj, rank, hidden, config.attention_bias);
                matrix(Attention::QBProj, queries, rank, false);
            }
        }
        matrix(Attention::KvAProjWithMqa, config.latent_width(), hidden, config.attention_bias);
        let expanded = config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim);
        matrix(Attention::KvBProj, expanded, config.kv_lora_rank, false);
        matrix(Attention::OProj, hidden, values, config.attention_bias);
        let norms = whole.unwrap_or(Part::Norms);
        if let Some(rank) = config.q_lora_rank {
            self.plain(names.attention(Attention::QALayernorm), [rank], norms);
        }
        self.plain(names.attention(Attention::KvALayernorm), [config.kv_lora_rank], norms);
    }

    /// MHA, GQA and MQA.
    fn grouped_attention(&mut self, names: Layer, whole: Option<Part>) {
        let config = self.config;
        let width = |heads: usize| heads * config.v_head_dim;
        let (queries, keys) = (width(config.num_attention_heads), width(config.num_key_value_heads));
        let hidden = config.hidden_size;
        for (tensor, rows, cols) in [
            (Attention::QProj, queries, hidden),
            (Attention::KProj, keys, hidden),
            (Attention::VProj, keys, hidden),
            (Attention::OProj, hidden, queries),
        ] {
            let part = whole.unwrap_or(Part::Attention);
            self.push(names.attention(tensor), [rows, cols], part, Storage::Projection);
            if config.attention_bias {
                self.plain(names.attention_bias(tensor), [rows], part);
            }
        }
    }

    fn mlp(&mut self, name: impl Fn(Ffn) -> String, width: usize, bias: bool, part: Part) {
        for ffn in Ffn::ALL {
            let [rows, cols] = match ffn {
                Ffn::GateProj | Ffn::UpProj => [width, self.config.hidden_size],
                Ffn::DownProj => [self.config.hidden_size, width],
            };
            self.push(name(ffn), [rows, cols], part, Storage::Projection);
            if bias {
                self.plain(names::bias_name(&name(ffn)), [rows], part);
            }
        }
    }

    fn mtp_layer(&mut self, layer: usize) {
        let (config, names) = (self.config, Layer(layer));
        let hidden = config.hidden_size;
        self.layer(layer, Some(Part::Mtp));
        self.plain(names.enorm(), [hidden], Part::Mtp);
        self.plain(names.hnorm(), [hidden], Part::Mtp);
        self.plain(names.eh_proj(), [hidden, 2 * hidden], Part::Mtp);
        self.plain(names.shared_head_norm(), [hidden], Part::Mtp);
        for copy in [names.embed_tokens(), names.shared_head_head()] {
            self.plain(copy, [config.vocab_size, hidden], Part::Mtp);
            self.last().optional = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The list is exactly what the fixtures hold, scales of FP8 tensors aside.
    #[test]
    fn the_fixtures_have_these_tensors_and_no_others() {
        for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8", "tiny-v3-mtp"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
            let config = Config::read(&dir).expect("the fixture's config is valid");
            let checkpoint = Checkpoint::open(&dir).expect("the fixture is a checkpoint");
            let scales: BTreeSet<String> = checkpoint.names().map(names::scale_name).collect();
            let held: BTreeSet<&str> = checkpoint.names().filter(|name| !scales.contains(*name)).collect();
            let specs = tensors(&config);
            assert_eq!(held, specs.iter().map(|spec| spec.name.as_str()).collect(), "{name}");
            for spec in &specs {
                assert_eq!(checkpoint.tensor(&spec.name).expect("listed").shape, spec.shape, "{}", spec.name);
            }
        }
    }
}
