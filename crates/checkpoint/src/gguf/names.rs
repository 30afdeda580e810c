//! llama.cpp's tensor names of the `deepseek2` architecture, and the Hugging Face names of the same weights.
//!
//! One table serves reading and writing. Three kinds of tensor have no counterpart of the same shape:
//! stacks of experts (one tensor `[experts, rows, columns]` for all), the fused stack of gate and up, and
//! the two halves of `kv_b_proj` as MLA-split files have them ([`crate::names::Layer::k_b_proj`]).

use crate::Dtype;
use crate::names::{self, Attention, Ffn, Layer};
use std::ops::Range;

/// Tensor name and key prefix of what this table is for.
pub const ARCHITECTURE: &str = "deepseek2";

/// What a tensor of a layer is here.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// The same tensor under another name.
    Same(fn(Layer) -> String),
    Attention(Attention),
    /// `[heads, rows, columns]`, or the same with the first two in one.
    Heads(fn(Layer) -> String),
    Mlp(Ffn),
    Shared(Ffn),
    /// One tensor for all experts.
    Experts(Ffn),
    /// The same, gate rows then up rows per expert.
    GateUpExperts,
}

/// What follows `blk.N.`, in the order in which llama.cpp's converter writes a layer.
const LAYER: [(&str, Part); 30] = [
    ("attn_norm.weight", Part::Same(Layer::input_layernorm)),
    ("attn_q.weight", Part::Attention(Attention::QProj)),
    ("attn_q_a.weight", Part::Attention(Attention::QAProj)),
    ("attn_q_a_norm.weight", Part::Attention(Attention::QALayernorm)),
    ("attn_q_b.weight", Part::Attention(Attention::QBProj)),
    ("attn_kv_a_mqa.weight", Part::Attention(Attention::KvAProjWithMqa)),
    ("attn_kv_a_norm.weight", Part::Attention(Attention::KvALayernorm)),
    ("attn_kv_b.weight", Part::Attention(Attention::KvBProj)),
    ("attn_k_b.weight", Part::Heads(Layer::k_b_proj)),
    ("attn_v_b.weight", Part::Heads(Layer::v_b_proj)),
    ("attn_output.weight", Part::Attention(Attention::OProj)),
    ("ffn_norm.weight", Part::Same(Layer::post_attention_layernorm)),
    ("ffn_gate.weight", Part::Mlp(Ffn::GateProj)),
    ("ffn_up.weight", Part::Mlp(Ffn::UpProj)),
    ("ffn_down.weight", Part::Mlp(Ffn::DownProj)),
    ("ffn_gate_inp.weight", Part::Same(Layer::router)),
    ("exp_probs_b.bias", Part::Same(Layer::e_score_correction_bias)),
    ("ffn_gate_exps.weight", Part::Experts(Ffn::GateProj)),
    ("ffn_up_exps.weight", Part::Experts(Ffn::UpProj)),
    ("ffn_down_exps.weight", Part::Experts(Ffn::DownProj)),
    ("ffn_gate_up_exps.weight", Part::GateUpExperts),
    ("ffn_gate_shexp.weight", Part::Shared(Ffn::GateProj)),
    ("ffn_up_shexp.weight", Part::Shared(Ffn::UpProj)),
    ("ffn_down_shexp.weight", Part::Shared(Ffn::DownProj)),
    ("nextn.embed_tokens.weight", Part::Same(Layer::embed_tokens)),
    ("nextn.enorm.weight", Part::Same(Layer::enorm)),
    ("nextn.hnorm.weight", Part::Same(Layer::hnorm)),
    ("nextn.eh_proj.weight", Part::Same(Layer::eh_proj)),
    ("nextn.shared_head_norm.weight", Part::Same(Layer::shared_head_norm)),
    ("nextn.shared_head_head.weight", Part::Same(Layer::shared_head_head)),
];

/// Tensors outside the layers.
const WHOLE: [(&str, &str); 3] = [
    ("token_embd.weight", names::EMBED_TOKENS),
    ("output_norm.weight", names::NORM),
    ("output.weight", names::LM_HEAD),
];

/// Experts of one layer; a stack of more is no stack. Keeps the list of weights in proportion to the file.
const EXPERTS_MAX: usize = 4096;

/// What llama.cpp itself leaves unread: rotary frequencies, which follow from the metadata.
const IGNORED: [&str; 2] = ["rope_freqs.weight", "attn_rot_embd.weight"];

/// One weight that a GGUF tensor holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Within the tensor.
    pub(super) bytes: Range<usize>,
}

/// The weights in the tensor `name`, under their Hugging Face names. A tensor that the table does not know
/// keeps its name, so that whoever checks a model's tensors says which is too many.
pub(super) fn pieces(name: &str, dtype: Dtype, shape: &[usize], length: usize) -> Vec<Piece> {
    let whole = |name: String, shape: &[usize]| vec![Piece { name, shape: shape.to_vec(), bytes: 0..length }];
    if let Some(row) = WHOLE.iter().find(|row| row.0 == name) {
        return whole(row.1.to_owned(), shape);
    }
    let Some((layer, rest)) = in_layer(name) else {
        return if IGNORED.contains(&name) { Vec::new() } else { whole(name.to_owned(), shape) };
    };
    let Some(&(_, part)) = LAYER.iter().find(|row| row.0 == rest) else {
        return if IGNORED.contains(&rest) { Vec::new() } else { whole(name.to_owned(), shape) };
    };
    match (part, shape) {
        (Part::Same(hf), _) => whole(hf(layer), shape),
        (Part::Attention(part), _) => whole(layer.attention(part), shape),
        (Part::Mlp(part), _) => whole(layer.mlp(part), shape),
        (Part::Shared(part), _) => whole(layer.shared_experts(part), shape),
        // The product is no larger than that of the whole tensor, which was checked.
        (Part::Heads(hf), &[heads, rows, cols]) => whole(hf(layer), &[heads * rows, cols]),
        (Part::Heads(hf), _) => whole(hf(layer), shape),
        (Part::Experts(part), &[experts @ 1..=EXPERTS_MAX, rows, cols]) => {
            let stack = Stack { dtype, each: [rows, cols], length: length / experts };
            (0..experts).map(|e| stack.rows(layer.expert(e, part), e, 0..rows)).collect()
        }
        (Part::GateUpExperts, &[experts @ 1..=EXPERTS_MAX, rows, cols]) if rows % 2 == 0 => {
            let stack = Stack { dtype, each: [rows, cols], length: length / experts };
            (0..experts)
                .flat_map(|e| {
                    [
                        stack.rows(layer.expert(e, Ffn::GateProj), e, 0..rows / 2),
                        stack.rows(layer.expert(e, Ffn::UpProj), e, rows / 2..rows),
                    ]
                })
                .collect()
        }
        (Part::Experts(_) | Part::GateUpExperts, _) => whole(name.to_owned(), shape),
    }
}

/// Matrices of one shape, one after the other.
struct Stack {
    dtype: Dtype,
    each: [usize; 2],
    /// Bytes of each.
    length: usize,
}

impl Stack {
    /// Some rows of matrix `index`.
    fn rows(&self, name: String, index: usize, rows: Range<usize>) -> Piece {
        let cols = self.each[1];
        let row = self.dtype.byte_len(&[1, cols]).expect("a part of a tensor whose size was checked");
        let start = index * self.length;
        let bytes = start + rows.start * row..start + rows.end * row;
        Piece { name, shape: vec![rows.len(), cols], bytes }
    }
}

/// Layer and rest of `blk.N.rest`.
fn in_layer(name: &str) -> Option<(Layer, &str)> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let plain = number.len() <= 6 && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((Layer(number.parse().ok().filter(|_| plain)?), rest))
}

/// The GGUF tensor that holds the weight `hf`, and for the expert of a stack its place in it; `None` if the
/// architecture has no such tensor.
pub fn gguf_name(hf: &str) -> Option<(String, Option<usize>)> {
    if let Some(row) = WHOLE.iter().find(|row| row.1 == hf) {
        return Some((row.0.to_owned(), None));
    }
    let (number, rest) = hf.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = Layer(number.parse().ok()?);
    let expert = rest.strip_prefix("mlp.experts.").and_then(|rest| rest.split_once('.'));
    let expert: Option<usize> = expert.and_then(|(expert, _)| expert.parse().ok());
    let found = LAYER.iter().find(|(_, part)| match *part {
        Part::Same(name) | Part::Heads(name) => name(layer) == hf,
        Part::Attention(part) => layer.attention(part) == hf,
        Part::Mlp(part) => layer.mlp(part) == hf,
        Part::Shared(part) => layer.shared_experts(part) == hf,
        Part::Experts(part) => expert.is_some_and(|expert| layer.expert(expert, part) == hf),
        Part::GateUpExperts => false,
    })?;
    let stacked = matches!(found.1, Part::Experts(_));
    Some((format!("blk.{number}.{}", found.0), expert.filter(|_| stacked)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_numeric::blocks::BlockFormat;

    fn check(name: &str, shape: &[usize], want: &[(&str, &[usize], Range<usize>)]) {
        let dtype = Dtype::F32;
        let length = dtype.byte_len(shape).unwrap();
        let got = pieces(name, dtype, shape, length);
        let want: Vec<Piece> = want
            .iter()
            .map(|(name, shape, bytes)| Piece {
                name: (*name).to_owned(),
                shape: shape.to_vec(),
                bytes: bytes.clone(),
            })
            .collect();
        assert_eq!(got, want, "{name}");
    }

    #[test]
    fn tensors_get_their_hugging_face_names() {
        check("token_embd.weight", &[9, 4], &[("model.embed_tokens.weight", &[9, 4], 0..144)]);
        check(
            "blk.3.attn_q_a.weight",
            &[9, 4],
            &[("model.layers.3.self_attn.q_a_proj.weight", &[9, 4], 0..144)],
        );
        check(
            "blk.3.attn_k_b.weight",
            &[2, 3, 4],
            &[("model.layers.3.self_attn.k_b_proj.weight", &[6, 4], 0..96)],
        );
        check(
            "blk.3.attn_v_b.weight",
            &[6, 4],
            &[("model.layers.3.self_attn.v_b_proj.weight", &[6, 4], 0..96)],
        );
        check(
            "blk.1.ffn_down_exps.weight",
            &[2, 3, 4],
            &[
                ("model.layers.1.mlp.experts.0.down_proj.weight", &[3, 4], 0..48),
                ("model.layers.1.mlp.experts.1.down_proj.weight", &[3, 4], 48..96),
            ],
        );
        check(
            "blk.1.ffn_gate_up_exps.weight",
            &[2, 2, 4],
            &[
                ("model.layers.1.mlp.experts.0.gate_proj.weight", &[1, 4], 0..16),
                ("model.layers.1.mlp.experts.0.up_proj.weight", &[1, 4], 16..32),
                ("model.layers.1.mlp.experts.1.gate_proj.weight", &[1, 4], 32..48),
                ("model.layers.1.mlp.experts.1.up_proj.weight", &[1, 4], 48..64),
            ],
        );
        check(
            "blk.2.exp_probs_b.bias",
            &[5],
            &[("model.layers.2.mlp.gate.e_score_correction_bias", &[5], 0..20)],
        );
        check("blk.2.nextn.eh_proj.weight", &[2, 4], &[("model.layers.2.eh_proj.weight", &[2, 4], 0..32)]);
        check("rope_freqs.weight", &[5], &[]);
        for odd in ["blk.x.attn_q.weight", "blk.1.attn_q.bias", "blk.99999999999.attn_q.weight", "v.blk"] {
            check(odd, &[5], &[(odd, &[5], 0..20)]);
        }
    }

    #[test]
    fn block_formats_are_cut_at_whole_rows() {
        let dtype = Dtype::Block(BlockFormat::Q4_0);
        let cut = pieces("blk.0.ffn_up_exps.weight", dtype, &[3, 5, 64], 3 * 5 * 36);
        assert_eq!(cut[2].bytes, 360..540);
        assert_eq!(cut[2].shape, [5, 64]);
    }

    #[test]
    fn both_directions_agree() {
        for (rest, part) in LAYER {
            let name = format!("blk.7.{rest}");
            let shape = [4, 6, 8];
            for (at, piece) in pieces(&name, Dtype::F32, &shape, 4 * 6 * 8 * 4).into_iter().enumerate() {
                if matches!(part, Part::GateUpExperts) {
                    continue;
                }
                let place = matches!(part, Part::Experts(_)).then_some(at);
                assert_eq!(gguf_name(&piece.name), Some((name.clone(), place)), "{}", piece.name);
            }
        }
        for none in
            ["model.layers.0.self_attn.o_proj.bias", "model.layers.0.mlp.experts.x.up_proj.weight", "x"]
        {
            assert_eq!(gguf_name(none), None, "{none}");
        }
    }
}
