//! Tile product in 8 f32 lanes: a panel's column is two registers.
//!
//! Panels one after another, up to 4 rows at a time: 4 × 2 accumulators, 2 weights and a
//! broadcast stay within 16 registers. A single row takes all panels of the tile at once, for eight
//! independent FMA chains. An output is one chain over all columns in order, however many rows there are.

use fathom_numeric::blocks::BlockFormat;
use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_and_si128, _mm_cvtepi8_epi16, _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch,
    _mm_set1_epi16, _mm_slli_epi16, _mm256_and_si256, _mm256_castsi256_ps, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::{Operand, PANEL, Tile, WeightFormat};

/// Rows that share one pass over a panel.
const ROWS: usize = 4;

/// How far ahead of its use a weight line is prefetched, in bytes.
const AHEAD: usize = 1024;

/// Two columns of half a panel, as f32 lanes; `half` is 0 or 1.
trait Pair {
    /// Bytes of two columns of a panel.
    const BYTES: usize;
    /// # Safety
    /// `pair` points at [`Self::BYTES`] readable bytes; the CPU has AVX2 and F16C.
    unsafe fn even(pair: *const u8, half: usize) -> __m256;
    /// # Safety
    /// As [`Pair::even`].
    unsafe fn odd(pair: *const u8, half: usize) -> __m256;
}

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

/// E4M3 codes. Moved up by 7 bits they are f16 numbers 2⁸ times too small, subnormal ones included.
struct Fp8;

impl Fp8 {
    /// # Safety
    /// `codes` points at 8 readable bytes; the CPU has AVX2 and F16C.
    #[inline(always)]
    unsafe fn eight(codes: *const u8) -> __m256 {
        // SAFETY: this function's contract.
        unsafe {
            let words = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(_mm_loadl_epi64(codes.cast())));
            // The sign was copied into all upper bits; bit 14 is the exponent's.
            let words = _mm_and_si128(words, _mm_set1_epi16(0xbfff_u16 as i16));
            _mm256_mul_ps(_mm256_cvtph_ps(words), _mm256_set1_ps(256.0))
        }
    }
}

impl Pair for Fp8 {
    const BYTES: usize = 32;
    #[inline(always)]
    unsafe fn even(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract.
        unsafe { Self::eight(pair.add(8 * half)) }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8, half: usize) -> __m256 {
        // SAFETY: this function's contract.
        unsafe { Self::eight(pair.add(16 + 8 * half)) }
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
    let single = if tile.rows % ROWS == 1 { Some(tile.rows - 1) } else { None };
    // SAFETY: the asserts above bound every row of x, every pair of weights and the block; the
    // dispatcher chose this ISA because the CPU has it.
    unsafe {
        for panel in 0..tile.panels {
            let weights = tile.weights[panel * tile.panel_bytes + tile.first_col / 2 * W::BYTES..].as_ptr();
            for row in (0..single.unwrap_or(tile.rows)).step_by(ROWS) {
                let x = x[row * tile.x_stride..].as_ptr();
                let out = block[(row * tile.panels + panel) * PANEL..].as_mut_ptr();
                match tile.rows - row {
                    2 => some_rows::<W, 2>(tile, x, weights, out),
                    3 => some_rows::<W, 3>(tile, x, weights, out),
                    _ => some_rows::<W, ROWS>(tile, x, weights, out),
                }
            }
        }
        if let Some(row) = single {
            let x = x[row * tile.x_stride..].as_ptr();
            let weights = tile.weights[tile.first_col / 2 * W::BYTES..].as_ptr();
            let out = block[row * tile.panels * PANEL..].as_mut_ptr();
            match tile.panels {
                1 => one_row::<W, 1>(tile, x, weights, out),
                2 => one_row::<W, 2>(tile, x, weights, out),
                3 => one_row::<W, 3>(tile, x, weights, out),
                4 => one_row::<W, 4>(tile, x, weights, out),
                other => unreachable!("a tile has 1 to 4 panels, not {other}"),
            }
        }
    }
}

/// # Safety
/// `x` has the tile's columns, `weights` `P` panels of its pairs, `out` 16 numbers for each; the CPU has AVX2
/// and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn one_row<W: Pair, const P: usize>(
    tile: &Tile<'_>,
    x: *const f32,
    weights: *const u8,
    out: *mut f32,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; P];
    for (p, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the block has P panels of 16.
        *sums = unsafe { begin(out.add(p * PANEL), tile.accumulate) };
    }
    for pair in 0..tile.cols / 2 {
        // SAFETY: `pair` counts the tile's columns; a prefetch may point anywhere.
        unsafe {
            let (x_even, x_odd) = (_mm256_set1_ps(*x.add(2 * pair)), _mm256_set1_ps(*x.add(2 * pair + 1)));
            for (p, sums) in sums.iter_mut().enumerate() {
                let at = weights.add(p * tile.panel_bytes + pair * W::BYTES);
                for line in (0..W::BYTES).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + line).cast());
                }
                for (half, sum) in sums.iter_mut().enumerate() {
                    let even = _mm256_fmadd_ps(x_even, W::even(at, half), *sum);
                    *sum = _mm256_fmadd_ps(x_odd, W::odd(at, half), even);
                }
            }
        }
    }
    for (p, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            // SAFETY: the block has P panels of two halves of 8.
            unsafe { _mm256_storeu_ps(out.add(p * PANEL + 8 * half), sum) };
        }
    }
}

/// # Safety
/// As [`one_row`] for one panel and `R` rows of `x` and `out`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some_rows<W: Pair, const R: usize>(
    tile: &Tile<'_>,
    x: *const f32,
    weights: *const u8,
    out: *mut f32,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: rows of the block are `panels · 16` apart.
        *sums = unsafe { begin(out.add(row * tile.panels * PANEL), tile.accumulate) };
    }
    for pair in 0..tile.cols / 2 {
        // SAFETY: `pair` counts the tile's columns, rows are below R; a prefetch may point
        // anywhere.
        unsafe {
            let at = weights.add(pair * W::BYTES);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            let even = [W::even(at, 0), W::even(at, 1)];
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*x.add(row * tile.x_stride + 2 * pair));
                for half in 0..2 {
                    sums[half] = _mm256_fmadd_ps(x, even[half], sums[half]);
                }
            }
            let odd = [W::odd(at, 0), W::odd(at, 1)];
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*x.add(row * tile.x_stride + 2 * pair + 1));
                for half in 0..2 {
                    sums[half] = _mm256_fmadd_ps(x, odd[half], sums[half]);
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            // SAFETY: rows of the block are `panels · 16` apart.
            unsafe { _mm256_storeu_ps(out.add(row * tile.panels * PANEL + 8 * half), sum) };
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
