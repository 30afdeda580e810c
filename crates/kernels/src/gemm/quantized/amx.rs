//! Integer products on the AMX int8 unit: `tdpbssd` adds a `16 × 32` by `32 × 16` product of signed bytes to
//! a tile of 16 × 16 i32 sums in 16 cycles (64 columns would take no longer, but share no scale).
//!
//! **Roofline.** Per 16 × 16 sums of a run: 16 cycles of the tile unit, 16 of the store port to bring them
//! out, and 16 × (conversion, product, fused multiply-add) = 24 cycles of the two vector ports, which is the
//! limit: a third of the unit's int8 peak, and nearly 4 times what vectors reach, whose products and scaling
//! take 92 cycles. Two things keep it there:
//!
//! * Codes are unpacked as `code - offset`, which fits i8 in every format, so no sum is corrected.
//! * The sums of [`GROUP`] runs are scaled in one go, so that results stay in registers meanwhile; and
//!   while one group is scaled, the unit multiplies the next: blocks of both kinds alternate, short enough
//!   for the processor to overlap them.
//!
//! **Blocking.** One tile of activations by two panels: 16 rows loaded per product, where 2 × 2 would load 12.
//! (A tile of 32 columns of weights has 8 rows only, so it is activations that count.) In return both buffers
//! of sums (8 KiB each), two panels of the stretch (8 KiB), activations and results take less than 32 KiB of
//! the first-level cache; 2 × 2 would take all 48.
//!
//! **Halves.** Q6_K has a scale per 16 columns: its tiles are 16 columns wide, at the same cost per tile. That
//! is half the speed, and still 2.5 times that of vectors, which pay the scaling twice as well.
//!
//! Cycles are those of the instructions' published throughput; see `docs/kernels/amx.md`.

#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::arch::asm;
use std::arch::x86_64::{
    _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::marker::PhantomData;

use super::layout::{QUAD_BYTES, QUADS, RUN};
use super::{Layout, SCALES_MAX, Tile, Unpacked, avx512};
use crate::Isa;
use crate::gemm::PANEL;
use crate::gemm::amx::{SIDE, Shape, int8_available, release};

/// Rows from which on tiles are faster than vectors: a product takes its 16 cycles however few there are.
const ROWS_MIN: usize = 8;

/// Parts (runs, or halves of runs) whose sums are scaled in one go.
const GROUP: usize = 4;

/// Rows that are scaled in one go: with two panels 16 results in registers.
const SCALED_ROWS: usize = 8;

/// Sums of a part: `[16 rows, 2 panels, 16]`.
const PART_DOTS: usize = SIDE * 2 * PANEL;

/// Sums of two groups.
pub(super) const DOTS: usize = 2 * GROUP * PART_DOTS;

/// The tile unit of this thread, configured for the rows of one product; given back when dropped.
pub(super) struct Unit {
    /// The configuration is the thread's.
    not_send: PhantomData<*const ()>,
}

impl Unit {
    /// `None` where the product had better run on vectors.
    pub(super) fn configure(isa: Isa, tile: &Tile<'_>) -> Option<Self> {
        if isa < Isa::Amx || tile.rows < ROWS_MIN || !int8_available() || !avx512::available() {
            return None;
        }
        let cols = RUN / Layout::of(tile.format).scales.per_run();
        let (full, rest, weights) = (SIDE.min(tile.rows / SIDE * SIDE), tile.rows % SIDE, cols / 4);
        // Tiles 0 and 1 are sums of whole strips, 2 their activations; 3, 4 and 5 those of the last,
        // lower strip; 6 and 7 weights.
        let of_rows = |rows| [(rows, 64), (rows, 64), (rows, cols)];
        let ([a, b, c], [d, e, f], w) = (of_rows(full), of_rows(rest), (weights, QUAD_BYTES));
        // SAFETY: the unit is there; tiles have at most 16 rows of 64 bytes.
        unsafe { Shape::of([a, b, c, d, e, f, w, w]).load() };
        Some(Self { not_send: PhantomData })
    }

    /// As the other ISAs, with `dots` ([`DOTS`] words) to work in, for the tile of [`Self::configure`].
    pub(super) fn multiply(
        &self,
        tile: &Tile<'_>,
        first: usize,
        stretch: &Unpacked<'_>,
        dots: &mut [f32],
        block: &mut [f32],
    ) {
        let scales = stretch.layout.scales;
        assert!(stretch.signed && stretch.cols.is_multiple_of(RUN));
        assert!(stretch.cols * PANEL <= Unpacked::PANEL_CODES && first + stretch.cols <= tile.cols);
        assert!(stretch.codes.len() >= tile.panels * Unpacked::PANEL_CODES);
        assert!(stretch.scales.len().min(stretch.minima.len()) >= tile.panels * SCALES_MAX);
        assert!(block.len() == tile.rows * tile.panels * PANEL && dots.len() >= DOTS);
        let dots = dots.as_mut_ptr().cast::<i32>();
        let mut pipeline = Pipeline {
            product: Product { tile, first, stretch, out: block.as_mut_ptr() },
            dots: [dots, dots.wrapping_add(GROUP * PART_DOTS)],
            multiplied: None,
        };
        // SAFETY: the asserts above and `Tile::check` bound everything that is read and written; the unit
        // is configured for the tile.
        unsafe {
            match (scales.per_run(), scales.minimum()) {
                (1, false) => pipeline.run::<1, false>(),
                (1, true) => pipeline.run::<1, true>(),
                (_, false) => pipeline.run::<2, false>(),
                (_, true) => unreachable!("no format has half runs and minima"),
            }
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: the unit is there.
        unsafe { release() };
    }
}

/// Up to 16 rows by up to two panels over up to [`GROUP`] parts of the stretch.
#[derive(Clone, Copy)]
struct Step {
    row: usize,
    rows: usize,
    panel: usize,
    panels: usize,
    part: usize,
    parts: usize,
}

/// Sums of one step are scaled while those of the next are made.
struct Pipeline<'a> {
    product: Product<'a>,
    /// For the next step, and what [`Self::multiplied`] left.
    dots: [*mut i32; 2],
    multiplied: Option<Step>,
}

impl Pipeline<'_> {
    /// # Safety
    /// Everything is as large as the tile says, with `PER_RUN` scales of a run and a minimum if `MINIMUM`;
    /// the unit is configured; the CPU has AVX-512.
    unsafe fn run<const PER_RUN: usize, const MINIMUM: bool>(&mut self) {
        let (tile, all) = (self.product.tile, self.product.stretch.cols / RUN * PER_RUN);
        for panel in (0..tile.panels).step_by(2) {
            for row in (0..tile.rows).step_by(SIDE) {
                for part in (0..all).step_by(GROUP) {
                    let (rows, panels) = (SIDE.min(tile.rows - row), 2.min(tile.panels - panel));
                    let step = Step { row, rows, panel, panels, part, parts: GROUP.min(all - part) };
                    // SAFETY: this function's contract; the step is within the tile.
                    unsafe { self.advance::<PER_RUN, MINIMUM>(Some(step)) };
                }
            }
        }
        // SAFETY: as above.
        unsafe { self.advance::<PER_RUN, MINIMUM>(None) };
    }

    /// Half a step of the unit, half a step of the vectors, and the same again.
    ///
    /// # Safety
    /// As [`Self::run`], and `next` is within the tile.
    unsafe fn advance<const PER_RUN: usize, const MINIMUM: bool>(&mut self, next: Option<Step>) {
        let [made, used] = self.dots;
        for half in 0..2 {
            // SAFETY: this function's contract; a step's parts have a place each in `made`, and `used` has
            // the sums of all parts of the step before.
            unsafe {
                if let Some(step) = next {
                    for part in half * GROUP / 2..step.parts.min((half + 1) * GROUP / 2) {
                        self.product.multiply::<PER_RUN>(step, part, made.add(part * PART_DOTS));
                    }
                }
                if let Some(step) = self.multiplied {
                    let rows = half * SCALED_ROWS..step.rows.min((half + 1) * SCALED_ROWS);
                    self.product.scale_rows::<PER_RUN, MINIMUM>(step, rows, used);
                }
            }
        }
        (self.dots, self.multiplied) = ([used, made], next);
    }
}

struct Product<'a> {
    tile: &'a Tile<'a>,
    /// Column of the tile at which the stretch begins.
    first: usize,
    stretch: &'a Unpacked<'a>,
    out: *mut f32,
}

impl Product<'_> {
    /// The sums of one part of a step.
    ///
    /// # Safety
    /// As [`Pipeline::run`]; `out` has room for [`PART_DOTS`] sums.
    #[inline(always)]
    unsafe fn multiply<const PER_RUN: usize>(&self, step: Step, part: usize, out: *mut i32) {
        let (tile, part) = (self.tile, step.part + part);
        let x = step.row * tile.x.stride + self.first + part * (RUN / PER_RUN);
        let codes = step.panel * Unpacked::PANEL_CODES + part * (QUADS / PER_RUN * QUAD_BYTES);
        let codes = self.stretch.codes.as_ptr().wrapping_add(codes);
        let operands = Operands {
            x: tile.x.codes.as_ptr().wrapping_add(x),
            x_stride: tile.x.stride,
            // Where there is no second panel its address is computed, but never used.
            codes: [codes, codes.wrapping_add(Unpacked::PANEL_CODES)],
            out,
        };
        // SAFETY: this function's contract.
        unsafe {
            match (step.rows == SIDE, step.panels == 2) {
                (true, true) => whole_by_two(&operands),
                (true, false) => whole_by_one(&operands),
                (false, true) => rest_by_two(&operands),
                (false, false) => rest_by_one(&operands),
            }
        }
    }

    /// Adds the sums of some rows of a step to the results.
    ///
    /// # Safety
    /// As [`Pipeline::run`]; `dots` has the sums of the step.
    unsafe fn scale_rows<const PER_RUN: usize, const MINIMUM: bool>(
        &self,
        step: Step,
        rows: std::ops::Range<usize>,
        dots: *const i32,
    ) {
        // SAFETY: this function's contract.
        unsafe {
            match (rows.len() == SCALED_ROWS, step.panels == 2) {
                (true, true) => self.scale::<2, SCALED_ROWS, PER_RUN, MINIMUM>(step, rows.start, dots),
                (true, false) => self.scale::<1, SCALED_ROWS, PER_RUN, MINIMUM>(step, rows.start, dots),
                (false, true) => {
                    rows.for_each(|row| self.scale::<2, 1, PER_RUN, MINIMUM>(step, row, dots));
                }
                (false, false) => {
                    rows.for_each(|row| self.scale::<1, 1, PER_RUN, MINIMUM>(step, row, dots));
                }
            }
        }
    }

    /// The same for `R` rows from `row` of the step on, and its `P` panels.
    ///
    /// # Safety
    /// As [`Self::scale_rows`].
    #[target_feature(enable = "avx512f")]
    unsafe fn scale<const P: usize, const R: usize, const PER_RUN: usize, const MINIMUM: bool>(
        &self,
        step: Step,
        row: usize,
        dots: *const i32,
    ) {
        let (tile, stretch) = (self.tile, self.stretch);
        let heads_apart = tile.x.stride / RUN;
        // Of the first row and the first run of the stretch. (Dividing each row's place by the run would
        // keep the vector units busy: the compiler does it eight rows at a time.)
        let heads = (step.row + row) * heads_apart + self.first / RUN;
        let heads = tile.x.heads.as_ptr().wrapping_add(heads);
        let out = |r: usize, p: usize| {
            self.out.wrapping_add(((step.row + row + r) * tile.panels + step.panel + p) * PANEL)
        };
        // SAFETY: this function's contract.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); P]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(out(r, p));
                }
            }
            for part in 0..step.parts {
                let head = |r: usize| &*heads.add((step.part + part) / PER_RUN + r * heads_apart);
                let place = |p: usize| (step.panel + p) * SCALES_MAX + (step.part + part) * PANEL;
                let mut scales = [_mm512_setzero_ps(); P];
                for (p, scale) in scales.iter_mut().enumerate() {
                    *scale = _mm512_loadu_ps(stretch.scales.as_ptr().add(place(p)));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x_scale = _mm512_set1_ps(head(r).scale);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        let dots = dots.add(part * PART_DOTS + ((row + r) * 2 + p) * PANEL);
                        let dots = _mm512_cvtepi32_ps(_mm512_loadu_si512(dots.cast()));
                        *sum = _mm512_fmadd_ps(dots, _mm512_mul_ps(scales[p], x_scale), *sum);
                    }
                }
                if MINIMUM {
                    for p in 0..P {
                        let minimum = _mm512_loadu_ps(stretch.minima.as_ptr().add(place(p)));
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

/// Operands of one part: a tile of activations, a tile of each panel, and where sums go.
struct Operands {
    x: *const i8,
    x_stride: usize,
    codes: [*const u8; 2],
    out: *mut i32,
}

/// One part by two panels and by one, for strips of one height: `$a` and `$b` are sums, `$x` activations.
/// The registers: strides of 64 (a line of weights) and 128 (a row of sums).
macro_rules! products {
    ($two:ident, $one:ident: $a:literal $b:literal $x:literal) => {
        /// # Safety
        /// The unit is configured for this height, and every tile lies in memory that may be read, and for
        /// `out` written.
        #[inline(always)]
        unsafe fn $two(operands: &Operands) {
            // SAFETY: this function's contract.
            unsafe {
                asm!(
                    concat!("tilezero ", $a), concat!("tilezero ", $b),
                    concat!("tileloadd ", $x, ", [{x} + {x_stride}*1]"),
                    "tileloadd tmm6, [{first} + {line}*1]",
                    concat!("tdpbssd ", $a, ", ", $x, ", tmm6"),
                    "tileloadd tmm7, [{second} + {line}*1]",
                    concat!("tdpbssd ", $b, ", ", $x, ", tmm7"),
                    concat!("tilestored [{out} + {row}*1], ", $a),
                    concat!("tilestored [{out} + {row}*1 + 64], ", $b),
                    x = in(reg) operands.x, x_stride = in(reg) operands.x_stride,
                    first = in(reg) operands.codes[0], second = in(reg) operands.codes[1],
                    line = in(reg) QUAD_BYTES, out = in(reg) operands.out, row = in(reg) 128usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags)
                );
            }
        }

        /// # Safety
        /// As with two panels.
        #[inline(always)]
        unsafe fn $one(operands: &Operands) {
            // SAFETY: this function's contract.
            unsafe {
                asm!(
                    concat!("tilezero ", $a),
                    concat!("tileloadd ", $x, ", [{x} + {x_stride}*1]"),
                    "tileloadd tmm6, [{first} + {line}*1]",
                    concat!("tdpbssd ", $a, ", ", $x, ", tmm6"),
                    concat!("tilestored [{out} + {row}*1], ", $a),
                    x = in(reg) operands.x, x_stride = in(reg) operands.x_stride,
                    first = in(reg) operands.codes[0],
                    line = in(reg) QUAD_BYTES, out = in(reg) operands.out, row = in(reg) 128usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags)
                );
            }
        }
    };
}

products!(whole_by_two, whole_by_one: "tmm0" "tmm1" "tmm2");
products!(rest_by_two, rest_by_one: "tmm3" "tmm4" "tmm5");
