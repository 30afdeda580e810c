//! Rows times an unpacked stretch, six at a time; of 8-bit codes, three.
//!
//! What limits is the number of instructions: a widening `vpmaddwd` and an addition in 32 bits behind each `vpmaddubsw`
//! are half of them. Small codes leave room in 16 bits: a pair of products is at most `2 · 127 · code`, so eight quads
//! of 4-bit codes, four of 5 bits or two of 6 bits are summed there before they are widened ([`group`]). Codes of 8 bits
//! leave none; multiplied as two halves of 4 bits they would take as many instructions.

use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi16, _mm256_add_epi32, _mm256_cvtepi32_ps,
    _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_si256, _mm256_storeu_ps,
};

use super::super::layout::{CHUNK_COLS_MAX, Codes, QUAD_BYTES, QUADS, RUN};
use super::super::{SCALES_MAX, Tile, Unpacked};
use super::{LANES, four_products};
use crate::gemm::PANEL;

/// Rows that share a pass over a panel: their sums in 16 bits, two registers each, leave four of the sixteen.
const STRIP: usize = 6;

/// The same of codes of 8 bits, whose signs take registers too.
const WIDE_STRIP: usize = 3;

pub(crate) fn multiply(tile: &Tile<'_>, first: usize, stretch: &Unpacked<'_>, block: &mut [f32]) {
    let layout = stretch.layout;
    assert!(stretch.cols.is_multiple_of(RUN) && stretch.cols * PANEL <= Unpacked::PANEL_CODES);
    assert!(stretch.codes.len() >= tile.panels * Unpacked::PANEL_CODES);
    assert!(stretch.scales.len().min(stretch.minima.len()) >= tile.panels * SCALES_MAX);
    assert!((QUADS / layout.scales.per_run()).is_multiple_of(group(layout.codes)));
    assert_eq!(block.len(), tile.rows * tile.panels * PANEL);
    let wide = matches!(layout.codes, Codes::Eight | Codes::Table);
    let step = if wide { WIDE_STRIP } else { STRIP };
    for row in (0..tile.rows).step_by(step) {
        let rows = step.min(tile.rows - row);
        let mut strip = Strip { tile, first, row, rows, stretch, block: &mut *block };
        strip.prefetch_next();
        // SAFETY: the asserts above and `Tile::check` bound everything that is read and written.
        unsafe {
            match (layout.codes, rows) {
                (Codes::Eight | Codes::Table, 1) => strip.panels::<1, true, QUADS>(),
                (Codes::Eight | Codes::Table, 2) => strip.panels::<2, true, QUADS>(),
                (Codes::Eight | Codes::Table, _) => strip.panels::<WIDE_STRIP, true, QUADS>(),
                (Codes::Four, _) => strip.narrow::<{ group(Codes::Four) }>(),
                (Codes::Five, _) => strip.narrow::<{ group(Codes::Five) }>(),
                (Codes::Six, _) => strip.narrow::<{ group(Codes::Six) }>(),
            }
        }
    }
}

/// Scales that a stretch has at most.
const SCALES: usize = 2 * CHUNK_COLS_MAX / RUN;

/// `R` rows of activations for one stretch, gathered once for all panels: where they are, a power of two apart, they would
/// drive each other and the panels out of the first-level cache.
#[repr(align(64))]
struct Gathered<const R: usize> {
    codes: [[i8; CHUNK_COLS_MAX]; R],
    /// One for each scale of the weights.
    minus: [[i32; R]; SCALES],
    scale: [[f32; R]; SCALES],
    scaled_sum: [[f32; R]; SCALES],
}

/// A run of codes with offset 128 of both sides of a panel, without the offset, times the quads of `R` rows from quad
/// `first` on.
///
/// # Safety
/// A quad per line may be read from `lines` on, the quads of the rows are in `x`, and the CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn wide_dots<const R: usize>(
    lines: *const u8,
    x: &[[i8; CHUNK_COLS_MAX]; R],
    first: usize,
) -> [[__m256i; R]; 2] {
    let x = x.as_ptr().cast::<i8>().wrapping_add(4 * first);
    let mut dots = [[_mm256_setzero_si256(); R]; 2];
    for q in 0..QUADS {
        for (side, dots) in dots.iter_mut().enumerate() {
            // SAFETY: this function's contract.
            let code = unsafe { _mm256_loadu_si256(lines.add(q * QUAD_BYTES + 32 * side).cast()) };
            for (r, dot) in dots.iter_mut().enumerate() {
                // SAFETY: this function's contract.
                let x = unsafe { x.add(r * CHUNK_COLS_MAX + 4 * q).cast::<i32>().read_unaligned() };
                *dot = _mm256_add_epi32(*dot, four_products::<true>(code, _mm256_set1_epi32(x)));
            }
        }
    }
    dots
}

/// `GROUP` quads of smaller codes of both sides of a panel times those of `R` rows from quad `first` on.
///
/// # Safety
/// As [`wide_dots`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn narrow_dots<const R: usize, const GROUP: usize>(
    lines: *const u8,
    x: &[[i8; CHUNK_COLS_MAX]; R],
    first: usize,
) -> [[__m256i; R]; 2] {
    let x = x.as_ptr().cast::<i8>().wrapping_add(4 * first);
    let mut pairs = [[_mm256_setzero_si256(); R]; 2];
    let [left, right] = &mut pairs;
    for q in 0..GROUP {
        // SAFETY: this function's contract.
        let codes = unsafe {
            let line = lines.add(q * QUAD_BYTES);
            [_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(32).cast())]
        };
        for (r, (left, right)) in left.iter_mut().zip(&mut *right).enumerate() {
            // SAFETY: this function's contract.
            let x = unsafe { x.add(r * CHUNK_COLS_MAX + 4 * q).cast::<i32>().read_unaligned() };
            let x = _mm256_set1_epi32(x);
            *left = add_pairs(*left, codes[0], x);
            *right = add_pairs(*right, codes[1], x);
        }
    }
    for pairs in pairs.as_flattened_mut() {
        *pairs = widen(*pairs);
    }
    pairs
}

/// `sums += (dots + minus) · scale · x_scale`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_scaled<const R: usize>(
    sums: &mut [__m256; R],
    dots: &[__m256i; R],
    scale: __m256,
    minus: &[i32; R],
    x_scale: &[f32; R],
) {
    for r in 0..R {
        let dot = _mm256_cvtepi32_ps(_mm256_add_epi32(dots[r], _mm256_set1_epi32(minus[r])));
        sums[r] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(x_scale[r])), sums[r]);
    }
}

/// Quads whose products are added in 16 bits: `group · 2 · 127 · largest code` is at most 32,767.
const fn group(codes: Codes) -> usize {
    match codes {
        Codes::Four => 8,
        Codes::Five => 4,
        Codes::Six => 2,
        Codes::Eight | Codes::Table => 1,
    }
}

/// Adds the products of a quad, two per 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs(pairs: __m256i, code: __m256i, x: __m256i) -> __m256i {
    _mm256_add_epi16(pairs, _mm256_maddubs_epi16(code, x))
}

/// Four products per lane.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(pairs: __m256i) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// Up to [`STRIP`] rows, from `row` on, times an unpacked stretch that begins at column `first`.
struct Strip<'a> {
    tile: &'a Tile<'a>,
    first: usize,
    row: usize,
    /// At most [`STRIP`].
    rows: usize,
    stretch: &'a Unpacked<'a>,
    block: &'a mut [f32],
}

impl Strip<'_> {
    /// # Safety
    /// Everything is as large as the tile says, codes are not wide, and the CPU has AVX2 and FMA.
    unsafe fn narrow<const GROUP: usize>(&mut self) {
        // SAFETY: this function's contract.
        unsafe {
            match self.rows {
                1 => self.panels::<1, false, GROUP>(),
                2 => self.panels::<2, false, GROUP>(),
                3 => self.panels::<3, false, GROUP>(),
                4 => self.panels::<4, false, GROUP>(),
                5 => self.panels::<5, false, GROUP>(),
                _ => self.panels::<STRIP, false, GROUP>(),
            }
        }
    }

    /// `WIDE`: codes have offset 128. `GROUP`: [`group`] of the others, which divides the quads of a scale.
    ///
    /// # Safety
    /// There are `R` rows, everything is as large as the tile says, and the CPU has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn panels<const R: usize, const WIDE: bool, const GROUP: usize>(&mut self) {
        let x = self.gather::<R, WIDE>();
        for panel in 0..self.tile.panels {
            // SAFETY: this function's contract.
            unsafe {
                match self.stretch.layout.scales.per_run() {
                    1 => self.multiply::<R, WIDE, GROUP, 1>(panel, &x),
                    _ => self.multiply::<R, WIDE, GROUP, 2>(panel, &x),
                }
            }
        }
    }

    /// Rows are far apart, and no hardware guesses where the next ones are.
    fn prefetch_next(&self) {
        let next = self.row + self.rows;
        for row in next..self.tile.rows.min(next + self.rows) {
            let (codes, heads) = self.tile.row(row, self.first);
            let lines = |bytes: &[u8]| {
                for line in bytes.chunks(64) {
                    // SAFETY: a prefetch changes nothing but the cache.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
                }
            };
            lines(bytemuck::cast_slice(&codes[..self.stretch.cols]));
            lines(bytemuck::cast_slice(&heads[..self.stretch.cols / RUN]));
        }
    }

    fn gather<const R: usize, const WIDE: bool>(&self) -> Gathered<R> {
        let layout = self.stretch.layout;
        let (per_run, runs) = (layout.scales.per_run(), self.stretch.cols / RUN);
        let offset = if WIDE { 0 } else { layout.offset() };
        let mut gathered = Gathered {
            codes: [[0; CHUNK_COLS_MAX]; R],
            minus: [[0; R]; SCALES],
            scale: [[0.0; R]; SCALES],
            scaled_sum: [[0.0; R]; SCALES],
        };
        for r in 0..R {
            let (codes, heads) = self.tile.row(self.row + r, self.first);
            let (from, to) = (codes.as_chunks::<RUN>().0, gathered.codes[r].as_chunks_mut::<RUN>().0);
            for (run, ((from, to), head)) in from.iter().zip(to).zip(heads).take(runs).enumerate() {
                *to = *from;
                for half in 0..per_run {
                    let place = run * per_run + half;
                    gathered.minus[place][r] = head.minus(per_run, half) * offset;
                    gathered.scale[place][r] = head.scale;
                    gathered.scaled_sum[place][r] = head.scaled_sum;
                }
            }
        }
        gathered
    }

    /// `HALVES`: scales of a run.
    ///
    /// # Safety
    /// As [`Self::panels`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply<const R: usize, const WIDE: bool, const GROUP: usize, const HALVES: usize>(
        &mut self,
        panel: usize,
        gathered: &Gathered<R>,
    ) {
        let (tile, stretch, quads) = (self.tile, self.stretch, QUADS / HALVES);
        let minimum = stretch.layout.scales.minimum();
        let block = self.block[(self.row * tile.panels + panel) * PANEL..].as_mut_ptr();
        let out = |r: usize, side: usize| block.wrapping_add(r * tile.panels * PANEL + LANES * side);
        // SAFETY: this function's contract.
        unsafe {
            let codes = stretch.codes.as_ptr().add(panel * Unpacked::PANEL_CODES);
            let scales = stretch.scales.as_ptr().add(panel * SCALES_MAX);
            let minima = stretch.minima.as_ptr().add(panel * SCALES_MAX);
            let mut sums = [[_mm256_set1_ps(0.0); R]; 2];
            for (side, sums) in sums.iter_mut().enumerate() {
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(out(r, side));
                }
            }
            for place in 0..stretch.cols / RUN * HALVES {
                let lines = codes.add(place * quads * QUAD_BYTES);
                let first = place * quads;
                let scale = |side: usize| _mm256_loadu_ps(scales.add(place * PANEL + LANES * side));
                let (minus, x_scale) = (&gathered.minus[place], &gathered.scale[place]);
                let dots = if WIDE {
                    wide_dots(lines, &gathered.codes, first)
                } else {
                    let mut dots = narrow_dots::<R, GROUP>(lines, &gathered.codes, first);
                    for group in (GROUP..quads).step_by(GROUP) {
                        let lines = lines.add(group * QUAD_BYTES);
                        let more = narrow_dots::<R, GROUP>(lines, &gathered.codes, first + group);
                        for side in 0..2 {
                            for r in 0..R {
                                dots[side][r] = _mm256_add_epi32(dots[side][r], more[side][r]);
                            }
                        }
                    }
                    dots
                };
                add_scaled(&mut sums[0], &dots[0], scale(0), minus, x_scale);
                add_scaled(&mut sums[1], &dots[1], scale(1), minus, x_scale);
                if minimum && place % HALVES == HALVES - 1 {
                    for (side, sums) in sums.iter_mut().enumerate() {
                        let minimum = _mm256_loadu_ps(minima.add(place / HALVES * PANEL + LANES * side));
                        for (r, sum) in sums.iter_mut().enumerate() {
                            let x = _mm256_set1_ps(gathered.scaled_sum[place][r]);
                            *sum = _mm256_fnmadd_ps(minimum, x, *sum);
                        }
                    }
                }
            }
            for (side, sums) in sums.iter().enumerate() {
                for (r, sum) in sums.iter().enumerate() {
                    _mm256_storeu_ps(out(r, side), *sum);
                }
            }
        }
    }
}
