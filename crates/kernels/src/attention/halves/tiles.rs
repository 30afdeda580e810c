//! The two products on the AMX tile unit.
//!
//! `scores`: 16 keys × 32 numbers (the cache's rows are what the unit takes on the left) times 32 numbers × 16
//! rows of queries into 16 × 16 scores. `mix`: 16 rows × 32 weights times 32 keys × 16 columns.
//!
//! **Roofline** (Sapphire Rapids): 1,088 tile products per block of 64 keys and 128 rows, 16 cycles
//! each, against 73 KB of cache at 16 bytes per cycle from memory for 16 rows: at 16 rows the memory
//! is the limit, at 128 the unit.

use std::arch::asm;

use super::{COLS, KEYS, LANES, STEP, WEIGHTS, pair_stride};
use crate::gemm::AmxShape;

/// The unit, set up for whole tiles; given back when dropped, so that context switches need not save it.
pub(in crate::attention) struct Unit(());

impl Unit {
    /// # Safety
    /// The CPU has AMX (in tests, or an emulator).
    pub(super) unsafe fn new() -> Self {
        // SAFETY: this function's contract; 16 rows of 64 bytes are the largest tile.
        unsafe { AmxShape::of([(16, 64); 8]).load() };
        Unit(())
    }

    /// # Safety
    /// Lengths are as [`super::Unit::scores`] checks them.
    pub(super) unsafe fn scores(
        &self,
        keys: &[u16],
        key_stride: usize,
        dim: usize,
        queries: &[u16],
        out: &mut [f32],
    ) {
        for (out, queries) in out.chunks_exact_mut(KEYS * LANES).zip(queries.chunks_exact(dim * LANES)) {
            // SAFETY: four tiles of 16 keys and the vector's queries lie in memory, by this function's contract; the
            // unit is set up for whole tiles.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [rsi + r11]",
                    "tileloadd tmm5, [rdi + rdx]", "tdpbf16ps tmm0, tmm5, tmm4",
                    "tileloadd tmm6, [rcx + rdx]", "tdpbf16ps tmm1, tmm6, tmm4",
                    "tileloadd tmm7, [r8 + rdx]", "tdpbf16ps tmm2, tmm7, tmm4",
                    "tileloadd tmm5, [r9 + rdx]", "tdpbf16ps tmm3, tmm5, tmm4",
                    "add rdi, 64", "add rcx, 64", "add r8, 64", "add r9, 64", "add rsi, 1024",
                    "dec rax", "jnz 2b",
                    "tilestored [r10 + r11], tmm0", "tilestored [r10 + r11 + 1024], tmm1",
                    "tilestored [r10 + r11 + 2048], tmm2", "tilestored [r10 + r11 + 3072], tmm3",
                    inout("rdi") keys.as_ptr() => _,
                    inout("rcx") keys.as_ptr().add(16 * key_stride) => _,
                    inout("r8") keys.as_ptr().add(32 * key_stride) => _,
                    inout("r9") keys.as_ptr().add(48 * key_stride) => _,
                    inout("rsi") queries.as_ptr() => _,
                    in("rdx") 2 * key_stride, in("r11") 64usize, in("r10") out.as_mut_ptr(),
                    inout("rax") dim / STEP => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    }

    /// # Safety
    /// Lengths are as [`super::Unit::mix`] checks them.
    pub(super) unsafe fn mix(&self, weights: &[u32], values: &[u32], cols: usize, out: &mut [f32]) {
        let stride = pair_stride(cols);
        for (out, weights) in out.chunks_exact_mut(LANES * cols).zip(weights.chunks_exact(WEIGHTS)) {
            // SAFETY: two tiles of 32 weights of 16 rows, two tiles of 16 pairs of keys at each of `cols /
            // 16` columns, and as many tiles of sums lie in memory, by this function's contract; the unit is set up for
            // whole tiles.
            unsafe {
                asm!(
                    "tileloadd tmm6, [rsi + r8]", "tileloadd tmm7, [rsi + r8 + 64]",
                    "2:",
                    "tileloadd tmm0, [r10 + r11]", "tileloadd tmm1, [r10 + r11 + 64]",
                    "tileloadd tmm2, [rdi + rdx]", "tdpbf16ps tmm0, tmm6, tmm2",
                    "tileloadd tmm3, [rdi + rdx + 64]", "tdpbf16ps tmm1, tmm6, tmm3",
                    "tileloadd tmm4, [rcx + rdx]", "tdpbf16ps tmm0, tmm7, tmm4",
                    "tileloadd tmm5, [rcx + rdx + 64]", "tdpbf16ps tmm1, tmm7, tmm5",
                    "tilestored [r10 + r11], tmm0", "tilestored [r10 + r11 + 64], tmm1",
                    "add r10, 128", "add rdi, 128", "add rcx, 128",
                    "dec rax", "jnz 2b",
                    in("rsi") weights.as_ptr(), in("r8") 2 * KEYS,
                    inout("rdi") values.as_ptr() => _, inout("rcx") values.as_ptr().add(16 * stride) => _,
                    in("rdx") 4 * stride,
                    inout("r10") out.as_mut_ptr() => _, in("r11") 4 * cols,
                    inout("rax") cols / COLS => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: there is a unit, or this could not have been made.
        unsafe { crate::gemm::amx_release() };
    }
}
