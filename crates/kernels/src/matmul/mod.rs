//! `C (+)= alpha · A · B` on f32 matrices: the products of training.
//!
//! **Use.** `W [out, in]` as checkpoints have it, activations `x [tokens, in]`, their gradient
//! `dy [tokens, out]`:
//!
//! | | `A` | `B` |
//! |---|---|---|
//! | forward `y = x · Wᵀ` | `x` | `W` transposed (packed once per step) |
//! | `dx = dy · W` | `dy` | `W` (packed once per step) |
//! | `dW += dyᵀ · x` | `dy` transposed | `x` |
//!
//! Experts are one product each, their rows gathered by an index; all products of a call run in one parallel
//! region, and nothing is padded to whole blocks of rows. Consecutive products of the same `A` with operands that are
//! packed already (gate and up of an expert) pack `A` once.
//!
//! **Roofline.** All of these are bound by the multiplier as long as each number that is brought near is used
//! a few hundred times (`docs/kernels/training-products.md` has the arithmetic). So operands are packed:
//! blocks of `A` that stay in the second-level cache, panels of `B` that stay in the first.
//!
//! **Numbers.** [`MatmulPrecision::Bf16`] rounds both operands to bf16 when they are packed, on every ISA;
//! products are then exact, sums are f32. Sums run along the depth in blocks; ISAs differ in the order of
//! their sums only. A result does not depend on the number of threads nor on how the work is cut.

#[cfg(vector_kernels)]
mod amx;
#[cfg(vector_kernels)]
mod avx2;
#[cfg(vector_kernels)]
mod avx512;
mod layout;
#[allow(dead_code, reason = "attention_training packs operands itself; `block` packs them for others")]
pub(crate) mod micro;
mod pack;
mod packed;
mod partition;
mod scalar;
#[cfg(test)]
mod tests;
mod view;

use layout::{Layout, Side};
use micro::Block;
use pack::pack;
pub use packed::PackedOperand;
use partition::Unit;
pub use view::View;

use crate::Compute;
use crate::memory::Scratch;

/// What operands are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// Not at all.
    F32,
    /// bf16, both of them; sums stay f32.
    Bf16,
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// Packed for this product alone.
    View(View<'a>),
    /// Packed before.
    Packed(&'a PackedOperand),
}

impl Operand<'_> {
    /// `[k, n]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Operand::View(view) => [view.rows, view.cols],
            Operand::Packed(packed) => [packed.rows(), packed.cols()],
        }
    }
}

/// `C [m, n] (+)= alpha · A [m, k] · B [k, n]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// `[m, k]`.
    pub a: View<'a>,
    /// `[k, n]`.
    pub b: Operand<'a>,
    /// `[m, n]`, rows `c_stride` apart.
    pub c: &'a mut [f32],
    /// From one row of `c` to the next.
    pub c_stride: usize,
    /// Factor of the sums.
    pub alpha: f32,
    /// Add to `c` instead of overwriting it.
    pub accumulate: bool,
}

/// Computes all products in one parallel region.
///
/// # Panics
/// If the shapes of a product do not match, if one of its matrices leaves its memory, or if `B` was packed for
/// another precision or instruction set.
pub fn matmul(compute: &Compute, precision: MatmulPrecision, products: &mut [Product<'_>]) {
    let layout = Layout::of(compute.isa, precision);
    products.iter().enumerate().for_each(|(index, product)| product.check(layout, index));
    let jobs: Vec<Job<'_>> = products.iter_mut().map(Job::of).collect();
    let units = partition::units(layout, compute.threads(), &jobs);
    compute.pool.run(units.len(), |unit, scratch| {
        let unit = &units[unit];
        // SAFETY: `check` bounded every product's matrices, and units cut the results without overlap.
        unsafe { compute_unit(&jobs[unit.products.clone()], layout, unit, scratch) };
    });
}

impl Product<'_> {
    fn check(&self, layout: Layout, index: usize) {
        let (m, k, [b_rows, n]) = (self.a.rows, self.a.cols, self.b.shape());
        assert!(k == b_rows, "product {index}: A is [{m}, {k}], but B is [{b_rows}, {n}]");
        self.a.check("A");
        match self.b {
            Operand::View(b) => b.check("B"),
            Operand::Packed(b) => {
                let (is, wanted) = (b.layout(), layout);
                assert!(
                    is == wanted || k == 0 || n == 0,
                    "product {index}: B was packed for {} on {}, but is multiplied in {} on {}",
                    is.precision.name(),
                    is.isa,
                    wanted.precision.name(),
                    wanted.isa
                );
            }
        }
        if m > 0 && n > 0 {
            let end = (m - 1).checked_mul(self.c_stride).and_then(|last| last.checked_add(n));
            assert!(n <= self.c_stride || m == 1, "product {index}: rows of C overlap");
            assert!(
                end.is_some_and(|end| end <= self.c.len()),
                "product {index}: C [{m}, {n}] (rows {} apart) leaves its memory of {} numbers",
                self.c_stride,
                self.c.len()
            );
        }
    }
}

/// A product as its units see it: several of them write parts of one `C`.
struct Job<'a> {
    a: View<'a>,
    b: Operand<'a>,
    c: *mut f32,
    c_stride: usize,
    alpha: f32,
    accumulate: bool,
}

// SAFETY: `c` is borrowed for writing as long as the job lives, and units write disjoint parts of it.
unsafe impl Send for Job<'_> {}
// SAFETY: as above.
unsafe impl Sync for Job<'_> {}

impl<'a> Job<'a> {
    fn of(product: &'a mut Product<'_>) -> Self {
        Self {
            a: product.a,
            b: product.b,
            c: product.c.as_mut_ptr(),
            c_stride: product.c_stride,
            alpha: product.alpha,
            accumulate: product.accumulate,
        }
    }

    /// `[m, n, k]`.
    fn shape(&self) -> [usize; 3] {
        [self.a.rows, self.b.shape()[1], self.a.cols]
    }

    /// Whether another product has the same `A` and the same width, so that units may share packed rows: both
    /// have their `B` packed already.
    fn shares_rows(&self, other: &Job<'_>) -> bool {
        let packed = |job: &Job<'_>| matches!(job.b, Operand::Packed(_));
        self.a.is(&other.a) && packed(self) && packed(other) && self.shape() == other.shape()
    }
}

/// The unit's block of results of products that share their rows, block of depth by block of depth.
///
/// # Safety
/// The products were checked, nobody else uses the unit's part of their `c`, and the layout's ISA is this
/// machine's.
unsafe fn compute_unit(jobs: &[Job<'_>], layout: Layout, unit: &Unit, scratch: &mut Scratch) {
    let a = jobs[0].a;
    let [_, _, k] = jobs[0].shape();
    let (n, step) = (unit.cols.len(), layout.depth.min(k));
    let left_rows = layout.rows.min(unit.rows.len());
    let right_len = match jobs[0].b {
        Operand::View(_) => layout.len(Side::Right, n, step),
        Operand::Packed(_) => 0,
    };
    let [left, right] = scratch.floats([layout.len(Side::Left, left_rows, step), right_len]);
    // An empty depth is one empty block, so that results become 0.
    for first in (0..k.max(1)).step_by(layout.depth) {
        let depth = first..k.min(first + layout.depth);
        if let Operand::View(b) = jobs[0].b {
            let right = &mut right[..layout.len(Side::Right, n, depth.len())];
            pack(layout, Side::Right, b.sub(depth.clone(), unit.cols.clone()), right);
        }
        for row in unit.rows.clone().step_by(layout.rows) {
            let rows = row..unit.rows.end.min(row + layout.rows);
            let left = &mut left[..layout.len(Side::Left, rows.len(), depth.len())];
            pack(layout, Side::Left, a.sub(rows.clone(), depth.clone()), left);
            for job in jobs {
                let right: &[f32] = match job.b {
                    Operand::Packed(b) => b.block(first, unit.cols.clone()),
                    Operand::View(_) => &right[..layout.len(Side::Right, n, depth.len())],
                };
                let block = Block {
                    shape: [rows.len(), n, depth.len()],
                    c: job.c.wrapping_add(row * job.c_stride + unit.cols.start),
                    stride: job.c_stride,
                    alpha: job.alpha,
                    accumulate: job.accumulate || first > 0,
                };
                // SAFETY: this function's contract.
                unsafe { block.multiply(layout, left, right) };
            }
        }
    }
}
