//! The weights piece by piece: every struct's reading beside its writing, in the same order.
//!
//! What is read has the shapes of the configuration; formats may be any where the forward pass takes any.

use fathom_kernels::gemm::{PANEL, PackedMatrix, Precision, WeightFormat};
use fathom_packed::{Packed, Reason};

use super::pieces::{Parts, Pieces};
use crate::Config;
use crate::config::ModelType;
use crate::weights::{AttentionWeights, DecoderLayer, Embedding, FeedForward, Mlp, Moe, MtpModule, Weights};

type Result<T> = std::result::Result<T, Reason>;

const EMBEDDING: &str = "embedding";
const HEAD: &str = "head";

fn layer_name(layer: usize) -> String {
    format!("layers.{layer}")
}

/// Every entry: the embedding, the main layers, norm and head, the MTP layers.
pub(super) fn parts<'a>(config: &Config, weights: &'a Weights) -> Vec<Parts<'a>> {
    let mut embedding = Parts::new(EMBEDDING.to_owned());
    embedding.embedding(&weights.embedding, [config.vocab_size, config.hidden_size]);
    let mut head = Parts::new(HEAD.to_owned());
    head.vector(&weights.norm);
    head.matrix(&weights.lm_head);
    let layers = weights.layers.iter().enumerate().map(|(index, layer)| {
        let mut parts = Parts::new(layer_name(index));
        write_layer(layer, &mut parts);
        parts
    });
    let mtp = weights.mtp.iter().enumerate().map(|(index, module)| {
        let mut parts = Parts::new(layer_name(config.num_hidden_layers + index));
        write_mtp_module(module, &mut parts);
        parts
    });
    std::iter::once(embedding).chain(layers).chain([head]).chain(mtp).collect()
}

/// What [`parts`] were of. `tied`: the embedding is the head's.
pub(super) fn read(config: &Config, packed: &Packed, tied: bool, mtp: bool) -> Result<Weights> {
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let mut pieces = Pieces::of(packed, EMBEDDING)?;
    let embedding = if tied { Embedding::Tied } else { pieces.embedding([vocab, hidden])? };
    pieces.end()?;
    let layers = (0..config.num_hidden_layers).map(|layer| {
        let mut pieces = Pieces::of(packed, &layer_name(layer))?;
        let weights = read_layer(config, layer, &mut pieces)?;
        pieces.end().map(|()| weights)
    });
    let layers = layers.collect::<Result<_>>()?;
    let mut pieces = Pieces::of(packed, HEAD)?;
    let (norm, lm_head) = (pieces.vector(hidden)?, pieces.matrix([vocab, hidden], false)?);
    pieces.end()?;
    let mtp_layers = if mtp { config.num_hidden_layers..config.layers_with_mtp() } else { 0..0 };
    let mtp = mtp_layers.map(|layer| {
        let mut pieces = Pieces::of(packed, &layer_name(layer))?;
        let module = read_mtp_module(config, layer, &mut pieces)?;
        pieces.end().map(|()| module)
    });
    Ok(Weights { embedding, layers, norm, lm_head, mtp: mtp.collect::<Result<_>>()? })
}

fn write_layer<'a>(layer: &'a DecoderLayer, parts: &mut Parts<'a>) {
    parts.vector(&layer.input_layernorm);
    write_attention(&layer.attention, parts);
    parts.vector(&layer.post_attention_layernorm);
    match &layer.ffn {
        FeedForward::Dense(mlp) => write_mlp(mlp, parts),
        FeedForward::Moe(moe) => write_moe(moe, parts),
    }
}

fn read_layer(config: &Config, layer: usize, pieces: &mut Pieces<'_>) -> Result<DecoderLayer> {
    Ok(DecoderLayer {
        input_layernorm: pieces.vector(config.hidden_size)?,
        attention: read_attention(config, pieces)?,
        post_attention_layernorm: pieces.vector(config.hidden_size)?,
        ffn: if config.is_moe(layer) {
            FeedForward::Moe(read_moe(config, pieces)?)
        } else {
            let (width, bias) = (config.intermediate_size, config.mlp_bias);
            FeedForward::Dense(read_mlp(config.hidden_size, width..=width, [bias; 2], pieces)?)
        },
    })
}

fn write_attention<'a>(w: &'a AttentionWeights, parts: &mut Parts<'a>) {
    parts.matrix(&w.qkv_a);
    if let Some((norm, q_b)) = &w.q_b {
        parts.vector(norm);
        parts.matrix(q_b);
    }
    parts.vector(&w.kv_a_layernorm);
    for heads in [&w.w_uk, &w.w_uk_transposed, &w.w_uv] {
        heads.iter().for_each(|head| parts.matrix(head));
    }
    parts.matrix(&w.o_proj);
}

fn read_attention(config: &Config, pieces: &mut Pieces<'_>) -> Result<AttentionWeights> {
    let (hidden, latent) = (config.hidden_size, config.kv_lora_rank);
    let (heads, query) = (config.num_attention_heads, config.qk_head_dim());
    let (nope, value) = (config.qk_nope_head_dim, config.v_head_dim);
    let first_rows = config.q_lora_rank.unwrap_or(heads * query);
    Ok(AttentionWeights {
        qkv_a: pieces.matrix([first_rows + config.latent_width(), hidden], config.attention_bias)?,
        q_b: match config.q_lora_rank {
            None => None,
            Some(rank) => Some((pieces.vector(rank)?, pieces.matrix([heads * query, rank], false)?)),
        },
        kv_a_layernorm: pieces.vector(latent)?,
        w_uk: read_heads(config, [nope, latent], pieces)?,
        w_uk_transposed: read_heads(config, [latent, nope], pieces)?,
        w_uv: read_heads(config, [value, latent], pieces)?,
        o_proj: pieces.matrix([hidden, heads * value], config.attention_bias)?,
    })
}

/// A matrix per head. All are of one format, and int8 activations are cut every 32 columns: heads must be too.
fn read_heads(config: &Config, shape: [usize; 2], pieces: &mut Pieces<'_>) -> Result<Vec<PackedMatrix>> {
    let heads: Vec<_> =
        (0..config.num_attention_heads).map(|_| pieces.matrix(shape, false)).collect::<Result<_>>()?;
    let aligned = [config.qk_head_dim(), config.kv_lora_rank].iter().all(|cols| cols.is_multiple_of(32));
    let mut formats = heads.iter().map(PackedMatrix::format);
    let fit = formats.next().is_none_or(|first| {
        (aligned || first.precision() != Precision::Int8) && formats.all(|format| format == first)
    });
    if fit { Ok(heads) } else { Err(pieces.wrong("heads in formats that do not fit them")) }
}

fn write_moe<'a>(moe: &'a Moe, parts: &mut Parts<'a>) {
    parts.matrix(&moe.gate);
    parts.vector(&moe.bias);
    moe.experts.iter().for_each(|expert| write_mlp(expert, parts));
}

fn read_moe(config: &Config, pieces: &mut Pieces<'_>) -> Result<Moe> {
    let (experts, hidden, width) =
        (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size);
    let gate = pieces.matrix([experts, hidden], false)?;
    if gate.format() != WeightFormat::F32 {
        return Err(pieces.wrong(format!("a gate in {}, where it should be f32", gate.format())));
    }
    let bias = pieces.vector(match config.model_type {
        ModelType::DeepseekV2 | ModelType::Deepseek => 0,
        ModelType::DeepseekV3 => experts,
    })?;
    let mut all: Vec<Mlp> =
        (0..experts).map(|_| read_mlp(hidden, width..=width, [false; 2], pieces)).collect::<Result<_>>()?;
    // Shared experts were cut where blocks allowed it; together they are as wide as they were.
    let mut left = config.n_shared_experts * width;
    while left > 0 {
        let first = all.len() == experts;
        let bias = [config.mlp_bias, config.mlp_bias && first];
        let shared = read_mlp(hidden, 1..=width.min(left), bias, pieces)?;
        left -= shared.width;
        all.push(shared);
    }
    let shared = all.len() - experts;
    Ok(Moe { router: config.router(), gate, bias, experts: all, shared, width })
}

/// `down` first: it says how wide the expert is.
fn write_mlp<'a>(mlp: &'a Mlp, parts: &mut Parts<'a>) {
    parts.matrix(&mlp.down);
    parts.matrix(&mlp.gate_up);
}

/// `[of gate_up, of down]` say which have a bias.
fn read_mlp(
    hidden: usize,
    widths: std::ops::RangeInclusive<usize>,
    [gate_up_bias, down_bias]: [bool; 2],
    pieces: &mut Pieces<'_>,
) -> Result<Mlp> {
    let down = pieces.matrix_of_cols(hidden, widths, down_bias)?;
    let width = down.cols();
    let gate_up = pieces.matrix([2 * width.next_multiple_of(PANEL), hidden], gate_up_bias)?;
    Ok(Mlp { gate_up, down, width })
}

fn write_mtp_module<'a>(module: &'a MtpModule, parts: &mut Parts<'a>) {
    parts.vector(&module.enorm);
    parts.vector(&module.hnorm);
    parts.matrix(&module.eh_proj);
    write_layer(&module.layer, parts);
    parts.vector(&module.norm);
}

fn read_mtp_module(config: &Config, layer: usize, pieces: &mut Pieces<'_>) -> Result<MtpModule> {
    let hidden = config.hidden_size;
    Ok(MtpModule {
        enorm: pieces.vector(hidden)?,
        hnorm: pieces.vector(hidden)?,
        eh_proj: pieces.matrix([hidden, 2 * hidden], false)?,
        layer: read_layer(config, layer, pieces)?,
        norm: pieces.vector(hidden)?,
    })
}
