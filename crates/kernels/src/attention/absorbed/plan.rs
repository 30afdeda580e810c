//! How the rows of a call are cut into units. A row's context is cut by position alone, and its chunks are joined in
//! order, be it by the unit that attended to all of them or after several units did.

use std::ops::Range;

use super::{LANES, Query, ROWS_MAX, Shape};

/// Where chunks of a context begin: their length up to a token, after which they are longer. A chunk's partial
/// sums are written and read once more, which costs as much as a tenth of 256 tokens; and the more tokens there
/// are, the fewer chunks keep all threads busy.
///
/// Chunks depend on nothing but the position: a row's sums are the same whoever is beside it.
const CHUNKS: [(usize, usize); 3] = [(2048, 256), (16_384, 512), (usize::MAX, 2048)];

/// Chunks of the first `context` tokens.
fn chunks(context: usize) -> usize {
    let (mut first, mut count) = (0, 0);
    for (end, size) in CHUNKS {
        count += (context.min(end) - first).div_ceil(size);
        first = end.min(context);
    }
    count
}

/// The tokens of one chunk of a context.
pub(super) fn chunk(context: usize, index: usize) -> Range<usize> {
    let (mut first, mut before) = (0, 0);
    for (end, size) in CHUNKS {
        let here = (end - first).div_ceil(size);
        if index < before + here {
            let start = first + (index - before) * size;
            return start..context.min(start + size);
        }
        (first, before) = (end, before + here);
    }
    unreachable!("the last chunks have no end")
}

/// A group of rows is cut if it is more than one of so many parts of a thread's share of the work: threads then end
/// together, and a prompt's many groups need no memory for partial results.
const PARTS_OF_A_SHARE: usize = 4;

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
    /// Whether every chunk is a unit of its own; else one unit takes them all, one after the other.
    cut: bool,
    /// Where its partial results begin, if it is cut.
    partial: usize,
}

/// Some rows of one sequence over some of its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) rows: Range<usize>,
    pub(super) vector: usize,
    /// Tokens that the last of the rows sees.
    pub(super) context: usize,
    pub(super) chunks: Range<usize>,
    /// Where its partial results go; `None` if it sees all chunks.
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
    /// The number of threads decides which contexts are cut, and nothing else.
    pub(super) fn make<'a>(
        &mut self,
        shape: Shape,
        queries: usize,
        query: impl Fn(usize) -> Query<'a>,
        threads: usize,
    ) {
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
                self.push(rows, context);
            }
            first = end;
        }
        let all: usize = self.groups.iter().map(|group| group.chunks).sum();
        for group in &mut self.groups {
            group.cut = group.chunks > 1 && group.chunks * PARTS_OF_A_SHARE * threads > all;
            (group.unit, group.partial) = (self.units, self.partials);
            self.units += if group.cut { group.chunks } else { 1 };
            if group.cut {
                self.partials += group.chunks * group.rows.len() * (shape.latent + 2);
            }
        }
    }

    fn push(&mut self, rows: Range<usize>, context: usize) {
        let (vector, chunks) = (self.vectors, chunks(context));
        self.vectors += rows.len().div_ceil(LANES);
        self.groups.push(Group { rows, vector, context, chunks, unit: 0, cut: false, partial: 0 });
    }

    pub(super) fn units(&self) -> usize {
        self.units
    }

    pub(super) fn unit(&self, index: usize) -> Unit {
        let group = &self.groups[self.groups.partition_point(|group| group.unit <= index) - 1];
        let at = index - group.unit;
        let each = (self.partials_of(group)) / group.chunks;
        Unit {
            rows: group.rows.clone(),
            vector: group.vector,
            context: group.context,
            chunks: if group.cut { at..at + 1 } else { 0..group.chunks },
            partial: group.cut.then(|| group.partial + at * each),
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
        group.cut.then(|| (0..group.chunks).map(move |chunk| first + chunk * each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{CacheFormat, KEYS, LatentRows};

    #[test]
    fn chunks_are_whole_blocks_and_follow_each_other() {
        for context in (1..3000).chain([8192, 8193, 16_384, 16_385, 32_768, 131_072, 1_000_000]) {
            let mut end = 0;
            for index in 0..chunks(context) {
                let tokens = chunk(context, index);
                assert!(tokens.start == end && !tokens.is_empty(), "{context}: {tokens:?}");
                assert!(tokens.end.is_multiple_of(KEYS) || tokens.end == context);
                end = tokens.end;
            }
            assert_eq!(end, context);
        }
        assert_eq!([64, 256, 300, 2048, 8192, 32_768].map(chunks), [1, 1, 2, 8, 20, 44]);
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
        for (heads, threads) in [1, 16, 33, 128, 130].into_iter().flat_map(|heads| [(heads, 1), (heads, 4)]) {
            let shape = Shape { heads, latent: 3, rope: 2, rotary_stride: 2, scale: 1.0 };
            let query = |i: usize| {
                let (cache, visible) = seen[i];
                Query { cache: caches[cache].0.sequence(&caches[cache].1), visible, rotary: &[] }
            };
            let mut plan = Plan::default();
            plan.make(shape, seen.len(), query, threads);
            let mut covered = vec![0; seen.len() * heads];
            let mut parts = vec![];
            for unit in (0..plan.units()).map(|index| plan.unit(index)) {
                assert!(unit.rows.len() <= ROWS_MAX);
                assert_eq!(plan.rows(unit.vector).start, unit.rows.start);
                for row in unit.rows.clone() {
                    for tokens in unit.chunks.clone().map(|index| chunk(unit.context, index)) {
                        assert_eq!(covered[row], tokens.start, "tokens in order");
                        covered[row] = tokens.end;
                    }
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
