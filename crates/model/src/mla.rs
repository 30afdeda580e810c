//! Multi-head latent attention (V2 §2.1 and App. C, eq. 37-47), both forms.
//!
//! ```text
//! c^Q = W^DQ h            q = W^UQ norm(c^Q)  (or q = W^Q h)   q_i = [q^C_i ; RoPE(q^R_i)]
//! [c^KV ; k^R] = W^DKV h  cached: norm(c^KV), RoPE(k^R)
//! MHA mode   k_i = [W^UK_i c^KV ; k^R]   v_i = W^UV_i c^KV
//! MQA mode   q^A_i = [W^UK_iᵀ q^C_i ; q^R_i]  over  [c^KV ; k^R],  then W^UV_i
//! u = W^O [o_1 … o_n]
//! ```
//!
//! Which form a span of new tokens takes is decided by [`cheaper_form`].

use std::ops::Range;

use fathom_kernels::Compute;
use fathom_kernels::attention::{CacheFormat, LatentNorm, LatentRows, absorbed, expanded};
use fathom_kernels::gemm::{
    Activations, Epilogue, Gathered, Group, Output, PackedMatrix, Precisions, Rows, gemm,
};
use fathom_kernels::rmsnorm::rmsnorm;
use fathom_kernels::rope::Heads;

use crate::Config;
use crate::batch::{Batch, Span};
use crate::config::LATENT_NORM_EPS;
use crate::observe::AttentionInputs;
use crate::weights::AttentionWeights;
use crate::workspace::room;

/// The two forms of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionForm {
    /// MHA mode: expand keys and values of the whole context.
    Expanded,
    /// MQA mode: attend to the latents themselves.
    Absorbed,
}

/// Keys expanded at a time are as many as fit these numbers, so that a long context's keys and
/// values never stand in memory at once.
const EXPANDED_NUMBERS: usize = 8 << 20;

/// The form with fewer operations for `tokens` new tokens at the end of a context of `context`
/// tokens, themselves included.
///
/// MHA mode expands every key and value of the context (`2 · context · (nope + v) · latent` per
/// head), then pays `nope + rope + v` per query and key; MQA mode pays `(nope + v) · latent` per
/// query for moving through the latent space, then `2 · latent + rope` per query and key.
pub fn cheaper_form(config: &Config, tokens: usize, context: usize) -> AttentionForm {
    let (nope, rope, v) = (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim);
    let latent = config.kv_lora_rank;
    // Per head; every query sees the context before the new tokens and half of them on average.
    let pairs = tokens as f64 * (context as f64 - tokens as f64 / 2.0);
    let through_latent = ((nope + v) * latent) as f64;
    let expanded = context as f64 * through_latent + pairs * (nope + rope + v) as f64;
    let absorbed = tokens as f64 * through_latent + pairs * (2 * latent + rope) as f64;
    if expanded < absorbed { AttentionForm::Expanded } else { AttentionForm::Absorbed }
}

/// What a layer's attention works with, besides its weights.
pub(crate) struct Attention<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) config: &'a Config,
    pub(crate) batch: &'a Batch<'a>,
    /// `None`: by cost.
    pub(crate) form: Option<AttentionForm>,
}

/// Buffers kept from layer to layer and step to step.
#[derive(Debug, Default)]
pub(crate) struct AttentionSpace {
    activations: Activations,
    qkv_a: Vec<f32>,
    q_latent: Vec<f32>,
    q: Vec<f32>,
    /// The normed latents, if somebody asked for them.
    latent: Vec<f32>,
    values: Vec<f32>,
    expanded: ExpandedSpace,
    absorbed: AbsorbedSpace,
}

impl AttentionSpace {
    /// What the last pass over `x [rows, hidden]` multiplied `w` with.
    pub(crate) fn inputs<'a>(
        &'a mut self,
        compute: &Compute,
        config: &Config,
        w: &AttentionWeights,
        x: &'a [f32],
    ) -> AttentionInputs<'a> {
        let (rows, heads) = (x.len() / config.hidden_size, config.num_attention_heads);
        let (stride, cols) = (w.qkv_a.rows(), heads * config.qk_head_dim());
        // The cache took them in its own format.
        let first = stride - config.latent_width();
        let end = (rows - 1) * stride + first + config.kv_lora_rank;
        let latents = Rows { values: &self.qkv_a[first..end], cols: config.kv_lora_rank, stride };
        let latent = room(&mut self.latent, rows * config.kv_lora_rank);
        rmsnorm(compute, latents, &w.kv_a_layernorm, LATENT_NORM_EPS, latent);
        let q_latent = w.q_b.as_ref().map(|(norm, _)| &self.q_latent[..rows * norm.len()]);
        let queries = match &w.q_b {
            Some(_) => Rows::dense(&self.q[..rows * cols], cols),
            None => Rows { values: &self.qkv_a[..(rows - 1) * stride + cols], cols, stride },
        };
        AttentionInputs {
            hidden: x,
            q_latent,
            queries,
            latent,
            values: &self.values[..rows * heads * config.v_head_dim],
        }
    }
}

#[derive(Debug, Default)]
struct ExpandedSpace {
    latents: Vec<f32>,
    k_rope: Vec<f32>,
    keys_values: expanded::Expansion,
    state: expanded::State,
    groups: GroupList,
}

#[derive(Debug, Default)]
struct AbsorbedSpace {
    /// Rows of the batch that take this form.
    rows: Vec<usize>,
    /// The span of each.
    spans: Vec<usize>,
    q: Vec<f32>,
    mixed: Vec<f32>,
    values: Vec<f32>,
    attend: absorbed::Space,
    groups: GroupList,
}

/// An empty list that keeps its memory: what it held borrowed weights, and is gone.
#[derive(Debug, Default)]
struct GroupList(Vec<Group<'static>>);

impl GroupList {
    /// The list, to be filled.
    fn take<'a>(&mut self) -> Vec<Group<'a>> {
        std::mem::take(&mut self.0)
    }

    /// Takes it back.
    fn put_back(&mut self, mut groups: Vec<Group<'_>>) {
        groups.clear();
        // Collecting an emptied list into one of the same element size reuses its memory.
        self.0 = groups.into_iter().map(|_| unreachable!("the list was cleared")).collect();
    }
}

/// Queries `[rows, heads · (nope + rope)]`, `stride` apart.
#[derive(Clone, Copy)]
struct Queries<'a> {
    values: &'a [f32],
    stride: usize,
}

impl Attention<'_> {
    /// `x [rows, hidden]` (normed) to `out [rows, hidden]`; new latents go to `cache`.
    pub(crate) fn forward(
        &self,
        w: &AttentionWeights,
        cache: &mut LatentRows,
        x: &[f32],
        space: &mut AttentionSpace,
        out: &mut [f32],
    ) {
        let (compute, config, rows) = (self.compute, self.config, self.batch.rows());
        let (heads, hidden) = (config.num_attention_heads, config.hidden_size);
        let stride = w.qkv_a.rows();
        let q_cols = stride - config.latent_width();
        space.activations.prepare(compute, w.qkv_a.format(), Rows::dense(x, hidden));
        let qkv_a = room(&mut space.qkv_a, rows * stride);
        let product = [Group::whole(&w.qkv_a, &space.activations)];
        gemm(compute, &space.activations, &product, Epilogue::Store, Output { values: qkv_a, stride });
        self.cache_latents(w, cache, qkv_a, q_cols);

        let query = config.qk_head_dim();
        let rotary = Heads { count: heads, first: config.qk_nope_head_dim, stride: query };
        let q = match &w.q_b {
            None => {
                self.batch.turns.rotate(compute, Output { values: qkv_a, stride }, rotary);
                Queries { values: qkv_a, stride }
            }
            Some((norm, q_b)) => {
                let q_latent = room(&mut space.q_latent, rows * q_cols);
                rmsnorm(
                    compute,
                    Rows { values: qkv_a, cols: q_cols, stride },
                    norm,
                    LATENT_NORM_EPS,
                    q_latent,
                );
                space.activations.prepare(compute, q_b.format(), Rows::dense(q_latent, q_cols));
                let stride = heads * query;
                let q = room(&mut space.q, rows * stride);
                let product = [Group::whole(q_b, &space.activations)];
                gemm(compute, &space.activations, &product, Epilogue::Store, Output { values: q, stride });
                self.batch.turns.rotate(compute, Output { values: q, stride }, rotary);
                Queries { values: q, stride }
            }
        };

        let width = heads * config.v_head_dim;
        let values = room(&mut space.values, rows * width);
        space.absorbed.rows.clear();
        space.absorbed.spans.clear();
        for (index, span) in self.batch.spans.iter().enumerate() {
            let context = span.first + span.rows.len();
            match self.form.unwrap_or_else(|| cheaper_form(config, span.rows.len(), context)) {
                AttentionForm::Absorbed => {
                    space.absorbed.rows.extend(span.rows.clone());
                    space.absorbed.spans.extend(span.rows.clone().map(|_| index));
                }
                AttentionForm::Expanded => {
                    let out = &mut values[span.rows.start * width..span.rows.end * width];
                    self.expanded(w, cache, span, q, &mut space.activations, &mut space.expanded, out);
                }
            }
        }
        if !space.absorbed.rows.is_empty() {
            self.absorbed(w, cache, q, &mut space.activations, &mut space.absorbed, values);
        }
        space.activations.prepare(compute, w.o_proj.format(), Rows::dense(values, width));
        let product = [Group::whole(&w.o_proj, &space.activations)];
        gemm(compute, &space.activations, &product, Epilogue::Store, Output { values: out, stride: hidden });
    }

    /// Stores norm(c^KV) and RoPE(k^R) of every row.
    fn cache_latents(&self, w: &AttentionWeights, cache: &mut LatentRows, qkv_a: &mut [f32], first: usize) {
        let (compute, width, stride) = (self.compute, self.config.latent_width(), w.qkv_a.rows());
        let key = Heads { count: 1, first: first + self.config.kv_lora_rank, stride: 0 };
        self.batch.turns.rotate(compute, Output { values: qkv_a, stride }, key);
        let norm = LatentNorm { weight: &w.kv_a_layernorm, eps: LATENT_NORM_EPS };
        for span in &self.batch.spans {
            let end = (span.rows.end - 1) * stride + first + width;
            let rows = Rows { values: &qkv_a[span.rows.start * stride + first..end], cols: width, stride };
            cache.store(compute, span.block_table, span.first, rows, norm);
        }
    }

    /// MHA mode for one span.
    #[allow(clippy::too_many_arguments, reason = "weights, cache, span, queries, two buffers and the result")]
    fn expanded(
        &self,
        w: &AttentionWeights,
        cache: &LatentRows,
        span: &Span<'_>,
        q: Queries<'_>,
        activations: &mut Activations,
        space: &mut ExpandedSpace,
        out: &mut [f32],
    ) {
        let (compute, config) = (self.compute, self.config);
        let (heads, nope, value) = (config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim);
        let (latent, rope) = (config.kv_lora_rank, config.qk_rope_head_dim);
        let exact = cache.format() == CacheFormat::F32;
        let shape = expanded::Shape { heads, nope, rope, value, scale: config.softmax_scale(), exact };
        let query_cols = heads * config.qk_head_dim();
        let queries = {
            let end = (span.rows.end - 1) * q.stride + query_cols;
            Rows { values: &q.values[span.rows.start * q.stride..end], cols: query_cols, stride: q.stride }
        };
        space.state.reset(shape, span.rows.len());
        let stride = heads * (nope + value);
        let cached = cache.sequence(span.block_table);
        for keys in chunks(span.first + span.rows.len(), (EXPANDED_NUMBERS / stride).max(64)) {
            let count = keys.len();
            let latents = room(&mut space.latents, count * latent);
            cached.read(compute, keys.clone(), 0..latent, latents);
            let k_rope = room(&mut space.k_rope, count * rope);
            cached.read(compute, keys.clone(), latent..latent + rope, k_rope);
            let formats: Precisions =
                [&w.w_uk[0], &w.w_uv[0]].map(|matrix| matrix.format()).into_iter().collect();
            activations.prepare(compute, formats, Rows::dense(latents, latent));
            let mut groups = space.groups.take();
            groups.extend((0..heads).flat_map(|head| {
                let part = |weights, y_col| Group { weights, rows: 0..count, x_col: 0, y_col };
                let first = head * (nope + value);
                [part(&w.w_uk[head], first), part(&w.w_uv[head], first + nope)]
            }));
            let keys_values = space.keys_values.room(count * stride);
            gemm(compute, activations, &groups, Epilogue::Store, Output { values: keys_values, stride });
            space.groups.put_back(groups);
            let keys = expanded::Keys { first: keys.start, expanded: keys_values, rope: k_rope };
            space.state.attend(compute, shape, queries, span.first, keys);
        }
        space.state.finish(compute, shape, out);
    }

    /// MQA mode for the rows `space.rows` of the batch.
    fn absorbed(
        &self,
        w: &AttentionWeights,
        cache: &LatentRows,
        q: Queries<'_>,
        activations: &mut Activations,
        space: &mut AbsorbedSpace,
        values: &mut [f32],
    ) {
        let (compute, config) = (self.compute, self.config);
        let (heads, nope, query) =
            (config.num_attention_heads, config.qk_nope_head_dim, config.qk_head_dim());
        let (latent, rope, value) = (config.kv_lora_rank, config.qk_rope_head_dim, config.v_head_dim);
        let rows = space.rows.len();

        // q^A_i = W^UK_iᵀ q^C_i; the rotary part is read where it is.
        let x = Rows { values: q.values, cols: heads * query, stride: q.stride };
        let absorbed_rows = Gathered { rows, largest: rows, source_rows: |row: usize| space.rows[row] };
        activations.gather(compute, w.w_uk_transposed[0].format(), x, absorbed_rows);
        let absorbed = room(&mut space.q, rows * heads * latent);
        let y = Output { values: absorbed, stride: heads * latent };
        per_head(compute, activations, &w.w_uk_transposed, [query, latent], y, &mut space.groups);

        let queries = absorbed::Queries {
            count: rows,
            latent: absorbed,
            query: |index: usize| {
                let (row, span) = (space.rows[index], &self.batch.spans[space.spans[index]]);
                absorbed::Query {
                    cache: cache.sequence(span.block_table),
                    visible: span.first + row - span.rows.start + 1,
                    rotary: &q.values[row * q.stride + nope..],
                }
            },
        };
        let scale = config.softmax_scale();
        let shape = absorbed::Shape { heads, latent, rope, rotary_stride: query, scale };
        let mixed = room(&mut space.mixed, rows * heads * latent);
        absorbed::attend(compute, shape, &queries, &mut space.attend, mixed);

        activations.prepare(compute, w.w_uv[0].format(), Rows::dense(mixed, heads * latent));
        let out = room(&mut space.values, rows * heads * value);
        let y = Output { values: out, stride: heads * value };
        per_head(compute, activations, &w.w_uv, [latent, value], y, &mut space.groups);
        for (&row, out) in space.rows.iter().zip(out.chunks_exact(heads * value)) {
            values[row * heads * value..][..heads * value].copy_from_slice(out);
        }
    }
}

/// One product per head: columns `head · x_slice ..` of x to columns `head · y_slice ..` of y.
fn per_head(
    compute: &Compute,
    x: &Activations,
    weights: &[PackedMatrix],
    [x_slice, y_slice]: [usize; 2],
    y: Output<'_>,
    list: &mut GroupList,
) {
    let mut groups = list.take();
    let group =
        |(head, weights)| Group { weights, rows: 0..x.rows(), x_col: head * x_slice, y_col: head * y_slice };
    groups.extend(weights.iter().enumerate().map(group));
    gemm(compute, x, &groups, Epilogue::Store, y);
    list.put_back(groups);
}

/// `0..len` in pieces of at most `size`.
fn chunks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |first| first..len.min(first + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_absorbs_and_prefill_expands() {
        for preset in crate::presets::names() {
            let config = crate::presets::find(preset).expect("shipped");
            for context in [2, 100, 8_192, 131_072] {
                assert_eq!(cheaper_form(&config, 1, context), AttentionForm::Absorbed, "{preset} {context}");
            }
            for tokens in [512, 4_096] {
                assert_eq!(
                    cheaper_form(&config, tokens, tokens),
                    AttentionForm::Expanded,
                    "{preset} {tokens}"
                );
            }
            // A few new tokens behind a long context: expanding all of it does not pay.
            assert_eq!(cheaper_form(&config, 16, 100_000), AttentionForm::Absorbed, "{preset}");
            assert_eq!(cheaper_form(&config, 4_096, 100_000), AttentionForm::Expanded, "{preset}");
        }
    }
}
