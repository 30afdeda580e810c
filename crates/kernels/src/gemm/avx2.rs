//! Tile product in 8 f32 lanes: a panel's column is two registers.
//!
//! A strip is up to 4 rows of one panel: 4 × 2 accumulators, 2 weights and a broadcast stay within 16
//! registers. A single row takes all panels of the tile at once and two rows take two, for as many independent FMA
//! chains ([`strips`]). An output is one chain over all columns in order, however many rows there are. FP8 codes are
//! multiplied as f16 numbers that are too small, which `fp8.rs` makes good when it scales the sums.

use fathom_numeric::blocks::BlockFormat;
use std::arch::asm;
use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_cvtepi8_epi16, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi16,
    _mm256_slli_epi32, _mm256_store_si256, _mm256_storeu_ps,
};

use super::{Operand, PANEL, TILE_PANELS, Tile, WeightFormat};

/// Rows that share one pass over a panel.
const ROWS: usize = 4;

/// How far ahead of its use a weight line is prefetched, in bytes.
const AHEAD: usize = 1024;

/// Two columns of half a panel, as f32 lanes; `half` is 0 or 1.
trait Pair {
    /// Bytes of two columns of a panel.
    const BYTES: usize;
    /// Where [`even`](Pair::even) and [`odd`](Pair::odd) find two columns of a panel.
    ///
    /// # Safety
    /// `pair` points at [`Self::BYTES`] readable bytes; the CPU has AVX2.
    #[inline(always)]
    unsafe fn staged(pair: *const u8, _room: &mut Room) -> *const u8 {
        pair
    }
    /// # Safety
    /// `pair` is what [`staged`](Pair::staged) returned; the CPU has AVX2 and F16C.
    unsafe fn even(pair: *const u8, half: usize) -> __m256;
    /// # Safety
    /// As [`Pair::even`].
    unsafe fn odd(pair: *const u8, half: usize) -> __m256;
}

/// Room for two columns of a panel in f16.
#[repr(align(64))]
struct Room([u8; 64]);

struct F32;

impl Pair for F32 {
    const BYTES: usize = 128;
    #[inline(always)]
    unsafe fn even(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract.
        unsafe { _mm256_loadu_ps(pair.add(32 * half).cast()) }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract.
        unsafe { _mm256_loadu_ps(pair.add(64 + 32 * half).cast()) }
    }
}

struct Bf16;

impl Pair for Bf16 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn even(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract. A bf16 is the upper half of an f32.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_loadu_si256(pair.add(32 * half).cast())))
        }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(pair.add(32 * half).cast()), upper))
        }
    }
}

struct F16;

impl Pair for F16 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn even(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract; detection of this ISA includes F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(pair.add(16 * half).cast())) }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(pair.add(32 + 16 * half).cast())) }
    }
}

/// E4M3 codes, as f16 numbers [`MOVED_UP`](super::fp8::MOVED_UP) times too small. They go through memory, because from there
/// `vcvtph2ps` is one instruction for the processor, from a register's upper half three.
struct Fp8;

impl Pair for Fp8 {
    const BYTES: usize = 32;
    #[inline(always)]
    unsafe fn staged(pair: *const u8, room: &mut Room) -> *const u8 {
        let room = room.0.as_mut_ptr();
        // SAFETY: this function's contract; the room is 64 bytes. The assembly has no instruction.
        unsafe {
            for col in 0..2 {
                let words = _mm256_cvtepi8_epi16(_mm_loadu_si128(pair.add(PANEL * col).cast()));
                // The sign goes into all upper bits; bit 14 is the exponent's.
                let words =
                    _mm256_and_si256(_mm256_slli_epi16::<7>(words), _mm256_set1_epi16(0xbfff_u16 as i16));
                _mm256_store_si256(room.add(32 * col).cast(), words);
            }
            asm!("/* {} */", in(reg) room, options(nostack, preserves_flags));
        }
        room
    }
    #[inline(always)]
    unsafe fn even(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract.
        unsafe { F16::even(pair, half) }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract.
        unsafe { F16::odd(pair, half) }
    }
}

pub(super) fn multiply(tile: &Tile<'_>, block: &mut [f32]) {
    let Operand::Floats(x) = tile.x else { unreachable!("halves are for the tile unit") };
    assert!(tile.rows == 0 || (tile.rows - 1) * tile.x_stride + tile.cols <= x.len());
    match tile.format {
        WeightFormat::F32 => by_panels::<F32>(tile, x, block),
        WeightFormat::F16 => by_panels::<F16>(tile, x, block),
        WeightFormat::Bf16 => by_panels::<Bf16>(tile, x, block),
        WeightFormat::Block(BlockFormat::Fp8) => by_panels::<Fp8>(tile, x, block),
        WeightFormat::Block(_) => unreachable!("codes have kernels of their own"),
    }
}

fn by_panels<W: Pair>(tile: &Tile<'_>, x: &[f32], block: &mut [f32]) {
    let end = (tile.first_col + tile.cols) / 2 * W::BYTES;
    assert!(tile.cols.is_multiple_of(2) && tile.first_col.is_multiple_of(2));
    assert!((tile.panels - 1) * tile.panel_bytes + end <= tile.weights.len());
    assert_eq!(block.len(), tile.rows * tile.panels * PANEL);
    for (row, rows, panels) in strips(tile.rows) {
        for first in (0..tile.panels).step_by(panels) {
            let x = x[row * tile.x_stride..].as_ptr();
            let offset = first * tile.panel_bytes + tile.first_col / 2 * W::BYTES;
            let weights = tile.weights[offset..].as_ptr();
            let out = block[(row * tile.panels + first) * PANEL..].as_mut_ptr();
            // SAFETY: the asserts above bound every row of x, every pair of weights and the block; the
            // dispatcher chose this ISA because the CPU has it.
            unsafe {
                match (rows, panels.min(tile.panels - first)) {
                    (1, 1) => strip::<W, 1, 1>(tile, x, weights, out),
                    (1, 2) => strip::<W, 1, 2>(tile, x, weights, out),
                    (1, 3) => strip::<W, 1, 3>(tile, x, weights, out),
                    (1, 4) => strip::<W, 1, 4>(tile, x, weights, out),
                    (2, 1) => strip::<W, 2, 1>(tile, x, weights, out),
                    (2, 2) => strip::<W, 2, 2>(tile, x, weights, out),
                    (3, 1) => strip::<W, 3, 1>(tile, x, weights, out),
                    (ROWS, 1) => strip::<W, ROWS, 1>(tile, x, weights, out),
                    (rows, panels) => unreachable!("{rows} rows of {panels} panels"),
                }
            }
        }
    }
}

/// First row, rows and panels of the strips of so many rows: eight sums, which is what the latency of an FMA
/// wants, or the six of three rows (of two panels twelve, which leaves too few registers).
fn strips(rows: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..rows).step_by(ROWS).map(move |row| match rows - row {
        1 => (row, 1, TILE_PANELS),
        2 => (row, 2, 2),
        3 => (row, 3, 1),
        _ => (row, ROWS, 1),
    })
}

/// `R` rows of `P` panels.
///
/// # Safety
/// `x` has `R` rows of the tile's columns, `weights` `P` panels of its pairs, `out` 16 numbers for each panel of each row; the
/// CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strip<W: Pair, const R: usize, const P: usize>(
    tile: &Tile<'_>,
    x: *const f32,
    weights: *const u8,
    out: *mut f32,
) {
    let out = |row: usize, panel: usize| out.wrapping_add((row * tile.panels + panel) * PANEL);
    let mut sums = [[[_mm256_setzero_ps(); 2]; R]; P];
    for (panel, sums) in sums.iter_mut().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: this function's contract.
            *sums = unsafe { begin(out(row, panel), tile.accumulate) };
        }
    }
    let mut room = Room([0; 64]);
    for pair in 0..tile.cols / 2 {
        // SAFETY: this function's contract.
        let column =
            |row: usize, col: usize| unsafe { _mm256_set1_ps(*x.add(row * tile.x_stride + 2 * pair + col)) };
        // Of a single row once for all panels.
        let single = [column(0, 0), column(0, 1)];
        let column = |row: usize, col: usize| if R == 1 { single[col] } else { column(row, col) };
        for (panel, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `pair` counts the tile's columns; a prefetch may point anywhere.
            unsafe {
                let at = weights.add(panel * tile.panel_bytes + pair * W::BYTES);
                for line in (0..W::BYTES).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + line).cast());
                }
                let at = W::staged(at, &mut room);
                let even = [W::even(at, 0), W::even(at, 1)];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = column(row, 0);
                    *sums = [0, 1].map(|half| _mm256_fmadd_ps(x, even[half], sums[half]));
                }
                let odd = [W::odd(at, 0), W::odd(at, 1)];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = column(row, 1);
                    *sums = [0, 1].map(|half| _mm256_fmadd_ps(x, odd[half], sums[half]));
                }
            }
        }
    }
    for (panel, sums) in sums.iter().enumerate() {
        for (row, sums) in sums.iter().enumerate() {
            for (half, &sum) in sums.iter().enumerate() {
                // SAFETY: this function's contract; a panel is two halves of 8.
                unsafe { _mm256_storeu_ps(out(row, panel).add(8 * half), sum) };
            }
        }
    }
}

/// What a panel's sums begin with: what earlier columns left in the block, or 0.
///
/// # Safety
/// `out` points at 16 numbers; the CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn begin(out: *const f32, accumulate: bool) -> [__m256; 2] {
    if !accumulate {
        return [_mm256_setzero_ps(); 2];
    }
    // SAFETY: this function's contract.
    unsafe { [_mm256_loadu_ps(out), _mm256_loadu_ps(out.add(8))] }
}
