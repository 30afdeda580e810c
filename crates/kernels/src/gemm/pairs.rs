//! Tile product of bf16 in 16 lanes of f32, two columns to a lane (`vdpbf16ps`); FP8 decoded to such pairs.
//!
//! The layout of a panel in bf16 is what the instruction takes: 16 rows of two columns are one register. Several
//! rows: up to 6 × 4 accumulators, each weight register used for all of them. An output is one chain over all
//! columns in order, however many rows there are.
//!
//! **Roofline.** 32 products an instruction; where two of them start per cycle (Zen 5) that is twice the rate of f32.
//!
//! **FP8.** A code's seven bits of magnitude index two tables of 128 bytes, the upper and the lower byte of the bf16
//! number (`vpermi2b`); the sign goes on top, and bytes are put together. Seven instructions for 64 codes.

use std::arch::x86_64::{
    __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_permutex2var_epi8, _mm512_permutexvar_epi8, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_ternarylogic_epi32,
    _mm512_unpackhi_epi8, _mm512_unpacklo_epi8,
};

use super::reading::Reading;
use super::{PANEL, Tile, WeightFormat, fp8};

/// Rows that share one pass over the weights: 6 × 4 accumulators, 4 weights and a broadcast fit the 32 registers.
const ROWS: usize = 6;

/// Bytes of two columns of a panel.
const PAIR: usize = 4 * PANEL;

/// Whether the processor has the instructions. (Cooper Lake has the product without the tables of bytes, and goes
/// without both.)
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vbmi")
}

pub(super) fn multiply(tile: &Tile<'_>, x: &[u16], block: &mut [f32]) {
    assert!(
        tile.format == WeightFormat::Bf16 && tile.cols.is_multiple_of(2) && tile.first_col.is_multiple_of(2)
    );
    assert!(tile.rows == 0 || (tile.rows - 1) * tile.x_stride + tile.cols <= x.len());
    let end = (tile.first_col + tile.cols) / 2 * PAIR;
    assert!((tile.panels - 1) * tile.panel_bytes + end <= tile.weights.len());
    assert_eq!(block.len(), tile.rows * tile.panels * PANEL);
    let reading = Reading::here();
    let (streams, ahead) = (reading.streams, reading.ahead(tile.rows == 1));
    // What is bound by memory goes as memory is read best; else weights are used as often as possible.
    let step = match tile.rows {
        1..=ROWS => 2 * streams[1],
        _ => 4,
    };
    for panel in (0..tile.panels).step_by(step) {
        for row in (0..tile.rows).step_by(ROWS) {
            let part = Part {
                tile,
                x: x[row * tile.x_stride..].as_ptr(),
                weights: tile.weights[panel * tile.panel_bytes + tile.first_col / 2 * PAIR..].as_ptr(),
                ahead,
                out: block[(row * tile.panels + panel) * PANEL..].as_mut_ptr(),
            };
            // SAFETY: the asserts above bound every row of x, every pair of weights and the block; halves are made
            // only where the CPU has what multiplies them.
            unsafe {
                match step.min(tile.panels - panel) {
                    1 => part.rows::<1>(tile.rows - row),
                    2 => part.rows::<2>(tile.rows - row),
                    3 => part.rows::<3>(tile.rows - row),
                    4 => part.rows::<4>(tile.rows - row),
                    other => unreachable!("a tile has 1 to 4 panels, not {other}"),
                }
            }
        }
    }
}

/// Some rows times some panels of a tile.
struct Part<'a> {
    tile: &'a Tile<'a>,
    x: *const u16,
    weights: *const u8,
    ahead: usize,
    out: *mut f32,
}

impl Part<'_> {
    /// As many of `left` rows as go at a time.
    ///
    /// # Safety
    /// As [`Part::multiply`].
    unsafe fn rows<const P: usize>(&self, left: usize) {
        // SAFETY: this function's contract.
        unsafe {
            match left {
                1 => self.multiply::<P, 1>(),
                2 => self.multiply::<P, 2>(),
                3 => self.multiply::<P, 3>(),
                4 => self.multiply::<P, 4>(),
                5 => self.multiply::<P, 5>(),
                _ => self.multiply::<P, ROWS>(),
            }
        }
    }

    /// # Safety
    /// `x` has `R` rows of the tile's columns, `weights` `P` panels of its pairs, `out` as many panels of as many rows;
    /// [`available`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply<const P: usize, const R: usize>(&self) {
        let &Part { tile, x, weights, ahead, out } = self;
        let out = |r: usize, p: usize| out.wrapping_add((r * tile.panels + p) * PANEL);
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        if tile.accumulate {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: this function's contract, here and below.
                    *sum = unsafe { _mm512_loadu_ps(out(r, p)) };
                }
            }
        }
        for pair in 0..tile.cols / 2 {
            let at = |p: usize| weights.wrapping_add(p * tile.panel_bytes + pair * PAIR);
            let mut w = [pairs(_mm512_set1_epi32(0)); P];
            for (p, w) in w.iter_mut().enumerate() {
                // SAFETY: `pair` counts the tile's columns; a prefetch may point anywhere.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(at(p).wrapping_add(ahead).cast());
                    *w = pairs(_mm512_loadu_si512(at(p).cast()));
                }
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { two(x.add(r * tile.x_stride + 2 * pair)) };
                for p in 0..P {
                    sums[p] = _mm512_dpbf16_ps(sums[p], x, w[p]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(out(r, p), sum) };
            }
        }
    }
}

/// Two columns of a row in every lane.
///
/// # Safety
/// `x` points at two numbers; the CPU has AVX-512 F.
#[inline(always)]
unsafe fn two(x: *const u16) -> __m512bh {
    // SAFETY: this function's contract.
    unsafe { pairs(_mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
}

/// The same bits as pairs of bf16.
#[inline(always)]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes for which every value is valid.
    unsafe { std::mem::transmute(bits) }
}

/// Rows of FP8 up to which codes are decoded in registers, for a few rows at a time.
pub(super) const FP8_ROWS: usize = 24;

/// Those few: with two panels, 8 sums, 8 totals and the tables fit the registers.
const FP8_ROWS_AT_A_TIME: usize = 4;

/// Up to [`FP8_ROWS`] rows times whole FP8 panels, all their chunks.
pub(super) struct Fp8<'a> {
    pub(super) x: &'a [u16],
    pub(super) x_stride: usize,
    pub(super) rows: usize,
    /// Panels `panel_bytes` apart.
    pub(super) data: &'a [u8],
    pub(super) panel_bytes: usize,
    pub(super) panels: usize,
    pub(super) chunks: usize,
}

/// `block [rows, panels · 16]`: for each chunk, in order, the chunk's sum times its scale is added.
pub(super) fn multiply_fp8(job: &Fp8<'_>, block: &mut [f32]) {
    let Fp8 { x, x_stride, rows, data, panel_bytes, panels, chunks } = *job;
    assert!((1..=FP8_ROWS).contains(&rows) && (rows - 1) * x_stride + chunks * fp8::CHUNK_COLS <= x.len());
    assert!((panels - 1) * panel_bytes + chunks * fp8::CHUNK_BYTES <= data.len());
    assert_eq!(block.len(), rows * panels * PANEL);
    let each = rows.div_ceil(rows.div_ceil(FP8_ROWS_AT_A_TIME));
    for panel in (0..panels).step_by(2) {
        for row in (0..rows).step_by(each) {
            let (x, data) = (x[row * x_stride..].as_ptr(), data[panel * panel_bytes..].as_ptr());
            let out = block[(row * panels + panel) * PANEL..].as_mut_ptr();
            // SAFETY: the asserts above; the caller asked `available`.
            unsafe {
                match (each.min(rows - row), panels - panel) {
                    (1, 1) => fp8_rows::<1, 1>(job, x, data, out),
                    (1, _) => fp8_rows::<2, 1>(job, x, data, out),
                    (2, 1) => fp8_rows::<1, 2>(job, x, data, out),
                    (2, _) => fp8_rows::<2, 2>(job, x, data, out),
                    (3, 1) => fp8_rows::<1, 3>(job, x, data, out),
                    (3, _) => fp8_rows::<2, 3>(job, x, data, out),
                    (_, 1) => fp8_rows::<1, FP8_ROWS_AT_A_TIME>(job, x, data, out),
                    (_, _) => fp8_rows::<2, FP8_ROWS_AT_A_TIME>(job, x, data, out),
                }
            }
        }
    }
}

/// # Safety
/// `x` has `R` rows of the job's, `data` `P` panels, `out` is at the first of theirs; [`available`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn fp8_rows<const P: usize, const R: usize>(
    job: &Fp8<'_>,
    x: *const u16,
    data: *const u8,
    out: *mut f32,
) {
    let (tables, ahead) = (Tables::load(), Reading::here().ahead(R == 1));
    let mut totals = [[_mm512_setzero_ps(); P]; R];
    for chunk in 0..job.chunks {
        let at = |p: usize| data.wrapping_add(p * job.panel_bytes + chunk * fp8::CHUNK_BYTES);
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        for line in 0..fp8::CHUNK_COLS / LINE_COLS {
            let col = chunk * fp8::CHUNK_COLS + line * LINE_COLS;
            // SAFETY: the line is the chunk's, and rows have its columns; a prefetch may point anywhere.
            unsafe {
                let x = |r: usize, col: usize| two(x.add(r * job.x_stride + col));
                for p in 0..P {
                    let codes = at(p).add(fp8::SCALES + 64 * line);
                    _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(ahead).cast());
                    let [first, second] = tables.decode(_mm512_loadu_si512(codes.cast()));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        sums[p] = _mm512_dpbf16_ps(sums[p], x(r, col), pairs(first));
                        sums[p] = _mm512_dpbf16_ps(sums[p], x(r, col + 2), pairs(second));
                    }
                }
            }
        }
        for p in 0..P {
            // SAFETY: a chunk begins with 16 scales.
            let scale = unsafe { _mm512_loadu_ps(at(p).cast()) };
            for r in 0..R {
                totals[r][p] = _mm512_add_ps(totals[r][p], _mm512_mul_ps(sums[r][p], scale));
            }
        }
    }
    for (r, totals) in totals.iter().enumerate() {
        for (p, &total) in totals.iter().enumerate() {
            // SAFETY: rows of the block are `panels · 16` apart.
            unsafe { _mm512_storeu_ps(out.add((r * job.panels + p) * PANEL), total) };
        }
    }
}

/// Columns whose codes fill a line.
const LINE_COLS: usize = 4;

/// A chunk's codes to pairs of bf16, `[64] × [16 rows][2 columns]`.
pub(super) fn decode_fp8(codes: &[u8], out: &mut [u8]) {
    assert!(codes.len().is_multiple_of(64) && out.len() == 2 * codes.len());
    // SAFETY: the caller asked `available`.
    unsafe { decode_lines(codes, out) }
}

/// # Safety
/// There are whole lines of codes and twice as much room; [`available`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn decode_lines(codes: &[u8], out: &mut [u8]) {
    let tables = Tables::load();
    for (codes, out) in codes.chunks_exact(64).zip(out.chunks_exact_mut(128)) {
        // SAFETY: a line of codes, and two of pairs.
        unsafe {
            let [first, second] = tables.decode(_mm512_loadu_si512(codes.as_ptr().cast()));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), first);
            _mm512_storeu_si512(out.as_mut_ptr().add(64).cast(), second);
        }
    }
}

/// The upper and the lower bytes of all magnitudes in bf16, and the order of a line's codes in which the
/// interleaved bytes are pairs.
struct Tables {
    upper: [__m512i; 2],
    lower: [__m512i; 2],
    order: __m512i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load() -> Self {
        const BYTES: [[u8; 128]; 2] = {
            let mut bytes = [[0; 128]; 2];
            let mut code = 0;
            while code < 128 {
                let bits = fp8::value_bits(code as u8);
                (bytes[0][code], bytes[1][code]) = ((bits >> 24) as u8, (bits >> 16) as u8);
                code += 1;
            }
            bytes
        };
        // A line is `[4 columns][16 rows]`; the 128-bit lane `l` of the first register of pairs comes from the first
        // eight bytes of lane `l`, that of the second from the others.
        const ORDER: [u8; 64] = {
            let mut order = [0; 64];
            let mut place = 0;
            while place < 64 {
                let (lane, half, within) = (place / 16, place / 8 % 2, place % 8);
                let word = 8 * lane + within;
                order[place] = ((2 * half + word % 2) * PANEL + word / 2) as u8;
                place += 1;
            }
            order
        };
        // SAFETY: tables of 128, and an order of 64 bytes.
        let load =
            |bytes: &[u8], at: usize| unsafe { _mm512_loadu_si512(bytes[at..at + 64].as_ptr().cast()) };
        Self {
            upper: [load(&BYTES[0], 0), load(&BYTES[0], 64)],
            lower: [load(&BYTES[1], 0), load(&BYTES[1], 64)],
            order: load(&ORDER, 0),
        }
    }

    /// 64 codes to two registers of pairs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn decode(&self, codes: __m512i) -> [__m512i; 2] {
        let codes = _mm512_permutexvar_epi8(self.order, codes);
        let lower = _mm512_permutex2var_epi8(self.lower[0], codes, self.lower[1]);
        let upper = _mm512_permutex2var_epi8(self.upper[0], codes, self.upper[1]);
        // upper | codes & 0x80
        let upper = _mm512_ternarylogic_epi32::<0xf8>(upper, codes, _mm512_set1_epi8(-128));
        [_mm512_unpacklo_epi8(lower, upper), _mm512_unpackhi_epi8(lower, upper)]
    }
}
