//! How the rows of a call are cut into units: by sequences, rows and context, nothing else.

use std::ops::Range;

use super::{LANES, Query, ROWS_MAX, Shape};
use crate::attention::KEYS;

/// Tokens of a chunk, where the context is short.
const CHUNK_SHORT: usize = 256;

/// Tokens of a chunk, where it is long: a chunk's partial sums are written and read once more,
/// which costs as much as a tenth of its tokens.
const CHUNK_LONG: usize = 512;

/// Chunks from which on they are long ones.
const CHUNKS: usize = 16;

/// Chunks at most.
const CHUNKS_MAX: usize = 64;

/// Tokens of one chunk of a context, a multiple of a block.
fn chunk(context: usize) -> usize {
    let short = context.div_ceil(CHUNK_SHORT).min(CHUNKS);
    let chunks = short.max((context / CHUNK_LONG).min(CHUNKS_MAX)).max(1);
    context.div_ceil(chunks).next_multiple_of(KEYS)
}

/// Rows of one sequence that share a reading of the cache.
#[derive(Clone, Debug)]
struct Group {
    rows: Range<usize>,
    /// Index of the first vector of rows.
    vector: usize,
    /// The most that a row sees.
    context: usize,
    /// Index of the first unit.
    unit: usize,
    chunks: usize,
    /// Where its partial results begin, if there are several chunks.
    partial: usize,
}

/// Some rows of one sequence over some of its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) rows: Range<usize>,
    pub(super) vector: usize,
    pub(super) tokens: Range<usize>,
    /// Where its partial results go; `None` if it sees the whole context.
    pub(super) partial: Option<usize>,
}

/// The cut of one call; keeps its memory.
#[derive(Debug, Default)]
pub(super) struct Plan {
    groups: Vec<Group>,
    units: usize,
    vectors: usize,
    /// Numbers of partial results.
    pub(super) partials: usize,
}

impl Plan {
    pub(super) fn make<'a>(&mut self, shape: Shape, queries: usize, query: impl Fn(usize) -> Query<'a>) {
        self.groups.clear();
        (self.units, self.vectors, self.partials) = (0, 0, 0);
        let mut first = 0;
        while first < queries {
            let cache = query(first).cache;
            let mut end = first + 1;
            while end < queries && query(end).cache.same(&cache) {
                end += 1;
            }
            for start in (first * shape.heads..end * shape.heads).step_by(ROWS_MAX) {
                let rows = start..(end * shape.heads).min(start + ROWS_MAX);
                let seen = rows.clone().step_by(shape.heads).chain([rows.end - 1]);
                let context = seen.map(|row| query(row / shape.heads).visible).max().unwrap_or(1);
                self.push(rows, context, shape.latent + 2);
            }
            first = end;
        }
    }

    fn push(&mut self, rows: Range<usize>, context: usize, stride: usize) {
        let chunks = context.div_ceil(chunk(context));
        let (count, vectors) = (rows.len(), rows.len().div_ceil(LANES));
        let (vector, unit, partial) = (self.vectors, self.units, self.partials);
        self.groups.push(Group { rows, vector, context, unit, chunks, partial });
        self.vectors += vectors;
        self.units += chunks;
        if chunks > 1 {
            self.partials += chunks * count * stride;
        }
    }

    pub(super) fn units(&self) -> usize {
        self.units
    }

    pub(super) fn unit(&self, index: usize) -> Unit {
        let group = &self.groups[self.groups.partition_point(|group| group.unit <= index) - 1];
        let (at, size) = (index - group.unit, chunk(group.context));
        let each = (self.partials_of(group)) / group.chunks;
        Unit {
            rows: group.rows.clone(),
            vector: group.vector,
            tokens: at * size..group.context.min((at + 1) * size),
            partial: (group.chunks > 1).then(|| group.partial + at * each),
        }
    }

    fn partials_of(&self, group: &Group) -> usize {
        let next = self.groups.get(self.groups.partition_point(|other| other.unit <= group.unit));
        next.map_or(self.partials, |next| next.partial) - group.partial
    }

    /// Vectors of rows.
    pub(super) fn vectors(&self) -> usize {
        self.vectors
    }

    /// Rows of a vector.
    pub(super) fn rows(&self, vector: usize) -> Range<usize> {
        let group = &self.groups[self.groups.partition_point(|group| group.vector <= vector) - 1];
        let first = group.rows.start + (vector - group.vector) * LANES;
        first..group.rows.end.min(first + LANES)
    }

    /// Where the partial results of a row, `stride` numbers each, begin; `None` if it was not cut.
    pub(super) fn parts(
        &self,
        row: usize,
        stride: usize,
    ) -> Option<impl Iterator<Item = usize> + Clone + use<>> {
        let group = &self.groups[self.groups.partition_point(|group| group.rows.start <= row) - 1];
        let (first, each) = (group.partial + (row - group.rows.start) * stride, group.rows.len() * stride);
        (group.chunks > 1).then(|| (0..group.chunks).map(move |chunk| first + chunk * each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{CacheFormat, LatentRows};

    #[test]
    fn chunks_are_whole_blocks_and_neither_many_nor_long() {
        for context in (1..3000).chain([8192, 8193, 32_768, 131_072, 1_000_000]) {
            let (size, chunks) = (chunk(context), context.div_ceil(chunk(context)));
            assert!(size.is_multiple_of(KEYS) && chunks <= CHUNKS_MAX, "{context}: {chunks} of {size}");
            assert!(size <= (context.div_ceil(CHUNKS_MAX) + KEYS).max(CHUNK_LONG + KEYS));
        }
        assert_eq!(
            [64, 256, 300, 2048, 8192, 32_768].map(|context| context / chunk(context)),
            [1, 1, 1, 8, 16, 64]
        );
    }

    /// Units cover every row's context once, in rows and tokens, and partial results are apart.
    #[test]
    fn units_cover_every_row_and_token_once() {
        let caches = [9, 40, 1].map(|blocks| {
            (LatentRows::new(CacheFormat::F32, blocks, [3, 2]).expect("small"), (0..blocks as u32).collect())
        });
        let caches: &[(LatentRows, Vec<u32>)] = &caches;
        // (cache, visible) of every query.
        let seen = [(0, 500), (0, 501), (1, 2500), (2, 64), (2, 1), (0, 7)];
        for heads in [1, 16, 33, 128, 130] {
            let shape = Shape { heads, latent: 3, rope: 2, rotary_stride: 2, scale: 1.0 };
            let query = |i: usize| {
                let (cache, visible) = seen[i];
                Query { cache: caches[cache].0.sequence(&caches[cache].1), visible, rotary: &[] }
            };
            let mut plan = Plan::default();
            plan.make(shape, seen.len(), query);
            let mut covered = vec![0; seen.len() * heads];
            let mut parts = vec![];
            for unit in (0..plan.units()).map(|index| plan.unit(index)) {
                assert!(unit.rows.len() <= ROWS_MAX);
                assert_eq!(plan.rows(unit.vector).start, unit.rows.start);
                for row in unit.rows.clone() {
                    assert_eq!(covered[row], unit.tokens.start, "tokens in order");
                    covered[row] = unit.tokens.end;
                    let offset = (row - unit.rows.start) * 5;
                    parts.extend(unit.partial.map(|first| (row, first + offset)));
                }
            }
            for (row, covered) in covered.into_iter().enumerate() {
                assert!(covered >= seen[row / heads].1, "{heads} heads: row {row} sees {covered}");
            }
            let mut places: Vec<usize> = parts.iter().map(|part| part.1).collect();
            places.sort_unstable();
            assert!(
                places.iter().enumerate().all(|(i, &place)| place == 5 * i)
                    && plan.partials == 5 * places.len()
            );
            for row in 0..seen.len() * heads {
                let of_row: Vec<usize> =
                    parts.iter().filter(|part| part.0 == row).map(|part| part.1).collect();
                assert_eq!(plan.parts(row, 5).map_or(vec![], Iterator::collect), of_row);
            }
        }
    }
}
