//! Products of one thread: what a unit of [`matmul`](super::matmul) does, and what kernels that run in a
//! region of their own may call.
//!
//! ```ignore
//! let layout = Layout::of(isa, precision);
//! pack(layout, Side::Left, a, left);      // [m, k]: once for all b that it meets
//! pack(layout, Side::Right, b, right);    // [k, n]
//! multiply(layout, [m, n, k], left, right, Target { c, stride, alpha, accumulate });
//! ```

#[cfg(vector_kernels)]
use super::amx;
#[cfg(vector_kernels)]
use super::avx2::Avx2;
#[cfg(vector_kernels)]
use super::avx512::Avx512;
pub(crate) use super::layout::{Layout, Side};
pub(crate) use super::pack::pack;
use super::scalar::Scalar;
use super::{MatmulPrecision, View};
use crate::Isa;

/// Where results go, and how.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// `[m, n]`, rows `stride` apart.
    pub(crate) c: &'a mut [f32],
    pub(crate) stride: usize,
    /// Factor of the sums.
    pub(crate) alpha: f32,
    /// Add to `c` instead of overwriting it.
    pub(crate) accumulate: bool,
}

/// `C [m, n] (+)= alpha · A · B` of views, both packed into `scratch` ([`block_len`] words at least).
///
/// # Panics
/// If shapes do not match, or something leaves its memory.
pub(crate) fn block(layout: Layout, a: View<'_>, b: View<'_>, target: Target<'_>, scratch: &mut [f32]) {
    assert_eq!(a.cols, b.rows, "the depths of A and B");
    a.check("A");
    b.check("B");
    let (left, rest) = scratch.split_at_mut(layout.len(Side::Left, a.rows, a.cols));
    let right = &mut rest[..layout.len(Side::Right, b.cols, b.rows)];
    pack(layout, Side::Left, a, left);
    pack(layout, Side::Right, b, right);
    multiply(layout, [a.rows, b.cols, a.cols], left, right, target);
}

/// Words of scratch that [`block`] needs for `[m, n, k]`.
pub(crate) fn block_len(layout: Layout, [m, n, k]: [usize; 3]) -> usize {
    layout.len(Side::Left, m, k) + layout.len(Side::Right, n, k)
}

/// `C [m, n] (+)= alpha · A · B` of packed operands.
///
/// # Panics
/// If an operand is not as long as [`Layout::len`] says, or `c` is too short.
pub(crate) fn multiply(
    layout: Layout,
    [m, n, k]: [usize; 3],
    left: &[f32],
    right: &[f32],
    target: Target<'_>,
) {
    let Target { c, stride, alpha, accumulate } = target;
    assert_eq!(left.len(), layout.len(Side::Left, m, k), "left panels of [{m}, {k}]");
    assert_eq!(right.len(), layout.len(Side::Right, n, k), "right panels of [{k}, {n}]");
    assert!(m == 0 || n == 0 || (n <= stride && (m - 1) * stride + n <= c.len()), "C [{m}, {n}] leaves c");
    let out = Block { shape: [m, n, k], c: c.as_mut_ptr(), stride, alpha, accumulate };
    // SAFETY: the asserts above; `c` is borrowed for writing.
    unsafe { out.multiply(layout, left, right) };
}

/// A block of results.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// `[m, n, k]`.
    pub(super) shape: [usize; 3],
    pub(super) c: *mut f32,
    pub(super) stride: usize,
    pub(super) alpha: f32,
    pub(super) accumulate: bool,
}

impl Block {
    /// # Safety
    /// Nobody else uses rows and columns `[m, n]` of `c`, which may be written; the operands are panels of
    /// this layout and shape; the layout's ISA is this machine's.
    pub(super) unsafe fn multiply(&self, layout: Layout, left: &[f32], right: &[f32]) {
        // SAFETY: this function's contract.
        unsafe {
            match layout.isa {
                Isa::Scalar => self.tiles::<Scalar>(layout, left, right),
                #[cfg(vector_kernels)]
                Isa::Avx2 => self.tiles::<Avx2>(layout, left, right),
                #[cfg(vector_kernels)]
                Isa::Amx if layout.in_tiles() => amx::multiply(self, layout, left, right),
                #[cfg(vector_kernels)]
                Isa::Avx512 | Isa::Amx => self.tiles::<Avx512>(layout, left, right),
                #[cfg(not(vector_kernels))]
                _ => unreachable!("only the scalar ISA exists on this architecture"),
            }
        }
    }

    /// A right panel stays near while all left panels pass.
    ///
    /// # Safety
    /// As [`Block::multiply`], with the layout's kernel.
    unsafe fn tiles<K: Kernel>(&self, layout: Layout, left: &[f32], right: &[f32]) {
        let [m, n, k] = self.shape;
        let words = layout.words(k);
        for col in (0..n).step_by(K::RIGHT) {
            for row in (0..m).step_by(K::LEFT) {
                let tile = Tile {
                    depth: k,
                    left: left.as_ptr().wrapping_add(row * words),
                    right: right.as_ptr().wrapping_add(col * words),
                    c: self.c.wrapping_add(row * self.stride + col),
                    stride: self.stride,
                    rows: K::LEFT.min(m - row),
                    cols: K::RIGHT.min(n - col),
                    alpha: self.alpha,
                    accumulate: self.accumulate,
                };
                // SAFETY: this function's contract: panels begin at multiples of their lanes, and rows and
                // columns of the tile are within the block.
                unsafe { K::tile(&tile) };
            }
        }
    }
}

/// What an ISA computes at once: a left panel by a right panel.
pub(super) struct Tile {
    pub(super) depth: usize,
    pub(super) left: *const f32,
    pub(super) right: *const f32,
    /// The first result.
    pub(super) c: *mut f32,
    pub(super) stride: usize,
    /// Results that exist: at most the lanes of the panels, at least 1.
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) alpha: f32,
    pub(super) accumulate: bool,
}

impl Tile {
    /// Puts sums (rows `width` apart) where they belong.
    ///
    /// # Safety
    /// The tile's results may be written and nobody else uses them.
    pub(super) unsafe fn store(&self, sums: &[f32], width: usize) {
        for (row, sums) in sums.chunks_exact(width).take(self.rows).enumerate() {
            // SAFETY: this function's contract.
            let out = unsafe { std::slice::from_raw_parts_mut(self.c.add(row * self.stride), self.cols) };
            for (out, sum) in out.iter_mut().zip(sums) {
                let value = self.alpha * sum;
                *out = if self.accumulate { *out + value } else { value };
            }
        }
    }
}

/// The loop over the depth, of one ISA.
pub(super) trait Kernel {
    /// Lanes of a left panel: rows of the tile.
    const LEFT: usize;
    /// Lanes of a right panel: columns of the tile.
    const RIGHT: usize;
    /// One tile.
    ///
    /// # Safety
    /// Panels have `depth` steps of their lanes; the tile's results may be written and nobody else uses
    /// them; the CPU has the ISA.
    unsafe fn tile(tile: &Tile);
}

impl MatmulPrecision {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            MatmulPrecision::F32 => "f32",
            MatmulPrecision::Bf16 => "bf16",
        }
    }
}
