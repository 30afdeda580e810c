//! MQA mode: all heads attend to the cached rows themselves (V2 App. C; "MQA mode" in V3.2 App. A).
//!
//! `q^A_i = [W^UK_iᵀ q^C_i ; q^R_i]`, one key `[c^KV ; k^R]` and one value `c^KV` per token:
//! `o^A_i = Σ_j softmax_j(q^A_i · [c^KV_j ; k^R_j] · scale) c^KV_j`. The caller then applies
//! `W^UV_i`. Long contexts of few queries are cut into chunks, attended to independently, and
//! merged in order, so that one sequence keeps all threads busy.

use super::{CachedRows, Matrix, Running, mix, scores};
use crate::math::exp;
use crate::shared::SharedSlice;
use crate::{Compute, Isa};

/// Heads that share one reading of the cache.
pub const GROUP: usize = 16;

/// Cached rows taken to f32 at a time.
const ROWS: usize = 64;

/// Tokens of one chunk when the context is cut.
const CHUNK: usize = 512;

/// Units from which on the context is not cut: enough for the threads of a large machine.
const UNITS_ENOUGH: usize = 64;

/// The query of one token: what it sees.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The cache of the token's sequence.
    pub cache: CachedRows<'a>,
    /// Cached tokens it may look at, itself included.
    pub visible: usize,
}

/// Shapes of the heads.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// `num_attention_heads`.
    pub heads: usize,
    /// `kv_lora_rank`.
    pub latent: usize,
    /// `qk_rope_head_dim`.
    pub rope: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

impl Shape {
    fn width(&self) -> usize {
        self.latent + self.rope
    }

    fn groups(&self) -> usize {
        self.heads.div_ceil(GROUP)
    }
}

/// Buffer for chunks' partial results, kept from call to call.
#[derive(Debug, Default)]
pub struct Partials(Vec<f32>);

/// Attends: `q [queries, heads, latent + rope]` to `out [queries, heads, latent]`.
///
/// # Panics
/// If a length does not fit, or a query sees nothing or more than its cache holds.
pub fn attend(
    compute: &Compute,
    shape: Shape,
    queries: &[Query<'_>],
    q: &[f32],
    partials: &mut Partials,
    out: &mut [f32],
) {
    let Shape { heads, latent, .. } = shape;
    assert_eq!(q.len(), queries.len() * heads * shape.width());
    assert_eq!(out.len(), queries.len() * heads * latent);
    for query in queries {
        assert!(query.cache.width() == shape.width(), "cache of another model");
        assert!(query.visible > 0 && query.visible <= query.cache.capacity(), "query sees no cache");
    }
    let longest = queries.iter().map(|query| query.visible).max().unwrap_or(0);
    let chunk = if queries.len() * shape.groups() < UNITS_ENOUGH { CHUNK } else { longest.max(1) };
    let chunks = longest.div_ceil(chunk);
    if chunks <= 1 {
        let out = SharedSlice::new(out);
        compute.pool.run(queries.len() * shape.groups(), |unit, scratch| {
            let part = Part::new(shape, unit, 0..longest);
            // SAFETY: units cut (query, heads) without overlap.
            let sums = unsafe { out.range_mut(part.first_head(shape) * latent, part.heads * latent) };
            let [rows, weights, running] = scratch.floats([ROWS * shape.width(), GROUP * ROWS, 2 * GROUP]);
            part.attend(compute.isa, shape, queries, q, [rows, weights, running], sums);
            for (sums, running) in sums.chunks_exact_mut(latent).zip(running.chunks_exact(2)) {
                sums.iter_mut().for_each(|sum| *sum /= running[1]);
            }
        });
        return;
    }
    // Per (query, chunk, head): the running maximum and sum, then the unnormalised output.
    let stride = latent + 2;
    let len = queries.len() * chunks * heads * stride;
    if partials.0.len() < len {
        partials.0.resize(len, 0.0);
    }
    let shared = SharedSlice::new(&mut partials.0[..len]);
    compute.pool.run(queries.len() * shape.groups() * chunks, |unit, scratch| {
        let (unit, index) = (unit / chunks, unit % chunks);
        let part = Part::new(shape, unit, index * chunk..(index + 1) * chunk);
        let buffers = [ROWS * shape.width(), GROUP * ROWS, 2 * GROUP, GROUP * latent];
        let [rows, weights, running, sums] = scratch.floats(buffers);
        let sums = &mut sums[..part.heads * latent];
        part.attend(compute.isa, shape, queries, q, [rows, weights, running], sums);
        for (head, (sums, running)) in sums.chunks_exact(latent).zip(running.chunks_exact(2)).enumerate() {
            let row = (part.query * chunks + index) * heads + part.head + head;
            // SAFETY: units cut (query, chunk, heads) without overlap.
            let partial = unsafe { shared.range_mut(row * stride, stride) };
            partial[..2].copy_from_slice(running);
            partial[2..].copy_from_slice(sums);
        }
    });
    let (out, partials) = (SharedSlice::new(out), &partials.0[..len]);
    compute.pool.run(queries.len() * heads, |unit, _| {
        let (query, head) = (unit / heads, unit % heads);
        // SAFETY: every head of every query is one unit.
        let out = unsafe { out.range_mut(unit * latent, latent) };
        let parts =
            (0..chunks).map(|c| &partials[((query * chunks + c) * heads + head) * stride..][..stride]);
        merge(parts, out);
    });
}

/// Joins the partial softmaxes of one head.
fn merge<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, out: &mut [f32]) {
    let max = parts.clone().fold(f32::NEG_INFINITY, |max, part| max.max(part[0]));
    let mut sum = 0.0;
    out.fill(0.0);
    for part in parts.filter(|part| part[0] > f32::NEG_INFINITY) {
        let weight = exp(part[0] - max);
        sum += weight * part[1];
        out.iter_mut().zip(&part[2..]).for_each(|(out, value)| *out += weight * value);
    }
    out.iter_mut().for_each(|out| *out /= sum);
}

/// One unit: some heads of one query over some of its tokens.
struct Part {
    query: usize,
    head: usize,
    heads: usize,
    tokens: std::ops::Range<usize>,
}

impl Part {
    fn new(shape: Shape, unit: usize, tokens: std::ops::Range<usize>) -> Self {
        let (query, head) = (unit / shape.groups(), unit % shape.groups() * GROUP);
        Self { query, head, heads: GROUP.min(shape.heads - head), tokens }
    }

    fn first_head(&self, shape: Shape) -> usize {
        self.query * shape.heads + self.head
    }

    /// `sums [heads, latent]`: unnormalised; `running`: pairs of maximum and sum per head.
    fn attend(
        &self,
        isa: Isa,
        shape: Shape,
        queries: &[Query<'_>],
        q: &[f32],
        [rows, weights, running]: [&mut [f32]; 3],
        sums: &mut [f32],
    ) {
        let (width, latent) = (shape.width(), shape.latent);
        let Query { cache, visible } = queries[self.query];
        let q = Matrix::new(&q[self.first_head(shape) * width..], self.heads, width);
        let mut state = [Running::EMPTY; GROUP];
        sums.fill(0.0);
        for first in (self.tokens.start..self.tokens.end.min(visible)).step_by(ROWS) {
            let tokens = first..self.tokens.end.min(visible).min(first + ROWS);
            cache.read_here(isa, tokens.clone(), 0..width, rows);
            let weights = &mut weights[..self.heads * tokens.len()];
            scores(isa, q, Matrix::new(rows, tokens.len(), width), width, weights, false);
            let heads = weights.chunks_exact_mut(tokens.len()).zip(sums.chunks_exact_mut(latent));
            for (state, (weights, sums)) in state.iter_mut().zip(heads) {
                state.absorb(isa, weights, shape.scale, sums);
            }
            let weights = Matrix::new(weights, self.heads, tokens.len());
            mix(isa, weights, Matrix::new(rows, tokens.len(), width), latent, sums);
        }
        for (running, state) in running.chunks_exact_mut(2).zip(state) {
            running.copy_from_slice(&[state.max, state.sum]);
        }
    }
}
