//! Products are cut into units: blocks of results that one thread computes alone.
//!
//! A unit packs what it multiplies. A number of `A` is packed once for all columns of its unit and a number of
//! `B` once for all rows, so units are as large as an even load allows; where `B` is packed already, they take
//! all columns. How the work is cut changes no result, so it may depend on the number of threads.

use std::ops::Range;

use super::layout::Layout;
use super::{Job, Operand};

/// Units per thread that a region should have: the last one to end is then at most about a twelfth late.
const UNITS_PER_THREAD: usize = 6;

/// The same for tiles, to which packing the operands several times costs more than a late end.
const TILE_UNITS_PER_THREAD: usize = 2;

/// As [`UNIT_MIN`], for tiles: ten times as fast.
const TILE_UNIT_MIN: usize = 8 << 20;

/// Multiplications below which a unit is not cut any further.
const UNIT_MIN: usize = 1 << 20;

/// Columns of a unit at most: its right panels must fit somewhere near.
const COLS_MAX: usize = 1024;

/// Columns of a unit at least, where a product is cut: fewer would pack `A` too often.
const COLS_MIN: usize = 128;

/// A block of results of one product, or of several that share their rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) products: Range<usize>,
    pub(super) rows: Range<usize>,
    /// Begin with a panel.
    pub(super) cols: Range<usize>,
}

/// Every block of every product, large ones first.
pub(super) fn units(layout: Layout, threads: usize, jobs: &[Job<'_>]) -> Vec<Unit> {
    let work = |[m, n, k]: [usize; 3]| m * n * k.max(1);
    let total: usize = jobs.iter().map(|job| work(job.shape())).sum();
    let target = match threads {
        1 => usize::MAX,
        _ if layout.in_tiles() => (total / (threads * TILE_UNITS_PER_THREAD)).max(TILE_UNIT_MIN),
        _ => (total / (threads * UNITS_PER_THREAD)).max(UNIT_MIN),
    };
    let mut units = Vec::with_capacity(jobs.len() + 2 * threads * UNITS_PER_THREAD);
    let mut next = 0;
    while next < jobs.len() {
        let (first, job) = (next, &jobs[next]);
        next += 1 + jobs[next + 1..].iter().take_while(|other| job.shares_rows(other)).count();
        let (products, [m, n, _]) = (first..next, job.shape());
        if m == 0 || n == 0 {
            continue;
        }
        let parts = (products.len() * work(job.shape())).div_ceil(target);
        let [rows, cols] = unit_shape(layout, [m, n], parts, matches!(job.b, Operand::Packed(_)));
        for row in (0..m).step_by(rows) {
            for col in (0..n).step_by(cols) {
                let (rows, cols) = (row..m.min(row + rows), col..n.min(col + cols));
                units.push(Unit { products: products.clone(), rows, cols });
            }
        }
    }
    if units.len() > 1 {
        units.sort_by_key(|unit| {
            let shape = [unit.rows.len(), unit.cols.len(), jobs[unit.products.start].a.cols];
            std::cmp::Reverse(unit.products.len() * work(shape))
        });
    }
    units
}

/// Rows and columns of the units of a product that becomes about `parts` of them.
fn unit_shape(layout: Layout, [m, n]: [usize; 2], parts: usize, packed: bool) -> [usize; 2] {
    let across_min = n.div_ceil(COLS_MAX);
    let across = if packed {
        // Down to one block of rows, then across.
        let down = m.div_ceil(layout.rows).min(parts);
        parts.div_ceil(down)
    } else {
        // Squares, whose sides are used equally often.
        (1..=parts).min_by_key(|across| m * across + n * parts.div_ceil(*across)).expect("at least one part")
    };
    let across = across.min(n.div_ceil(COLS_MIN)).max(across_min);
    let down = parts.div_ceil(across);
    [evenly(m, down, layout.left), evenly(n, across, layout.right)]
}

/// What each of `parts` takes of `len`, in whole panels.
fn evenly(len: usize, parts: usize, panel: usize) -> usize {
    len.div_ceil(parts).next_multiple_of(panel)
}
