//! The meaning: sums of products in the order of the depth, panels as `layout.rs` has them.

use super::micro::{Kernel, Tile};

/// 4 × 8 sums, which compilers keep in registers on most machines.
pub(super) struct Scalar;

impl Kernel for Scalar {
    const LEFT: usize = 4;
    const RIGHT: usize = 8;

    unsafe fn tile(tile: &Tile) {
        let mut sums = [[0.0f32; Self::RIGHT]; Self::LEFT];
        // SAFETY: the tile's panels have `depth` steps of as many lanes.
        let (left, right) = unsafe {
            (
                std::slice::from_raw_parts(tile.left, tile.depth * Self::LEFT),
                std::slice::from_raw_parts(tile.right, tile.depth * Self::RIGHT),
            )
        };
        let (left, right) = (left.as_chunks::<{ Self::LEFT }>().0, right.as_chunks::<{ Self::RIGHT }>().0);
        for (left, right) in left.iter().zip(right) {
            for (sums, left) in sums.iter_mut().zip(left) {
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum += left * right;
                }
            }
        }
        // SAFETY: the caller's promise about the tile.
        unsafe { tile.store(sums.as_flattened(), Self::RIGHT) };
    }
}
