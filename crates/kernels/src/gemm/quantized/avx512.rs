//! Integer products in 16 lanes of i32 with `vpdpbusd`: four products per lane and instruction.
//!
//! Few rows, and on Zen 4 all, of most formats: up to 8 at a time straight from the panel, which is
//! read once and stays near for the next 8. Many: 3 rows by 4 panels, 12 integer and 12 float sums; a stretch of 4
//! panels over 256 columns stays in the first-level cache.

use std::arch::x86_64::{
    __m512, __m512i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm256_loadu_si256, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_epi8, _mm512_sll_epi32, _mm512_slli_epi16, _mm512_srli_epi16, _mm512_storeu_ps,
    _mm512_storeu_si512,
};

use super::layout::{Codes, Format, LEVELS, Layout, QUAD_BYTES, QUADS, RUN, Scales, with_format};
use super::{SCALES_MAX, Tile, Unpacked, fetch_share};
use crate::gemm::PANEL;
use crate::gemm::reading::Reading;

/// Rows up to which a panel is not unpacked where a run has two scales: 6 rows at a time decode it too often.
const FEW_ROWS: usize = 32;

/// Rows that are multiplied at a time straight from the panel: 8 integer and 8 float sums fit the registers
/// beside what decoding takes; with two scales to a run, 6 and 6.
const fn rows_at_a_time(per_run: usize) -> usize {
    if per_run == 1 { 8 } else { 6 }
}

/// Quads that a row is multiplied by at a time: loads of two rows at the same column would meet in one bank of the
/// first-level cache, loads of one row's next quads share a line.
const SIDE_BY_SIDE: usize = 4;

/// Rows of a strip of the unpacked product.
const STRIP: usize = 3;

/// Whether the CPU has the instruction (the first generation of AVX-512 does not).
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

/// `false` if there are too many rows: unpacking is then worth its while.
pub(super) fn few_rows(tile: &Tile<'_>, block: &mut [f32]) -> bool {
    let one = Layout::of(tile.format).scales.per_run() == 1;
    if tile.rows > if one { Reading::here().straight } else { FEW_ROWS } {
        return false;
    }
    with_format!(tile.format, F => by_panels::<F>(tile, block));
    true
}

fn by_panels<F: Format>(tile: &Tile<'_>, block: &mut [f32]) {
    let reading = Reading::here();
    let ([one, some], ahead) = (reading.streams, reading.ahead(tile.rows == 1 && F::CODES.in_order()));
    let streams = match tile.rows {
        1 => one,
        2..=4 => some,
        _ => 1,
    };
    let each = tile.rows.div_ceil(tile.rows.div_ceil(rows_at_a_time(F::SCALES.per_run())));
    let mut panel = 0;
    while panel < tile.panels {
        // What is left over goes panel by panel: every pair of numbers here is made for every format.
        let panels = if tile.panels - panel >= streams { streams } else { 1 };
        for row in (0..tile.rows).step_by(each) {
            let out = block[(row * tile.panels + panel) * PANEL..].as_mut_ptr();
            let few = Few { tile, panel, row, out, ahead };
            // SAFETY: `Tile::check` bounded the rows of x, the chunks and the block; `available` said that
            // the CPU has the instructions.
            unsafe {
                match (each.min(tile.rows - row), panels) {
                    (1, 1) => few.multiply::<F, 1, 1>(),
                    (1, _) => few.multiply::<F, 4, 1>(),
                    (2, 1) => few.multiply::<F, 1, 2>(),
                    (2, _) => few.multiply::<F, 2, 2>(),
                    (3, 1) => few.multiply::<F, 1, 3>(),
                    (3, _) => few.multiply::<F, 2, 3>(),
                    (4, 1) => few.multiply::<F, 1, 4>(),
                    (4, _) => few.multiply::<F, 2, 4>(),
                    (5, _) => few.multiply::<F, 1, 5>(),
                    (6, _) => few.multiply::<F, 1, 6>(),
                    (7, _) => few.multiply::<F, 1, 7>(),
                    (8, _) => few.multiply::<F, 1, 8>(),
                    (other, _) => unreachable!("{other} rows at a time"),
                }
            }
        }
        panel += panels;
    }
}

/// Some rows from `row` on times some panels from `panel` on.
struct Few<'a> {
    tile: &'a Tile<'a>,
    panel: usize,
    row: usize,
    /// The block of `row` and `panel`.
    out: *mut f32,
    ahead: usize,
}

impl Few<'_> {
    /// `R` rows times `P` panels.
    ///
    /// # Safety
    /// The tile has been checked and has so many; the CPU has AVX-512 VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn multiply<F: Format, const P: usize, const R: usize>(&self) {
        let &Few { tile, panel, row, out, ahead } = self;
        let (chunk_cols, per_run) = (F::SCALES.chunk_cols(), F::SCALES.per_run());
        let quads = QUADS / per_run;
        // Panels side by side are read line by line, as they were measured.
        let at_once = if P == 1 { SIDE_BY_SIDE } else { 1 };
        let weights = tile.weights.as_ptr();
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        for chunk in 0..tile.cols / chunk_cols {
            let chunk_at = (panel * tile.panel_bytes) + chunk * F::LAYOUT.chunk_bytes();
            for run in 0..chunk_cols / RUN {
                let col = chunk * chunk_cols + run * RUN;
                // SAFETY: `Tile::check`.
                unsafe {
                    let at = |p: usize| weights.add(chunk_at + p * tile.panel_bytes);
                    let run_at = |p: usize| at(p).add(F::SCALES.bytes() + run * F::CODES.run_bytes());
                    let x = |r: usize| tile.x.codes.as_ptr().add((row + r) * tile.x.stride + col);
                    let head =
                        |r: usize| &*tile.x.heads.as_ptr().add(((row + r) * tile.x.stride + col) / RUN);
                    for half in 0..per_run {
                        let shift = _mm_cvtsi32_si128(F::OFFSET_LOG2.map_or(32, |log2| log2 as i32));
                        let mut dots = [[_mm512_set1_epi32(0); P]; R];
                        for (r, dots) in dots.iter_mut().enumerate() {
                            *dots =
                                [_mm512_sll_epi32(_mm512_set1_epi32(head(r).minus(per_run, half)), shift); P];
                        }
                        for q in (half * quads..(half + 1) * quads).step_by(at_once) {
                            for p in 0..P {
                                let mut codes = [_mm512_set1_epi32(0); SIDE_BY_SIDE];
                                for (i, codes) in codes[..at_once].iter_mut().enumerate() {
                                    fetch_share::<F, P>(at(p).wrapping_add(ahead), run, q + i);
                                    *codes = quad::<F>(run_at(p), q + i);
                                }
                                for (r, dots) in dots.iter_mut().enumerate() {
                                    for (i, codes) in codes[..at_once].iter().enumerate() {
                                        let x = four(x(r).add(4 * (q + i)));
                                        dots[p] = _mm512_dpbusd_epi32(dots[p], *codes, x);
                                    }
                                }
                            }
                        }
                        for p in 0..P {
                            let scale = scale::<F>(at(p), run, half);
                            for r in 0..R {
                                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(head(r).scale));
                                sums[r][p] =
                                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][p]), scale, sums[r][p]);
                            }
                        }
                    }
                    if F::SCALES.minimum() {
                        for p in 0..P {
                            let minimum = minimum::<F>(at(p), run);
                            for (r, sums) in sums.iter_mut().enumerate() {
                                let x = _mm512_set1_ps(head(r).scaled_sum);
                                sums[p] = _mm512_fnmadd_ps(minimum, x, sums[p]);
                            }
                        }
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                // SAFETY: rows of the block are `panels · 16` apart.
                unsafe { _mm512_storeu_ps(out.add((r * tile.panels + p) * PANEL), sum) };
            }
        }
    }
}

/// Four codes of a row in every lane.
///
/// # Safety
/// `x` points at 4 readable bytes.
#[inline(always)]
unsafe fn four(x: *const i8) -> __m512i {
    // SAFETY: this function's contract.
    unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

/// Quad `q` of a run as unsigned bytes.
///
/// # Safety
/// `run` points at a run's codes; the CPU has AVX-512 BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn quad<F: Format>(run: *const u8, q: usize) -> __m512i {
    // SAFETY: this function's contract: lines below `run_bytes`.
    let line = |index: usize| unsafe { _mm512_loadu_si512(run.add(index * QUAD_BYTES).cast()) };
    let bits = |value: u8| _mm512_set1_epi8(value as i8);
    let lower = |q: usize| match q {
        0..4 => _mm512_and_si512(line(q), bits(15)),
        _ => _mm512_and_si512(_mm512_srli_epi16::<4>(line(q - 4)), bits(15)),
    };
    match F::CODES {
        Codes::Eight => line(q),
        Codes::Four => lower(q),
        Codes::Table => {
            // SAFETY: the table is 16 bytes.
            let levels = unsafe { _mm_loadu_si128(LEVELS.as_ptr().cast()) };
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), lower(q))
        }
        Codes::Five => {
            let bit = _mm512_and_si512(line(4), bits(1 << q));
            let bit = match q {
                0 => _mm512_slli_epi16::<4>(bit),
                1 => _mm512_slli_epi16::<3>(bit),
                2 => _mm512_slli_epi16::<2>(bit),
                3 => _mm512_slli_epi16::<1>(bit),
                4 => bit,
                5 => _mm512_srli_epi16::<1>(bit),
                6 => _mm512_srli_epi16::<2>(bit),
                _ => _mm512_srli_epi16::<3>(bit),
            };
            _mm512_or_si512(lower(q), bit)
        }
        Codes::Six => {
            let two = _mm512_and_si512(line(4 + q / 4), bits(3 << (2 * (q % 4))));
            let two = match q % 4 {
                0 => _mm512_slli_epi16::<4>(two),
                1 => _mm512_slli_epi16::<2>(two),
                2 => two,
                _ => _mm512_srli_epi16::<2>(two),
            };
            _mm512_or_si512(lower(q), two)
        }
    }
}

/// Scales of 16 rows.
///
/// # Safety
/// `chunk` points at a chunk; the CPU has AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn scale<F: Format>(chunk: *const u8, run: usize, half: usize) -> __m512 {
    // SAFETY: this function's contract: every place is within the scales of the chunk.
    unsafe {
        let halves = |index: usize| _mm512_cvtph_ps(_mm256_loadu_si256(chunk.add(32 * index).cast()));
        let bytes = |index: usize| _mm_loadu_si128(chunk.add(64 + PANEL * index).cast());
        let signed = |index| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(index)));
        match F::SCALES {
            Scales::Group(group) => halves(run * RUN / group),
            Scales::RunAndMinimum => halves(0),
            Scales::Super => _mm512_mul_ps(halves(0), signed(run)),
            Scales::SuperHalves => _mm512_mul_ps(halves(0), signed(2 * run + half)),
            Scales::SuperAndMinimum => {
                _mm512_mul_ps(halves(0), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(2 * run))))
            }
        }
    }
}

/// Minima of 16 rows.
///
/// # Safety
/// As [`scale`], of a format with minima.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn minimum<F: Format>(chunk: *const u8, run: usize) -> __m512 {
    // SAFETY: this function's contract.
    unsafe {
        let minimum = _mm512_cvtph_ps(_mm256_loadu_si256(chunk.add(32).cast()));
        match F::SCALES {
            Scales::SuperAndMinimum => {
                let six = _mm_loadu_si128(chunk.add(64 + PANEL * (2 * run + 1)).cast());
                _mm512_mul_ps(minimum, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(six)))
            }
            _ => minimum,
        }
    }
}

pub(super) fn unpack(tile: &Tile<'_>, first: usize, stretch: &mut Unpacked<'_>) {
    // SAFETY: `available` said that the CPU has the instructions.
    unsafe {
        match Reading::here().streams {
            [1, 1] => with_format!(tile.format, F => unpack_format::<F, 1>(tile, first, stretch)),
            _ => with_format!(tile.format, F => unpack_format::<F, 4>(tile, first, stretch)),
        }
    }
}

/// Lines are fetched where `STREAMS` side by side want them.
///
/// # Safety
/// The CPU has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn unpack_format<F: Format, const STREAMS: usize>(
    tile: &Tile<'_>,
    first: usize,
    stretch: &mut Unpacked<'_>,
) {
    let (chunk_cols, per_run) = (F::SCALES.chunk_cols(), F::SCALES.per_run());
    let ahead = Reading::here().ahead(false);
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
            // SAFETY: the run lies in the chunk just measured; the slices have 8 lines, `per_run` and one
            // vector of 16 numbers.
            unsafe {
                let at = chunk.as_ptr().add(F::SCALES.bytes() + within * F::CODES.run_bytes());
                for q in 0..QUADS {
                    fetch_share::<F, STREAMS>(chunk.as_ptr().wrapping_add(ahead), within, q);
                    let codes = codes.as_mut_ptr().add(q * QUAD_BYTES).cast();
                    _mm512_storeu_si512(codes, quad::<F>(at, q));
                }
                for half in 0..per_run {
                    let out = &mut scales[(run * per_run + half) * PANEL..][..PANEL];
                    _mm512_storeu_ps(out.as_mut_ptr(), scale::<F>(chunk.as_ptr(), within, half));
                }
                if F::SCALES.minimum() {
                    let out = &mut minima[run * PANEL..][..PANEL];
                    _mm512_storeu_ps(out.as_mut_ptr(), minimum::<F>(chunk.as_ptr(), within));
                }
            }
        }
    }
}

pub(super) fn multiply(tile: &Tile<'_>, first: usize, stretch: &Unpacked<'_>, block: &mut [f32]) {
    let scales = stretch.layout.scales;
    assert!(stretch.cols.is_multiple_of(RUN) && stretch.cols * PANEL <= Unpacked::PANEL_CODES);
    assert!(stretch.codes.len() >= tile.panels * Unpacked::PANEL_CODES);
    assert!(stretch.scales.len().min(stretch.minima.len()) >= tile.panels * SCALES_MAX);
    assert_eq!(block.len(), tile.rows * tile.panels * PANEL);
    // SAFETY: the asserts above and `Tile::check` bound everything that is read and written.
    unsafe {
        match (scales.per_run(), scales.minimum()) {
            (1, false) => strips::<1, false>(tile, first, stretch, block),
            (1, true) => strips::<1, true>(tile, first, stretch, block),
            (_, false) => strips::<2, false>(tile, first, stretch, block),
            (_, true) => unreachable!("no format has half runs and minima"),
        }
    }
}

/// # Safety
/// Everything is as large as the tile says; the CPU has AVX-512 VNNI.
unsafe fn strips<const PER_RUN: usize, const MINIMUM: bool>(
    tile: &Tile<'_>,
    first: usize,
    stretch: &Unpacked<'_>,
    block: &mut [f32],
) {
    for row in (0..tile.rows).step_by(STRIP) {
        let out = block[row * tile.panels * PANEL..].as_mut_ptr();
        let strip = Strip { tile, first, row, stretch, out };
        // SAFETY: this function's contract.
        unsafe {
            match (tile.panels, tile.rows - row) {
                (1, 1) => strip.multiply::<1, 1, PER_RUN, MINIMUM>(),
                (1, 2) => strip.multiply::<1, 2, PER_RUN, MINIMUM>(),
                (1, _) => strip.multiply::<1, 3, PER_RUN, MINIMUM>(),
                (2, 1) => strip.multiply::<2, 1, PER_RUN, MINIMUM>(),
                (2, 2) => strip.multiply::<2, 2, PER_RUN, MINIMUM>(),
                (2, _) => strip.multiply::<2, 3, PER_RUN, MINIMUM>(),
                (3, 1) => strip.multiply::<3, 1, PER_RUN, MINIMUM>(),
                (3, 2) => strip.multiply::<3, 2, PER_RUN, MINIMUM>(),
                (3, _) => strip.multiply::<3, 3, PER_RUN, MINIMUM>(),
                (_, 1) => strip.multiply::<4, 1, PER_RUN, MINIMUM>(),
                (_, 2) => strip.multiply::<4, 2, PER_RUN, MINIMUM>(),
                (_, _) => strip.multiply::<4, 3, PER_RUN, MINIMUM>(),
            }
        }
    }
}

/// Up to [`STRIP`] rows, from `row` on, times an unpacked stretch that begins at column `first`.
struct Strip<'a> {
    tile: &'a Tile<'a>,
    first: usize,
    row: usize,
    stretch: &'a Unpacked<'a>,
    /// The block of `row`.
    out: *mut f32,
}

impl Strip<'_> {
    /// # Safety
    /// There are `R` rows and `P` panels, everything is as large as the tile says, and the CPU has
    /// AVX-512 VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn multiply<const P: usize, const R: usize, const PER_RUN: usize, const MINIMUM: bool>(&self) {
        let (tile, stretch, quads) = (self.tile, self.stretch, QUADS / PER_RUN);
        let shift = _mm_cvtsi32_si128(stretch.layout.offset_log2.map_or(32, |log2| log2 as i32));
        let out = |r: usize, p: usize| self.out.wrapping_add((r * tile.panels + p) * PANEL);
        // SAFETY: this function's contract.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); P]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(out(r, p));
                }
            }
            for run in 0..stretch.cols / RUN {
                let at = |r: usize| (self.row + r) * tile.x.stride + self.first + run * RUN;
                let head = |r: usize| &*tile.x.heads.as_ptr().add(at(r) / RUN);
                for half in 0..PER_RUN {
                    let mut dots = [[_mm512_set1_epi32(0); P]; R];
                    for (r, dots) in dots.iter_mut().enumerate() {
                        *dots = [_mm512_sll_epi32(_mm512_set1_epi32(head(r).minus(PER_RUN, half)), shift); P];
                    }
                    for q in half * quads..(half + 1) * quads {
                        let mut codes = [_mm512_set1_epi32(0); P];
                        for (p, codes) in codes.iter_mut().enumerate() {
                            let line = p * Unpacked::PANEL_CODES + (run * QUADS + q) * QUAD_BYTES;
                            *codes = _mm512_loadu_si512(stretch.codes.as_ptr().add(line).cast());
                        }
                        for (r, dots) in dots.iter_mut().enumerate() {
                            let x = four(tile.x.codes.as_ptr().add(at(r) + 4 * q));
                            for p in 0..P {
                                dots[p] = _mm512_dpbusd_epi32(dots[p], codes[p], x);
                            }
                        }
                    }
                    for p in 0..P {
                        let place = p * SCALES_MAX + (run * PER_RUN + half) * PANEL;
                        let scale = _mm512_loadu_ps(stretch.scales.as_ptr().add(place));
                        for r in 0..R {
                            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(head(r).scale));
                            sums[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][p]), scale, sums[r][p]);
                        }
                    }
                }
                if MINIMUM {
                    for p in 0..P {
                        let place = p * SCALES_MAX + run * PANEL;
                        let minimum = _mm512_loadu_ps(stretch.minima.as_ptr().add(place));
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm512_set1_ps(head(r).scaled_sum);
                            sums[p] = _mm512_fnmadd_ps(minimum, x, sums[p]);
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (p, &sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(out(r, p), sum);
                }
            }
        }
    }
}
