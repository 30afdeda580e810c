//! Which columns of a matrix matter: the mean square of the activation that multiplies each.
//!
//! A weight's rounding error reaches the output multiplied with its activation, so blocks that are encoded with
//! these as weights lose least where it counts (llama.cpp's imatrix is the same quantity). A [`Recorder`]
//! watches forward passes over a text and becomes an [`Importance`], which a safetensors file can hold.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use fathom_checkpoint::names::{self, Attention, Ffn, Layer};
use fathom_checkpoint::{Checkpoint, Dtype, OutTensor, write_safetensors};
use fathom_kernels::gemm::Rows;

use crate::observe::{AttentionInputs, FeedForwardInputs, Observed};
use crate::{Config, Error, Result};

/// An expert that fewer tokens met is given the mean over its layer's experts.
const ENOUGH_ROWS: u64 = 64;

/// Mean squares of columns by weight name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance(BTreeMap<String, Vec<f32>>);

impl Importance {
    /// Of the `cols` columns of `weight`; `None` if it was never multiplied (embedding, MTP layers).
    pub fn of(&self, weight: &str, cols: usize) -> Option<&[f32]> {
        let found = self.0.get(representative(weight).as_ref())?;
        (found.len() == cols).then_some(&found[..])
    }

    /// Of some weights, for those who have measured it themselves.
    pub fn from_columns(columns: impl IntoIterator<Item = (String, Vec<f32>)>) -> Self {
        Self(columns.into_iter().collect())
    }

    /// Writes them as one F32 vector per weight.
    ///
    /// # Errors
    /// No space, or I/O; the file is complete or not there.
    pub fn save(&self, file: &Path) -> Result<()> {
        let bytes: Vec<Vec<u8>> = self
            .0
            .values()
            .map(|column| column.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let tensors = self.0.iter().zip(&bytes).map(|((name, values), bytes)| OutTensor {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: vec![values.len()],
            bytes,
        });
        Ok(write_safetensors(file, &tensors.collect::<Vec<_>>())?)
    }

    /// Reads what [`Importance::save`] wrote.
    ///
    /// # Errors
    /// If it is no safetensors file, or holds anything but vectors of numbers from 0 on.
    pub fn load(file: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(file)?;
        let mut columns = BTreeMap::new();
        for view in checkpoint.tensors() {
            let bad =
                |reason| Error::BadImportance { file: file.to_owned(), name: view.name.to_owned(), reason };
            let &[len] = view.shape else { return Err(bad("it is no vector")) };
            let values = checkpoint.vector(view.name, len)?;
            if values.iter().any(|&value| value < 0.0) {
                return Err(bad("a mean square is negative"));
            }
            columns.insert(view.name.to_owned(), values);
        }
        Ok(Self(columns))
    }
}

/// The weight under whose name an input is kept that several share.
fn representative(weight: &str) -> Cow<'_, str> {
    if weight.ends_with(".up_proj.weight") {
        return weight.replace(".up_proj.", ".gate_proj.").into();
    }
    match weight.strip_suffix(".v_b_proj.weight") {
        Some(base) => format!("{base}.kv_b_proj.weight").into(),
        None => weight.into(),
    }
}

/// Sums squares while a model runs.
#[derive(Debug)]
pub struct Recorder {
    config: Config,
    sums: BTreeMap<String, Sum>,
}

#[derive(Clone, Debug, Default)]
struct Sum {
    squares: Vec<f64>,
    rows: u64,
}

impl Sum {
    fn add<'a>(&mut self, cols: usize, rows: impl Iterator<Item = &'a [f32]>) {
        self.squares.resize(cols, 0.0);
        for row in rows {
            self.squares.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            self.rows += 1;
        }
    }

    fn merge(&mut self, other: &Sum) {
        self.squares.resize(other.squares.len(), 0.0);
        self.squares.iter_mut().zip(&other.squares).for_each(|(sum, other)| *sum += other);
        self.rows += other.rows;
    }

    /// `None` without rows, or if one of them was not finite.
    fn means(&self) -> Option<Vec<f32>> {
        let means: Vec<f32> = self
            .squares
            .iter()
            .map(|&sum| (sum / self.rows as f64).min(f64::from(f32::MAX)) as f32)
            .collect();
        (self.rows > 0 && self.squares.iter().all(|sum| sum.is_finite())).then_some(means)
    }
}

impl Recorder {
    /// For a model of this configuration.
    pub fn new(config: &Config) -> Self {
        Self { config: config.clone(), sums: BTreeMap::new() }
    }

    /// Takes what a pass shows of the main layers.
    pub fn observe(&mut self, observed: Observed<'_>) {
        match observed {
            Observed::AttentionInputs { layer, inputs } => self.attention(Layer(layer), inputs),
            Observed::FeedForwardInputs { layer, inputs } => self.feed_forward(Layer(layer), inputs),
            _ => {}
        }
    }

    /// Takes the head's input: [`Model::hidden`](crate::Model::hidden) after a pass.
    pub fn observe_head(&mut self, hidden: &[f32]) {
        let cols = self.config.hidden_size;
        // A tied head has the embedding's name.
        let heads = [names::LM_HEAD, names::EMBED_TOKENS];
        for name in &heads[..1 + usize::from(self.config.tie_word_embeddings)] {
            self.add((*name).to_owned(), cols, hidden.chunks_exact(cols));
        }
    }

    /// The means. Experts that met fewer than 64 rows get those of all experts of their layer.
    pub fn finish(mut self) -> Importance {
        let layers = (0..self.config.num_hidden_layers).filter(|&layer| self.config.is_moe(layer));
        for layer in layers.map(Layer) {
            for part in [Ffn::GateProj, Ffn::DownProj] {
                let experts: Vec<String> =
                    (0..self.config.n_routed_experts).map(|expert| layer.expert(expert, part)).collect();
                let mut all = Sum::default();
                experts.iter().filter_map(|name| self.sums.get(name)).for_each(|sum| all.merge(sum));
                for name in experts {
                    let sum = self.sums.entry(name).or_default();
                    if sum.rows < ENOUGH_ROWS {
                        sum.clone_from(&all);
                    }
                }
            }
        }
        let mean = |(name, sum): (String, Sum)| Some((name, sum.means()?));
        Importance(self.sums.into_iter().filter_map(mean).collect())
    }

    fn add<'a>(&mut self, name: String, cols: usize, rows: impl Iterator<Item = &'a [f32]>) {
        self.sums.entry(name).or_default().add(cols, rows);
    }

    fn attention(&mut self, layer: Layer, inputs: AttentionInputs<'_>) {
        let config = &self.config;
        let (hidden, latent, nope) = (config.hidden_size, config.kv_lora_rank, config.qk_nope_head_dim);
        let (query, width) = (config.qk_head_dim(), config.num_attention_heads * config.v_head_dim);
        let first = if inputs.q_latent.is_some() { Attention::QAProj } else { Attention::QProj };
        for name in [first, Attention::KvAProjWithMqa] {
            self.add(layer.attention(name), hidden, inputs.hidden.chunks_exact(hidden));
        }
        if let (Some(values), Some(rank)) = (inputs.q_latent, self.config.q_lora_rank) {
            self.add(layer.attention(Attention::QBProj), rank, values.chunks_exact(rank));
        }
        let heads = inputs.queries;
        let heads = each_row(heads).flat_map(|row| row.chunks_exact(query).map(|head| &head[..nope]));
        self.add(layer.k_b_proj(), nope, heads);
        self.add(layer.attention(Attention::KvBProj), latent, inputs.latent.chunks_exact(latent));
        self.add(layer.attention(Attention::OProj), width, inputs.values.chunks_exact(width));
    }

    fn feed_forward(&mut self, layer: Layer, inputs: FeedForwardInputs<'_>) {
        let hidden = self.config.hidden_size;
        let (routed, rest) = inputs.experts.split_at(inputs.routed);
        for (expert, given) in routed.iter().enumerate() {
            let rows =
                given.rows.unwrap_or_default().iter().map(|&row| &inputs.hidden[row * hidden..][..hidden]);
            self.add(layer.expert(expert, Ffn::GateProj), hidden, rows);
            let (down, inner) = (layer.expert(expert, Ffn::DownProj), given.inner);
            self.add(down, inner.cols, each_row(inner));
        }
        let name = |part| if inputs.routed == 0 { layer.mlp(part) } else { layer.shared_experts(part) };
        if rest.is_empty() {
            return;
        }
        self.add(name(Ffn::GateProj), hidden, inputs.hidden.chunks_exact(hidden));
        // The pieces of one SwiGLU: their columns stand side by side.
        let mut whole = Sum::default();
        for piece in rest {
            let mut sum = Sum::default();
            sum.add(piece.inner.cols, each_row(piece.inner));
            whole.squares.extend(sum.squares);
            whole.rows = sum.rows;
        }
        self.sums.entry(name(Ffn::DownProj)).or_default().merge(&whole);
    }
}

fn each_row(rows: Rows<'_>) -> impl Iterator<Item = &[f32]> {
    let Rows { values, cols, stride } = rows;
    values.chunks(stride.max(1)).filter(move |row| row.len() >= cols).map(move |row| &row[..cols])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_are_shared_are_found_by_each_name() {
        let importance = Importance::from_columns([
            ("model.layers.1.mlp.experts.3.gate_proj.weight".to_owned(), vec![1.0, 2.0]),
            ("model.layers.1.self_attn.kv_b_proj.weight".to_owned(), vec![3.0]),
        ]);
        let check = |name: &str, cols, want: Option<&[f32]>| {
            assert_eq!(importance.of(name, cols), want, "{name} {cols}");
        };
        check("model.layers.1.mlp.experts.3.up_proj.weight", 2, Some(&[1.0, 2.0]));
        check("model.layers.1.mlp.experts.3.up_proj.weight", 3, None);
        check("model.layers.1.mlp.experts.3.down_proj.weight", 2, None);
        check("model.layers.1.self_attn.v_b_proj.weight", 1, Some(&[3.0]));
        check("model.layers.1.self_attn.k_b_proj.weight", 1, None);
    }

    #[test]
    fn sums_become_means() {
        let mut sum = Sum::default();
        sum.add(2, [&[1.0, 2.0][..], &[3.0, 0.0]].into_iter());
        assert_eq!(sum.means(), Some(vec![5.0, 2.0]));
        assert_eq!(Sum::default().means(), None);
        sum.add(2, [&[f32::INFINITY, 0.0][..]].into_iter());
        assert_eq!(sum.means(), None);
    }
}
