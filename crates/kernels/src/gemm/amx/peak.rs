//! The unit's peaks, to be timed: with operands that never leave the tiles, and fed from the second-level
//! cache.

use std::arch::asm;

use super::{Block, SIDE, Shape, available, int8_available, release, two_by_two, two_by_two_int8};
use crate::memory::{AlignedBuffer, LINE};

/// What the tiles hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bf16,
    /// Signed bytes, i32 sums.
    Int8,
}

impl Kind {
    /// # Panics
    /// If the unit does not multiply these (in tests it may be emulated).
    fn check(self) {
        assert!(cfg!(test) || available());
        assert!(self == Kind::Bf16 || int8_available());
    }

    /// Operations of a product of two full tiles.
    const fn operations(self) -> usize {
        match self {
            Kind::Bf16 => 2 * SIDE * SIDE * (LINE / 2),
            Kind::Int8 => 2 * SIDE * SIDE * LINE,
        }
    }
}

/// Six products per turn, into six sums: they cover the latency of 52 cycles.
macro_rules! in_registers {
    ($name:ident: $multiply:literal) => {
        /// # Safety
        /// The unit is there and all eight tiles are full.
        unsafe fn $name(turns: u32) {
            // SAFETY: this function's contract.
            unsafe {
                asm!(
                    "tilezero tmm6", "tilezero tmm7",
                    "2:",
                    concat!($multiply, " tmm0, tmm6, tmm7"), concat!($multiply, " tmm1, tmm6, tmm7"),
                    concat!($multiply, " tmm2, tmm6, tmm7"), concat!($multiply, " tmm3, tmm6, tmm7"),
                    concat!($multiply, " tmm4, tmm6, tmm7"), concat!($multiply, " tmm5, tmm6, tmm7"),
                    "dec {turns:e}", "jnz 2b",
                    turns = inout(reg) turns => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nomem, nostack)
                );
            }
        }
    };
}

in_registers!(bf16_in_registers: "tdpbf16ps");
in_registers!(int8_in_registers: "tdpbssd");

/// Multiplies zeroes tile by tile, `6 · turns` times, without touching memory, and returns the
/// operations done.
///
/// # Panics
/// If the unit is not there.
pub(crate) fn in_registers(kind: Kind, turns: u32) -> f64 {
    kind.check();
    let turns = turns.max(1);
    // SAFETY: the unit is there (in tests, or emulated); the full shape has all eight tiles.
    unsafe {
        Shape::new([SIDE; 2]).load();
        match kind {
            Kind::Bf16 => bf16_in_registers(turns),
            Kind::Int8 => int8_in_registers(turns),
        }
        release();
    }
    f64::from(turns) * (6 * kind.operations()) as f64
}

/// Products of 2 × 2 tiles over one stretch of columns.
const STEPS: usize = if cfg!(test) { 4 } else { 250 };

/// Bytes from row to row of the left operand: an odd number of lines, or the rows of a tile share a few
/// sets of the cache.
const STRIDE: usize = LINE * (STEPS + 1);

/// Bytes of a tile of the right operand.
const TILE: usize = SIDE * LINE;

/// Operands that fill half of a second-level cache of 2 MiB: 32 rows, as activations lie, and two panels,
/// both 250 tiles long. No byte is used twice before all others were used once.
pub(crate) struct Streams {
    kind: Kind,
    operands: AlignedBuffer<u8>,
    sums: AlignedBuffer<f32>,
}

impl Streams {
    /// # Panics
    /// If the unit is not there.
    pub(crate) fn new(kind: Kind) -> Self {
        kind.check();
        let mut operands = AlignedBuffer::zeroed(2 * SIDE * STRIDE + 2 * STEPS * TILE);
        operands.as_mut_slice().fill(1);
        Self { kind, operands, sums: AlignedBuffer::zeroed(4 * SIDE * SIDE) }
    }

    /// Multiplies them all once; returns the operations done.
    pub(crate) fn multiply(&mut self) -> f64 {
        let (x, weights) = self.operands.as_slice().split_at(2 * SIDE * STRIDE);
        let sums = self.sums.as_mut_slice();
        let out = sums.as_mut_ptr();
        let block = Block {
            x: [0, SIDE * STRIDE].map(|at| x[at..].as_ptr().cast()),
            x_stride: STRIDE,
            weights: [0, STEPS * TILE].map(|at| weights[at..].as_ptr()),
            out: [out, out.wrapping_add(2 * SIDE * SIDE)],
            out_stride: 2 * LINE,
            steps: STEPS,
            accumulate: false,
        };
        // SAFETY: `new` made sure of the unit; the operands are two tiles of 16 rows and two panels of
        // `STEPS` tiles, the sums 32 rows of two lines.
        unsafe {
            Shape::new([SIDE; 2]).load();
            match self.kind {
                Kind::Bf16 => two_by_two(&block),
                Kind::Int8 => two_by_two_int8(&block),
            }
            release();
        }
        (4 * STEPS * self.kind.operations()) as f64
    }

    #[cfg(test)]
    pub(super) fn sums(&self) -> &[f32] {
        self.sums.as_slice()
    }
}
