//! Tile product in 16 f32 lanes: a panel's column is one register.
//!
//! One row (decode): 4 streams of weights, every cache line read once and prefetched 1 KiB ahead.
//! Several rows: up to 6 × 4 accumulators, each decoded weight register used for all of them. An
//! output is one chain of FMAs over all columns in order, however many rows there are.

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_and_si512, _mm512_castsi512_ps,
    _mm512_castsi512_si256, _mm512_cvtepi8_epi16, _mm512_cvtph_ps, _mm512_extracti64x4_epi64,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi16, _mm512_slli_epi32,
    _mm512_storeu_ps,
};

use fathom_numeric::blocks::BlockFormat;

use super::{Operand, PANEL, Tile, WeightFormat};

/// Rows that share one pass over the weights: 6 × 4 accumulators, 4 weights and a broadcast fill
/// the 32 registers.
const ROWS: usize = 6;

/// How far ahead of its use a weight line is prefetched, in bytes.
const AHEAD: usize = 1024;

/// Two columns of one panel, as f32 lanes.
trait Pair {
    /// Bytes of two columns of a panel.
    const BYTES: usize;
    /// # Safety
    /// `pair` points at [`Self::BYTES`] readable bytes; the CPU has AVX-512 F.
    unsafe fn even(pair: *const u8) -> __m512;
    /// # Safety
    /// As [`Pair::even`].
    unsafe fn odd(pair: *const u8) -> __m512;
    /// Both at once.
    ///
    /// # Safety
    /// As [`Pair::even`].
    #[inline(always)]
    unsafe fn both(pair: *const u8) -> [__m512; 2] {
        // SAFETY: this function's contract.
        unsafe { [Self::even(pair), Self::odd(pair)] }
    }
}

struct F32;

impl Pair for F32 {
    const BYTES: usize = 128;
    #[inline(always)]
    unsafe fn even(pair: *const u8) -> __m512 {
        // SAFETY: this function's contract.
        unsafe { _mm512_loadu_ps(pair.cast()) }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8) -> __m512 {
        // SAFETY: this function's contract.
        unsafe { _mm512_loadu_ps(pair.add(64).cast()) }
    }
}

struct Bf16;

impl Pair for Bf16 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn even(pair: *const u8) -> __m512 {
        // SAFETY: this function's contract. A bf16 is the upper half of an f32.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(pair.cast()))) }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8) -> __m512 {
        // SAFETY: this function's contract.
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pair.cast()), upper))
        }
    }
}

struct F16;

impl Pair for F16 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn even(pair: *const u8) -> __m512 {
        // SAFETY: this function's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(pair.cast())) }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8) -> __m512 {
        // SAFETY: this function's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(pair.add(32).cast())) }
    }
}

/// E4M3 codes. Moved up by 7 bits they are f16 numbers 2⁸ times too small, subnormal ones included.
struct Fp8;

impl Pair for Fp8 {
    const BYTES: usize = 32;
    #[inline(always)]
    unsafe fn even(pair: *const u8) -> __m512 {
        // SAFETY: this function's contract.
        unsafe { Self::both(pair)[0] }
    }
    #[inline(always)]
    unsafe fn odd(pair: *const u8) -> __m512 {
        // SAFETY: this function's contract.
        unsafe { Self::both(pair)[1] }
    }
    #[inline(always)]
    unsafe fn both(pair: *const u8) -> [__m512; 2] {
        // SAFETY: this function's contract.
        unsafe {
            let words = _mm512_cvtepi8_epi16(_mm256_loadu_si256(pair.cast()));
            // The sign was copied into all upper bits; bit 14 is the exponent's.
            let words = _mm512_and_si512(_mm512_slli_epi16::<7>(words), _mm512_set1_epi16(0xbfff_u16 as i16));
            let up = _mm512_set1_ps(256.0);
            let even = _mm512_cvtph_ps(_mm512_castsi512_si256(words));
            let odd = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(words));
            [_mm512_mul_ps(even, up), _mm512_mul_ps(odd, up)]
        }
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
    // SAFETY: the asserts above bound every row of x, every pair of weights and the block; the
    // dispatcher chose this ISA because the CPU has it.
    unsafe {
        match tile.panels {
            1 => by_rows::<W, 1>(tile, x, block),
            2 => by_rows::<W, 2>(tile, x, block),
            3 => by_rows::<W, 3>(tile, x, block),
            4 => by_rows::<W, 4>(tile, x, block),
            other => unreachable!("a tile has 1 to 4 panels, not {other}"),
        }
    }
}

/// # Safety
/// `x`, the weights and `block` must be as large as the tile says; the CPU has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn by_rows<W: Pair, const P: usize>(tile: &Tile<'_>, x: &[f32], block: &mut [f32]) {
    let weights = tile.weights[tile.first_col / 2 * W::BYTES..].as_ptr();
    let mut row = 0;
    while row < tile.rows {
        let rows = ROWS.min(tile.rows - row);
        let x = x[row * tile.x_stride..].as_ptr();
        let out = block[row * P * PANEL..].as_mut_ptr();
        // SAFETY: this function's contract; `row + rows` stays within the tile.
        unsafe {
            match rows {
                1 => one_row::<W, P>(tile, x, weights, out),
                2 => some_rows::<W, P, 2>(tile, x, weights, out),
                3 => some_rows::<W, P, 3>(tile, x, weights, out),
                4 => some_rows::<W, P, 4>(tile, x, weights, out),
                5 => some_rows::<W, P, 5>(tile, x, weights, out),
                _ => some_rows::<W, P, ROWS>(tile, x, weights, out),
            }
        }
        row += rows;
    }
}

/// # Safety
/// As [`by_rows`], with `x`, `weights` and `out` at the first row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn one_row<W: Pair, const P: usize>(
    tile: &Tile<'_>,
    x: *const f32,
    weights: *const u8,
    out: *mut f32,
) {
    // SAFETY: the block has P panels of 16.
    let mut sums = unsafe { begin::<P>(out, tile.accumulate) };
    for pair in 0..tile.cols / 2 {
        // SAFETY: `pair` counts the tile's columns; a prefetch may point anywhere.
        unsafe {
            let (x_even, x_odd) = (_mm512_set1_ps(*x.add(2 * pair)), _mm512_set1_ps(*x.add(2 * pair + 1)));
            for (p, sum) in sums.iter_mut().enumerate() {
                let at = weights.add(p * tile.panel_bytes + pair * W::BYTES);
                for line in (0..W::BYTES).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + line).cast());
                }
                let [w_even, w_odd] = W::both(at);
                *sum = _mm512_fmadd_ps(x_odd, w_odd, _mm512_fmadd_ps(x_even, w_even, *sum));
            }
        }
    }
    for (p, &sum) in sums.iter().enumerate() {
        // SAFETY: the block has P panels of 16.
        unsafe { _mm512_storeu_ps(out.add(p * PANEL), sum) };
    }
}

/// # Safety
/// As [`by_rows`], with `x`, `weights` and `out` at the first of `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn some_rows<W: Pair, const P: usize, const R: usize>(
    tile: &Tile<'_>,
    x: *const f32,
    weights: *const u8,
    out: *mut f32,
) {
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the block has R rows of P panels.
        *sums = unsafe { begin::<P>(out.add(row * P * PANEL), tile.accumulate) };
    }
    for pair in 0..tile.cols / 2 {
        let at = |p: usize| weights.wrapping_add(p * tile.panel_bytes + pair * W::BYTES);
        let x_at = |row: usize, col: usize| x.wrapping_add(row * tile.x_stride + 2 * pair + col);
        // SAFETY: `pair` counts the tile's columns, rows are below R; a prefetch may point
        // anywhere. Even columns first, then odd ones: decoding both at once needs more than
        // the 32 registers.
        unsafe {
            let mut w = [_mm512_setzero_ps(); P];
            for (p, w) in w.iter_mut().enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(at(p).wrapping_add(AHEAD).cast());
                *w = W::even(at(p));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x_at(row, 0));
                for p in 0..P {
                    sums[p] = _mm512_fmadd_ps(x, w[p], sums[p]);
                }
            }
            for (p, w) in w.iter_mut().enumerate() {
                *w = W::odd(at(p));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x_at(row, 1));
                for p in 0..P {
                    sums[p] = _mm512_fmadd_ps(x, w[p], sums[p]);
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (p, &sum) in sums.iter().enumerate() {
            // SAFETY: the block has R rows of P panels.
            unsafe { _mm512_storeu_ps(out.add((row * P + p) * PANEL), sum) };
        }
    }
}

/// What a row's sums begin with: what earlier columns left in the block, or 0.
///
/// # Safety
/// `out` points at `P` panels of 16 numbers; the CPU has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn begin<const P: usize>(out: *const f32, accumulate: bool) -> [__m512; P] {
    let mut sums = [_mm512_setzero_ps(); P];
    if accumulate {
        for (p, sum) in sums.iter_mut().enumerate() {
            // SAFETY: this function's contract.
            *sum = unsafe { _mm512_loadu_ps(out.add(p * PANEL)) };
        }
    }
    sums
}
