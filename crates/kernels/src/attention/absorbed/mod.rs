//! MQA mode: all heads attend to the cached rows themselves (V2 App. C; "MQA mode" in V3.2 App. A).
//!
//! `q^A_i = [W^UK_iᵀ q^C_i ; q^R_i]`, one key `[c^KV ; k^R]` and one value `c^KV` per token:
//! `o^A_i = Σ_j softmax_j(q^A_i · [c^KV_j ; k^R_j] · scale) c^KV_j`. The caller then applies
//! `W^UV_i`.
//!
//! Rows are heads of queries. Up to 128 rows of one sequence (all heads of a query; of several
//! queries, if they are next to each other in the call) share one reading of the cache: a block
//! is staged once and multiplied with all of them. Long contexts are cut into chunks that are
//! attended to independently and joined in order, so that one sequence keeps many threads busy.
//!
//! Where a context is cut depends on the position alone: a query's values are the same bit for bit
//! whichever other queries are in the call, and whatever the number of threads.

#[cfg(vector_kernels)]
mod bytes;
mod floats;
#[cfg(vector_kernels)]
mod halves;
mod plan;

use super::format::{Block, Layout};
use super::softmax::{LOG2_E, Running, exp2};
use super::{CacheFormat, CachedRows, KEYS, LANES};
use crate::math::per_isa;
use crate::memory::AlignedBuffer;
use crate::memory::Scratch;
use crate::shared::SharedSlice;
use crate::{Compute, Isa};
use plan::{Plan, Unit};

/// Rows that share one reading of the cache: all heads of the largest models.
const ROWS_MAX: usize = 128;

/// Vectors of rows at most.
const VECTORS_MAX: usize = ROWS_MAX / LANES;

/// The query of one token.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The cache of the token's sequence.
    pub cache: CachedRows<'a>,
    /// Cached tokens it may look at, itself included.
    pub visible: usize,
    /// `q^R`, from the first head's on; the heads' are [`Shape::rotary_stride`] apart.
    pub rotary: &'a [f32],
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
    /// Numbers from one head's rotary part to the next one's.
    pub rotary_stride: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

impl Shape {
    fn width(&self) -> usize {
        self.latent + self.rope
    }
}

/// All queries of a call.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'q, F> {
    /// How many.
    pub count: usize,
    /// `W^UKᵀ q^C`, `[count, heads, latent]`.
    pub latent: &'q [f32],
    /// Query `i`'s other half, and what it sees.
    pub query: F,
}

/// Buffers kept from call to call.
#[derive(Debug, Default)]
pub struct Space {
    plan: Plan,
    /// Queries in the layout of the products, `[vectors, ...]`.
    packed: AlignedBuffer<f32>,
    /// Per (unit, row): the running maximum and sum, then the unnormalised output.
    partials: AlignedBuffer<f32>,
}

/// Attends; `out [queries, heads, latent]`.
///
/// # Panics
/// If a length does not fit, or a query sees nothing or more than its cache holds.
pub fn attend<'a>(
    compute: &Compute,
    shape: Shape,
    queries: &Queries<'_, impl Fn(usize) -> Query<'a> + Sync>,
    space: &mut Space,
    out: &mut [f32],
) {
    let Shape { heads, latent, .. } = shape;
    assert_eq!(queries.latent.len(), queries.count * heads * latent);
    assert_eq!(out.len(), queries.count * heads * latent);
    if queries.count == 0 {
        return;
    }
    let layout = (queries.query)(0).cache.layout();
    assert!(layout.latent == latent && layout.rope == shape.rope, "cache of another model");
    let query = |index: usize| {
        let query = (queries.query)(index);
        assert!(query.cache.layout() == layout, "caches of one call have one format");
        assert!(query.visible > 0 && query.visible <= query.cache.capacity(), "query sees no cache");
        query
    };
    let Space { plan, packed, partials } = space;
    plan.make(shape, queries.count, query, compute.threads());
    let arithmetic = Arithmetic::of(compute.isa, layout);
    let call = Call { compute, shape, arithmetic, latent: queries.latent, query };
    call.pack(plan, packed);
    let packed = packed.as_slice();

    partials.reserve(plan.partials);
    let (partials_out, shared) = (SharedSlice::new(partials.as_mut_slice()), SharedSlice::new(out));
    compute.pool.run(plan.units(), |index, scratch| {
        let unit = plan.unit(index);
        let mut rows = call.rows(&unit);
        let len = arithmetic.packed_len(shape);
        let queries = &packed[unit.vector * len..][..rows.vectors * len];
        // SAFETY: units that are not cut hold disjoint rows, and only those write them.
        let own_rows = || unsafe { shared.range_mut(unit.rows.start * latent, unit.rows.len() * latent) };
        let mut joined = [Running::EMPTY; VECTORS_MAX];
        for chunk in unit.chunks.clone() {
            rows.tokens = plan::chunk(unit.context, chunk);
            let mut running = [Running::EMPTY; VECTORS_MAX];
            let running = &mut running[..rows.vectors];
            let sums = arithmetic.attend(compute.isa, shape, &rows, queries, running, scratch);
            let sums = sums.chunks_exact(arithmetic.cols(shape)).map(|sums| &sums[..latent]);
            let parts = sums.take(unit.rows.len()).enumerate();
            match unit.partial {
                None => {
                    for ((index, sums), out) in parts.zip(own_rows().chunks_exact_mut(latent)) {
                        let (vector, lane) = (index / LANES, index % LANES);
                        let mut state = joined[vector].of(lane);
                        join(compute.isa, &mut state, out, running[vector].of(lane), sums);
                        joined[vector].set(lane, state);
                    }
                }
                Some(first) => {
                    for (index, sums) in parts {
                        // SAFETY: the plan gives every unit a part of its own.
                        let out = unsafe { partials_out.range_mut(first + index * (latent + 2), latent + 2) };
                        out[..2].copy_from_slice(&running[index / LANES].of(index % LANES));
                        out[2..].copy_from_slice(sums);
                    }
                }
            }
        }
        if unit.partial.is_none() {
            for (index, out) in own_rows().chunks_exact_mut(latent).enumerate() {
                let [_, sum] = joined[index / LANES].of(index % LANES);
                divide(compute.isa, out, sum);
            }
        }
    });
    if plan.partials > 0 {
        let partials = partials.as_slice();
        compute.pool.run(queries.count * heads, |row, _| {
            if let Some(parts) = plan.parts(row, latent + 2) {
                // SAFETY: every row is one unit.
                let out = unsafe { shared.range_mut(row * latent, latent) };
                let mut state = Running::EMPTY.of(0);
                for part in parts.map(|first| &partials[first..first + latent + 2]) {
                    join(compute.isa, &mut state, out, [part[0], part[1]], &part[2..]);
                }
                divide(compute.isa, out, state[1]);
            }
        });
    }
}

per_isa! {
    /// Takes the softmax over the next tokens of a row, `part` (its maximum and sum) and `values` (unnormalised),
    /// into what there is over those before: `state` and `out`, whose contents do not matter before the first.
    fn join(state: &mut [f32; 2], out: &mut [f32], part: [f32; 2], values: &[f32]) {
        let ([max, sum], [part_max, part_sum]) = (*state, part);
        if max == f32::NEG_INFINITY {
            *state = part;
            return out.copy_from_slice(values);
        }
        if part_max == f32::NEG_INFINITY {
            // The row sees nothing of these tokens.
            return;
        }
        let both = if part_max > max { part_max } else { max };
        let (keep, weight) = (exp2(max - both), exp2(part_max - both));
        *state = [both, sum * keep + part_sum * weight];
        out.iter_mut().zip(values).for_each(|(out, value)| *out = *out * keep + value * weight);
    }
}

per_isa! {
    fn divide(out: &mut [f32], sum: f32) {
        out.iter_mut().for_each(|out| *out /= sum);
    }
}

/// One call, as its units see it.
struct Call<'c, F> {
    compute: &'c Compute,
    shape: Shape,
    arithmetic: Arithmetic,
    latent: &'c [f32],
    query: F,
}

/// What a unit computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    /// f32 lanes, whatever the cache holds.
    Floats,
    /// Products of bytes over an int8 cache.
    #[cfg(vector_kernels)]
    Bytes,
    /// Products of bf16 over a bf16 cache.
    #[cfg(vector_kernels)]
    Halves,
}

impl Arithmetic {
    fn of(isa: Isa, layout: Layout) -> Self {
        match layout.format {
            #[cfg(vector_kernels)]
            CacheFormat::Int8 if super::vnni::available(isa) => Arithmetic::Bytes,
            #[cfg(vector_kernels)]
            CacheFormat::Bf16 if super::halves::Unit::available(isa) && halves::fits(layout) => {
                Arithmetic::Halves
            }
            _ => Arithmetic::Floats,
        }
    }

    /// Numbers of a packed vector of queries.
    fn packed_len(self, shape: Shape) -> usize {
        match self {
            Arithmetic::Floats => floats::packed_len(shape),
            #[cfg(vector_kernels)]
            Arithmetic::Bytes => bytes::packed_len(shape),
            #[cfg(vector_kernels)]
            Arithmetic::Halves => halves::packed_len(shape),
        }
    }

    /// Columns of sums.
    fn cols(self, shape: Shape) -> usize {
        match self {
            Arithmetic::Floats => floats::cols(shape),
            #[cfg(vector_kernels)]
            Arithmetic::Bytes => bytes::cols(shape),
            #[cfg(vector_kernels)]
            Arithmetic::Halves => shape.latent,
        }
    }

    fn attend<'s>(
        self,
        isa: Isa,
        shape: Shape,
        rows: &Rows<'_>,
        queries: &[f32],
        running: &mut [Running],
        scratch: &'s mut Scratch,
    ) -> &'s mut [f32] {
        match self {
            Arithmetic::Floats => floats::attend(isa, shape, rows, queries, running, scratch),
            #[cfg(vector_kernels)]
            Arithmetic::Bytes => bytes::attend(isa, shape, rows, queries, running, scratch),
            #[cfg(vector_kernels)]
            Arithmetic::Halves => halves::attend(isa, shape, rows, queries, running, scratch),
        }
    }
}

/// The rows of a unit.
struct Rows<'a> {
    vectors: usize,
    cache: CachedRows<'a>,
    /// Of every row, the visible tokens; 0 where a lane has no row.
    visible: [[usize; LANES]; VECTORS_MAX],
    /// Tokens that the unit attends to.
    tokens: std::ops::Range<usize>,
}

impl Rows<'_> {
    /// How many of the tokens `first .. first + count` each row of a vector sees.
    fn seen(&self, vector: usize, first: usize, count: usize) -> [usize; LANES] {
        self.visible[vector].map(|visible| visible.saturating_sub(first).min(count))
    }

    /// The block after the one of token `first`, if the unit goes on to it.
    fn next_block(&self, first: usize) -> Option<Block<'_>> {
        let next = first / KEYS + 1;
        (next * KEYS < self.tokens.end).then(|| self.cache.block(next))
    }
}

impl<'a, F: Fn(usize) -> Query<'a> + Sync> Call<'_, F> {
    fn rows(&self, unit: &Unit) -> Rows<'a> {
        let heads = self.shape.heads;
        let mut visible = [[0; LANES]; VECTORS_MAX];
        for (index, row) in unit.rows.clone().enumerate() {
            visible[index / LANES][index % LANES] = (self.query)(row / heads).visible;
        }
        let cache = (self.query)(unit.rows.start / heads).cache;
        Rows { vectors: unit.rows.len().div_ceil(LANES), cache, visible, tokens: 0..0 }
    }

    /// Brings all queries into the layout of the products.
    fn pack(&self, plan: &Plan, packed: &mut AlignedBuffer<f32>) {
        let len = self.arithmetic.packed_len(self.shape);
        packed.reserve(plan.vectors() * len);
        let packed = SharedSlice::new(packed.as_mut_slice());
        self.compute.pool.run(plan.vectors(), |vector, _| {
            // SAFETY: every vector is one unit.
            let out = unsafe { packed.range_mut(vector * len, len) };
            let mut rows = [(&[][..], &[][..]); LANES];
            let range = plan.rows(vector);
            for (row, halves) in range.clone().zip(&mut rows) {
                *halves = self.halves(row);
            }
            let (isa, rows, scale) = (self.compute.isa, &rows[..range.len()], self.shape.scale * LOG2_E);
            match self.arithmetic {
                Arithmetic::Floats => floats::pack(isa, rows, scale, out),
                #[cfg(vector_kernels)]
                Arithmetic::Bytes => bytes::pack(isa, rows, self.shape, scale, out),
                #[cfg(vector_kernels)]
                Arithmetic::Halves => halves::pack(isa, rows, scale, out),
            }
        });
    }

    /// The two halves of a row's query.
    fn halves(&self, row: usize) -> (&[f32], &'a [f32]) {
        let Shape { heads, latent, rope, rotary_stride, .. } = self.shape;
        let rotary = (self.query)(row / heads).rotary;
        (&self.latent[row * latent..][..latent], &rotary[row % heads * rotary_stride..][..rope])
    }
}
