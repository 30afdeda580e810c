//! 32 × 32 sums in four tiles: bf16 products on the AMX unit.
//!
//! **Roofline** (one core of the Sapphire Rapids class): a step of 32 along the depth is four products of 16
//! cycles and four loads of tiles. The right panel of a block stays in the first-level cache; a left panel
//! comes from the second level, 2 KiB per 64 cycles. Results are 4 KiB per block of the depth, read and written:
//! they are asked for while the products run.
//!
//! Panels are whole tiles, filled with zeroes beyond the matrix ([`layout`](super::layout)). Results that are
//! whole go straight between tiles and `C`; the others, and those with a factor, pass a buffer.

use std::arch::asm;

use super::layout::Layout;
use super::micro::{Block, Tile};
use crate::gemm::{AmxShape, amx_release};

/// Rows of a tile, and its columns of f32.
const SIDE: usize = 16;

/// Lanes of a panel of either side: two tiles.
pub(super) const LANES: usize = 2 * SIDE;

/// Columns whose right panels stay in the second-level cache while all left panels pass the first.
const NEAR_COLS: usize = 512;

/// Steps of the depth that a tile has.
pub(super) const STEP: usize = 32;

/// f32 words of a tile.
pub(super) const TILE_WORDS: usize = SIDE * SIDE;

/// Whether this machine packs and multiplies this way: besides tiles it needs the conversions to bf16.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
}

/// # Safety
/// As [`Block::multiply`]; the layout is that of tiles.
pub(super) unsafe fn multiply(block: &Block, layout: Layout, left: &[f32], right: &[f32]) {
    let [m, n, k] = block.shape;
    if m == 0 || n == 0 {
        return;
    }
    let words = layout.words(k);
    // SAFETY: the CPU has AMX; a tile has 16 rows of 64 bytes.
    unsafe { AmxShape::of([(SIDE, 64); 8]).load() };
    for near in (0..n).step_by(NEAR_COLS) {
        for row in (0..m).step_by(LANES) {
            for col in (near..n.min(near + NEAR_COLS)).step_by(LANES) {
                let tile = Tile {
                    depth: k,
                    left: left.as_ptr().wrapping_add(row * words),
                    right: right.as_ptr().wrapping_add(col * words),
                    c: block.c.wrapping_add(row * block.stride + col),
                    stride: block.stride,
                    rows: LANES.min(m - row),
                    cols: LANES.min(n - col),
                    alpha: block.alpha,
                    accumulate: block.accumulate,
                };
                // SAFETY: this function's contract: panels begin at multiples of their lanes, and rows and
                // columns of the tile are within the block.
                unsafe { tile_product(&tile) };
            }
        }
    }
    // SAFETY: the CPU has AMX.
    unsafe { amx_release() };
}

/// # Safety
/// Panels have the tile's depth, in tiles; the tile's results may be written and nobody else uses them; the
/// CPU has AMX, and the shape of whole tiles is loaded.
unsafe fn tile_product(tile: &Tile) {
    let steps = tile.depth.div_ceil(STEP);
    // SAFETY: this function's contract.
    unsafe {
        if steps > 0 && tile.rows == LANES && tile.cols == LANES && tile.alpha == 1.0 {
            return sums::<true, true>(tile, tile.c, tile.stride, steps, tile.accumulate);
        }
        let mut buffer = Sums([0.0; LANES * LANES]);
        if steps > 0 {
            let out = buffer.0.as_mut_ptr();
            match (tile.rows > SIDE, tile.cols > SIDE) {
                (true, true) => sums::<true, true>(tile, out, LANES, steps, false),
                (true, false) => sums::<true, false>(tile, out, LANES, steps, false),
                (false, true) => sums::<false, true>(tile, out, LANES, steps, false),
                (false, false) => sums::<false, false>(tile, out, LANES, steps, false),
            }
        }
        super::avx512::store_rows(tile, &buffer.0);
    }
}

/// Sums that are not stored where they belong yet.
#[repr(align(64))]
struct Sums([f32; LANES * LANES]);

/// Prefetches 16 lines of 64 bytes behind a register, `$first` bytes on.
macro_rules! prefetch {
    ($instruction:literal, $register:literal: $($offset:literal)+) => {
        concat!($($instruction, " [", $register, "+", $offset, "]\n"),+)
    };
}

/// Two tiles of the right panel after the next.
macro_rules! prefetch_right {
    () => {
        prefetch!("prefetcht0", "rcx": "4096" "4160" "4224" "4288" "4352" "4416" "4480" "4544"
            "4608" "4672" "4736" "4800" "4864" "4928" "4992" "5056"
            "5120" "5184" "5248" "5312" "5376" "5440" "5504" "5568"
            "5632" "5696" "5760" "5824" "5888" "5952" "6016" "6080")
    };
}

/// `LOWER`: rows beyond the first tile; `FURTHER`: columns beyond it.
///
/// # Safety
/// As [`tile_product`], with `steps` > 0; `out` has 16 or 32 rows `stride` apart of 16 or 32 numbers, which
/// may be written.
#[inline(always)]
unsafe fn sums<const LOWER: bool, const FURTHER: bool>(
    tile: &Tile,
    out: *mut f32,
    stride: usize,
    steps: usize,
    accumulate: bool,
) {
    let lower = out.wrapping_add(SIDE * stride);
    // In the templates: rdi left and rcx right tiles; r9, r10 upper and lower sums, r11 their stride in bytes;
    // rax steps left; r12 whether to begin from the old sums; r13 the stride of 64 bytes within a tile.
    macro_rules! product {
        (load [$($load:literal),+] step [$($step:expr),+] store [$($store:literal),+]) => {
            // SAFETY: this function's contract.
            unsafe {
                asm!(
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "test r12, r12", "jz 3f",
                    $($load,)+
                    "3:",
                    $($step,)+
                    "add rdi, 2048", "add rcx, 2048",
                    "dec rax", "jnz 3b",
                    $($store,)+
                    inout("rdi") tile.left => _, inout("rcx") tile.right => _,
                    in("r9") out, in("r10") lower, in("r11") stride * size_of::<f32>(),
                    inout("rax") steps => _, in("r12") usize::from(accumulate), in("r13") 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                )
            }
        };
    }
    match (LOWER, FURTHER) {
        (true, true) => {
            for row in 0..LANES {
                let line = out.wrapping_add(row * stride);
                // SAFETY: prefetching has no effect that a program sees.
                unsafe {
                    asm!("prefetchw [{0}]", "prefetchw [{0} + 64]", in(reg) line,
                        options(nostack, preserves_flags, readonly));
                }
            }
            product!(
                load ["tileloadd tmm0, [r9 + r11]", "tileloadd tmm1, [r9 + r11 + 64]",
                      "tileloadd tmm2, [r10 + r11]", "tileloadd tmm3, [r10 + r11 + 64]"]
                step ["tileloadd tmm6, [rcx + r13]", "tileloadd tmm4, [rdi + r13]",
                      "tdpbf16ps tmm0, tmm4, tmm6",
                      "tileloadd tmm5, [rdi + r13 + 1024]", "tdpbf16ps tmm2, tmm5, tmm6",
                      "tileloadd tmm7, [rcx + r13 + 1024]", "tdpbf16ps tmm1, tmm4, tmm7",
                      prefetch_right!(),
                      "tdpbf16ps tmm3, tmm5, tmm7"]
                store ["tilestored [r9 + r11], tmm0", "tilestored [r9 + r11 + 64], tmm1",
                       "tilestored [r10 + r11], tmm2", "tilestored [r10 + r11 + 64], tmm3"]
            );
        }
        (true, false) => product!(
            load ["tileloadd tmm0, [r9 + r11]", "tileloadd tmm2, [r10 + r11]"]
            step ["tileloadd tmm6, [rcx + r13]", "tileloadd tmm4, [rdi + r13]", "tdpbf16ps tmm0, tmm4, tmm6",
                  "tileloadd tmm5, [rdi + r13 + 1024]", "tdpbf16ps tmm2, tmm5, tmm6"]
            store ["tilestored [r9 + r11], tmm0", "tilestored [r10 + r11], tmm2"]
        ),
        (false, true) => product!(
            load ["tileloadd tmm0, [r9 + r11]", "tileloadd tmm1, [r9 + r11 + 64]"]
            step ["tileloadd tmm4, [rdi + r13]", "tileloadd tmm6, [rcx + r13]", "tdpbf16ps tmm0, tmm4, tmm6",
                  "tileloadd tmm7, [rcx + r13 + 1024]", "tdpbf16ps tmm1, tmm4, tmm7"]
            store ["tilestored [r9 + r11], tmm0", "tilestored [r9 + r11 + 64], tmm1"]
        ),
        (false, false) => product!(
            load ["tileloadd tmm0, [r9 + r11]"]
            step ["tileloadd tmm4, [rdi + r13]", "tileloadd tmm6, [rcx + r13]", "tdpbf16ps tmm0, tmm4, tmm6"]
            store ["tilestored [r9 + r11], tmm0"]
        ),
    }
}
