//! Integer products in 8 lanes of i32 with `vpmaddubsw` and `vpmaddwd`.
//!
//! `vpmaddubsw` adds two products in 16 bits and saturates. Codes of up to 6 bits cannot reach the limit
//! (63 · 127 · 2); with offset 128, one to three rows take codes as magnitudes, and their signs into the activations
//! (128 · 127 · 2), which makes the same integer sum.
//!
//! One to three rows multiply straight from the panels, prefetched 1 KiB ahead: unpacking would write each weight
//! once for every time that it is used. More rows share an unpacked stretch (`avx2/strip.rs`).

mod strip;

use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch, _mm256_abs_epi8,
    _mm256_add_epi32, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_shuffle_epi8,
    _mm256_sign_epi8, _mm256_slli_epi16, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_xor_si256,
};

use super::layout::{Codes, Format, LEVELS, QUAD_BYTES, QUADS, RUN, Scales, with_format};
use super::{SCALES_MAX, Tile, Unpacked};
use crate::gemm::PANEL;
pub(super) use strip::multiply;

/// Lanes of a register, half a panel.
const LANES: usize = PANEL / 2;

/// How far ahead of its use a weight line is prefetched, in bytes.
const AHEAD: usize = 1024;

/// Takes tiles of one to three rows; `false` for others.
pub(super) fn few_rows(tile: &Tile<'_>, block: &mut [f32]) -> bool {
    match tile.rows {
        1..=3 => with_format!(tile.format, F => by_panels::<F>(tile, block)),
        _ => return false,
    }
    true
}

fn by_panels<F: Format>(tile: &Tile<'_>, block: &mut [f32]) {
    // One row: two panels as parallel streams. More rows fill the registers with one.
    let step = if tile.rows == 1 { 2 } else { 1 };
    let mut panel = 0;
    while panel < tile.panels {
        let out = block[panel * PANEL..].as_mut_ptr();
        let panels = step.min(tile.panels - panel);
        // SAFETY: `Tile::check` bounded the rows of x, the chunks and the block; the dispatcher chose this ISA
        // because the CPU has it.
        unsafe {
            match (tile.rows, panels) {
                (1, 1) => rows::<F, 1, 1>(tile, panel, out),
                (1, _) => rows::<F, 2, 1>(tile, panel, out),
                (2, _) => rows::<F, 1, 2>(tile, panel, out),
                _ => rows::<F, 1, 3>(tile, panel, out),
            }
        }
        panel += panels;
    }
}

/// `R` rows times `P` panels from `panel` on.
///
/// # Safety
/// The tile has been checked; `out` is at the first row's block of `panel`; the CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<F: Format, const P: usize, const R: usize>(tile: &Tile<'_>, panel: usize, out: *mut f32) {
    let (chunk_cols, per_run) = (F::SCALES.chunk_cols(), F::SCALES.per_run());
    let wide = F::OFFSET_LOG2 == Some(7);
    let quads = QUADS / per_run;
    let mut sums = [[[_mm256_set1_ps(0.0); 2]; P]; R];
    for chunk in 0..tile.cols / chunk_cols {
        let chunk_at = panel * tile.panel_bytes + chunk * F::LAYOUT.chunk_bytes();
        for run in 0..chunk_cols / RUN {
            let col = chunk * chunk_cols + run * RUN;
            // SAFETY: `Tile::check`; prefetches may point anywhere.
            unsafe {
                let at = |p: usize| tile.weights.as_ptr().add(chunk_at + p * tile.panel_bytes);
                let run_at = |p: usize| at(p).add(F::SCALES.bytes() + run * F::CODES.run_bytes());
                let x = |r: usize| tile.x.codes.as_ptr().add(r * tile.x.stride + col);
                let head = |r: usize| &*tile.x.heads.as_ptr().add((r * tile.x.stride + col) / RUN);
                for p in 0..P {
                    for line in 0..F::CODES.run_bytes() / 64 {
                        _mm_prefetch::<_MM_HINT_T0>(run_at(p).wrapping_add(AHEAD + 64 * line).cast());
                    }
                }
                for half in 0..per_run {
                    let mut dots = [[[_mm256_set1_epi32(0); 2]; P]; R];
                    if !wide {
                        for (r, dots) in dots.iter_mut().enumerate() {
                            let minus = head(r).minus(per_run, half) * F::LAYOUT.offset();
                            *dots = [[_mm256_set1_epi32(minus); 2]; P];
                        }
                    }
                    for q in half * quads..(half + 1) * quads {
                        for (p, side) in sides::<P>() {
                            let code = quad::<F>(run_at(p).add(32 * side), q);
                            for (r, dots) in dots.iter_mut().enumerate() {
                                let x = x(r).add(4 * q).cast::<i32>().read_unaligned();
                                let x = _mm256_set1_epi32(x);
                                let four = if wide {
                                    four_products::<true>(code, x)
                                } else {
                                    four_products::<false>(code, x)
                                };
                                dots[p][side] = _mm256_add_epi32(dots[p][side], four);
                            }
                        }
                    }
                    for (p, side) in sides::<P>() {
                        let scale = scale::<F>(at(p), run, half, side);
                        for r in 0..R {
                            let scale = _mm256_mul_ps(scale, _mm256_set1_ps(head(r).scale));
                            let dot = _mm256_cvtepi32_ps(dots[r][p][side]);
                            sums[r][p][side] = _mm256_fmadd_ps(dot, scale, sums[r][p][side]);
                        }
                    }
                }
                if F::SCALES.minimum() {
                    for (p, side) in sides::<P>() {
                        let minimum = minimum::<F>(at(p), run, side);
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm256_set1_ps(head(r).scaled_sum);
                            sums[p][side] = _mm256_fnmadd_ps(minimum, x, sums[p][side]);
                        }
                    }
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (p, side) in sides::<P>() {
            // SAFETY: rows of the block are `panels · 16` apart.
            unsafe { _mm256_storeu_ps(out.add((r * tile.panels + p) * PANEL + LANES * side), sums[p][side]) };
        }
    }
}

/// The halves of `P` panels.
#[inline(always)]
fn sides<const P: usize>() -> impl Iterator<Item = (usize, usize)> {
    (0..P).flat_map(|p| [(p, 0), (p, 1)])
}

pub(super) fn unpack(tile: &Tile<'_>, first: usize, stretch: &mut Unpacked<'_>) {
    // SAFETY: the dispatcher chose this ISA because the CPU has it.
    with_format!(tile.format, F => unsafe { unpack_format::<F>(tile, first, stretch) });
}

/// # Safety
/// The CPU has AVX2 and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack_format<F: Format>(tile: &Tile<'_>, first: usize, stretch: &mut Unpacked<'_>) {
    let (chunk_cols, per_run) = (F::SCALES.chunk_cols(), F::SCALES.per_run());
    for panel in 0..tile.panels {
        let codes = &mut stretch.codes[panel * Unpacked::PANEL_CODES..][..stretch.cols * PANEL];
        let runs = stretch.cols / RUN;
        let scales = &mut stretch.scales[panel * SCALES_MAX..][..runs * per_run * PANEL];
        let minima = &mut stretch.minima[panel * SCALES_MAX..][..runs * PANEL];
        for run in 0..runs {
            let chunk = tile.chunk(panel, first + run * RUN / chunk_cols * chunk_cols);
            assert_eq!(chunk.len(), F::LAYOUT.chunk_bytes());
            let within = run % (chunk_cols / RUN);
            let codes = &mut codes[run * QUADS * QUAD_BYTES..][..QUADS * QUAD_BYTES];
            for side in 0..2 {
                // SAFETY: the run lies in the chunk just measured; the slices have 8 lines of two
                // registers, `per_run` and one panel of 16 numbers.
                unsafe {
                    let at =
                        chunk.as_ptr().add(F::SCALES.bytes() + within * F::CODES.run_bytes() + 32 * side);
                    // A prefetch may point anywhere. Without it, waiting here is half of a prompt's time.
                    for line in 0..F::CODES.run_bytes() / 64 * (1 - side) {
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + 64 * line).cast());
                    }
                    for q in 0..QUADS {
                        let out = codes.as_mut_ptr().add(q * QUAD_BYTES + 32 * side);
                        _mm256_storeu_si256(out.cast(), quad::<F>(at, q));
                    }
                    for half in 0..per_run {
                        let out = &mut scales[(run * per_run + half) * PANEL + LANES * side..][..LANES];
                        _mm256_storeu_ps(out.as_mut_ptr(), scale::<F>(chunk.as_ptr(), within, half, side));
                    }
                    if F::SCALES.minimum() {
                        let out = &mut minima[run * PANEL + LANES * side..][..LANES];
                        _mm256_storeu_ps(out.as_mut_ptr(), minimum::<F>(chunk.as_ptr(), within, side));
                    }
                }
            }
        }
    }
}

/// Half a quad as unsigned bytes; `run` is at that half of a run's first line.
///
/// # Safety
/// The lines of the run may be read; the CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn quad<F: Format>(run: *const u8, q: usize) -> __m256i {
    // SAFETY: this function's contract: lines below `run_bytes`.
    let line = |index: usize| unsafe { _mm256_loadu_si256(run.add(index * QUAD_BYTES).cast()) };
    let bits = |value: u8| _mm256_set1_epi8(value as i8);
    let lower = |q: usize| match q {
        0..4 => _mm256_and_si256(line(q), bits(15)),
        _ => _mm256_and_si256(_mm256_srli_epi16::<4>(line(q - 4)), bits(15)),
    };
    match F::CODES {
        Codes::Eight => line(q),
        Codes::Four => lower(q),
        Codes::Table => {
            // SAFETY: the table is 16 bytes.
            let levels = unsafe { _mm_loadu_si128(LEVELS.as_ptr().cast()) };
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), lower(q))
        }
        Codes::Five => {
            let bit = _mm256_and_si256(line(4), bits(1 << q));
            let bit = match q {
                0 => _mm256_slli_epi16::<4>(bit),
                1 => _mm256_slli_epi16::<3>(bit),
                2 => _mm256_slli_epi16::<2>(bit),
                3 => _mm256_slli_epi16::<1>(bit),
                4 => bit,
                5 => _mm256_srli_epi16::<1>(bit),
                6 => _mm256_srli_epi16::<2>(bit),
                _ => _mm256_srli_epi16::<3>(bit),
            };
            _mm256_or_si256(lower(q), bit)
        }
        Codes::Six => {
            let two = _mm256_and_si256(line(4 + q / 4), bits(3 << (2 * (q % 4))));
            let two = match q % 4 {
                0 => _mm256_slli_epi16::<4>(two),
                1 => _mm256_slli_epi16::<2>(two),
                2 => two,
                _ => _mm256_srli_epi16::<2>(two),
            };
            _mm256_or_si256(lower(q), two)
        }
    }
}

/// Scales of 8 rows.
///
/// # Safety
/// `chunk` points at a chunk; the CPU has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scale<F: Format>(chunk: *const u8, run: usize, half: usize, side: usize) -> __m256 {
    // SAFETY: this function's contract: every place is within the scales of the chunk.
    unsafe {
        let halves =
            |index: usize| _mm256_cvtph_ps(_mm_loadu_si128(chunk.add(32 * index + 2 * LANES * side).cast()));
        let bytes = |index: usize| _mm_loadl_epi64(chunk.add(64 + PANEL * index + LANES * side).cast());
        let signed = |index| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes(index)));
        match F::SCALES {
            Scales::Group(group) => halves(run * RUN / group),
            Scales::RunAndMinimum => halves(0),
            Scales::Super => _mm256_mul_ps(halves(0), signed(run)),
            Scales::SuperHalves => _mm256_mul_ps(halves(0), signed(2 * run + half)),
            Scales::SuperAndMinimum => {
                _mm256_mul_ps(halves(0), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes(2 * run))))
            }
        }
    }
}

/// Minima of 8 rows.
///
/// # Safety
/// As [`scale`], of a format with minima.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn minimum<F: Format>(chunk: *const u8, run: usize, side: usize) -> __m256 {
    // SAFETY: this function's contract.
    unsafe {
        let minimum = _mm256_cvtph_ps(_mm_loadu_si128(chunk.add(32 + 2 * LANES * side).cast()));
        match F::SCALES {
            Scales::SuperAndMinimum => {
                let six = _mm_loadl_epi64(chunk.add(64 + PANEL * (2 * run + 1) + LANES * side).cast());
                _mm256_mul_ps(minimum, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(six)))
            }
            _ => minimum,
        }
    }
}

/// Four products per lane; with offset 128 the codes' signs move to `x`.
#[inline]
#[target_feature(enable = "avx2")]
fn four_products<const WIDE: bool>(code: __m256i, x: __m256i) -> __m256i {
    let pairs = if WIDE {
        let signed = _mm256_xor_si256(code, _mm256_set1_epi8(-128));
        _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed))
    } else {
        _mm256_maddubs_epi16(code, x)
    };
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}
