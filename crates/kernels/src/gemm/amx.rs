//! Tile product on the AMX bf16 unit: `tdpbf16ps` adds a `16 × 32` by `32 × 16` product to a tile
//! of 16 × 16 sums, in 16 cycles.
//!
//! **Roofline** (one core of the Sapphire Rapids class): 3.5 TFLOP/s if operands never leave the
//! tiles, 2.9 with operands from the first-level cache, 2.0 to 2.2 from the second level, 0.5 from
//! the third. So what counts is how few tiles are loaded per product, and from where.
//!
//! **Blocking.** Eight tiles: 2 × 2 sums (32 rows by two panels), two tiles of activations and two
//! of weights, so that four loads feed four products (3 × 1: four loads for three). A pair of panels over [`NEAR_COLS`] columns stays in the
//! first-level cache while all strips of 32 rows pass, so that only activations come from the
//! second level; the price is that sums are stored and loaded once per [`NEAR_COLS`]. With a
//! single strip weights are read once anyway, and one pass takes all columns.
//!
//! **Ragged rows.** Tiles are configured with the rows that exist, so nothing beyond them is read,
//! multiplied or written. Panels and columns are padded by the packing.
//!
//! Stable Rust has neither the intrinsics nor the target feature, but its assembler knows the
//! mnemonics. A compiler that does not know tiles cannot keep them between statements: each block
//! of sums lives and dies within one `asm!`; only the configuration outlasts it.

#[cfg(all(test, target_os = "linux"))]
pub(super) mod emulator;
pub(crate) mod peak;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::arch::asm;
use std::ops::Range;
use std::sync::OnceLock;

use super::{Operand, PANEL, Tile, WeightFormat};
use crate::shared::Window;

/// Rows of a tile, and its columns in f32, i32, pairs of bf16 or fours of int8.
pub(super) const SIDE: usize = 16;

/// Rows of a block of sums.
const STRIP: usize = 2 * SIDE;

/// Columns of activations and weights in one product.
const COLS: usize = 32;

/// Columns that several strips pass before the next ones: two panels of them are 16 KiB and a
/// strip of activations is another 16 KiB, two thirds of a first-level cache of 48 KiB.
const NEAR_COLS: usize = 2048;

/// Whether the processor has the unit and the operating system lets this process use it (asked
/// once, for all threads).
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| in_hardware() && permitted())
}

/// Whether the unit multiplies bytes too. (Tests emulate a unit that does.)
pub(crate) fn int8_available() -> bool {
    const INT8: u32 = 1 << 25;
    if available() { std::arch::x86_64::__cpuid_count(7, 0).edx & INT8 != 0 } else { cfg!(test) }
}

fn in_hardware() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const TILE_AND_BF16: u32 = 1 << 24 | 1 << 22;
    const TILE_STATE: u32 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let enabled: u32;
    // SAFETY: OSXSAVE says that `xgetbv` may be used; register 0 always exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack)) };
    __cpuid_count(7, 0).edx & TILE_AND_BF16 == TILE_AND_BF16 && enabled & TILE_STATE == TILE_STATE
}

/// Linux gives the 8 KiB of tile state only to processes that ask.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let status: i64;
    // SAFETY: the call takes two numbers and touches no memory of ours; the kernel clobbers rcx
    // and r11.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => status, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// `out [rows, panels · 16]`, wherever its rows lie.
pub(super) fn multiply(tile: &Tile<'_>, out: &mut Window<'_, f32>) {
    let Operand::Halves(x) = tile.x else { unreachable!("floats are for the vector units") };
    assert_eq!(tile.format, WeightFormat::Bf16);
    assert!(tile.cols.is_multiple_of(COLS) && tile.first_col.is_multiple_of(COLS));
    assert!(tile.rows == 0 || (tile.rows - 1) * tile.x_stride + tile.cols <= x.len());
    let column_bytes = PANEL * size_of::<u16>();
    let end = (tile.first_col + tile.cols) * column_bytes;
    assert!((tile.panels - 1) * tile.panel_bytes + end <= tile.weights.len());
    assert_eq!(out.shape(), [tile.rows, tile.panels * PANEL]);
    if tile.cols == 0 {
        if !tile.accumulate {
            (0..tile.rows).for_each(|row| out.row_mut(row).fill(0.0));
        }
        return;
    }
    let product = Product {
        tile,
        x: x.as_ptr(),
        weights: tile.weights[tile.first_col * column_bytes..].as_ptr(),
        out: out.as_mut_ptr(),
        out_stride: out.stride(),
    };
    let full = tile.rows / STRIP * STRIP;
    let step = if full > STRIP { NEAR_COLS } else { tile.cols };
    // SAFETY: the asserts above bound x, the weights and the block; the dispatcher chose this ISA
    // because the CPU has it.
    unsafe {
        product.strips(0..full, step);
        product.strips(full..tile.rows, tile.cols);
    }
}

struct Product<'a> {
    tile: &'a Tile<'a>,
    x: *const u16,
    /// At the tile's first column.
    weights: *const u8,
    out: *mut f32,
    out_stride: usize,
}

impl Product<'_> {
    /// Strips of equal height: whole ones, or a single lower one.
    ///
    /// # Safety
    /// `x`, the weights and `out` are as large as the tile says; the CPU has AMX.
    unsafe fn strips(&self, rows: Range<usize>, step: usize) {
        if rows.is_empty() {
            return;
        }
        let (tile, height) = (self.tile, rows.len().min(STRIP));
        let shape = Shape::new([height.min(SIDE), height.saturating_sub(SIDE)]);
        // SAFETY: this function's contract; the shape has at most 16 rows of 64 bytes per tile.
        unsafe { shape.load() };
        for col in (0..tile.cols).step_by(step) {
            for panel in (0..tile.panels).step_by(2) {
                for row in rows.clone().step_by(STRIP) {
                    let accumulate = tile.accumulate || col > 0;
                    let at = self.at([row, panel, col], step.min(tile.cols - col), accumulate);
                    // SAFETY: row, panel and column are within the tile; the shape just loaded has
                    // the second tiles that the choice uses.
                    unsafe {
                        match (height > SIDE, panel + 1 < tile.panels) {
                            (true, true) => two_by_two(&at),
                            (true, false) => two_by_one(&at),
                            (false, true) => one_by_two(&at),
                            (false, false) => one_by_one(&at),
                        }
                    }
                }
            }
        }
        // SAFETY: this function's contract.
        unsafe { release() };
    }

    fn at(&self, [row, panel, col]: [usize; 3], cols: usize, accumulate: bool) -> Block {
        let x = self.x.wrapping_add(row * self.tile.x_stride + col);
        let weights = self.weights.wrapping_add(panel * self.tile.panel_bytes + col * PANEL * 2);
        let out = self.out.wrapping_add(row * self.out_stride + panel * PANEL);
        // Where there is no second tile its address is computed, but never used.
        Block {
            x: [x, x.wrapping_add(SIDE * self.tile.x_stride)],
            x_stride: self.tile.x_stride * size_of::<u16>(),
            weights: [weights, weights.wrapping_add(self.tile.panel_bytes)],
            out: [out, out.wrapping_add(SIDE * self.out_stride)],
            out_stride: self.out_stride * size_of::<f32>(),
            steps: cols / COLS,
            accumulate,
        }
    }
}

/// What palette 1 wants to know of its eight tiles.
#[repr(C, align(64))]
pub(crate) struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shape {
    /// Tiles 0 and 1 are the sums of the upper rows, 2 and 3 of the lower; 4 and 5 upper and lower
    /// activations; 6 and 7 weights.
    fn new([upper, lower]: [usize; 2]) -> Self {
        Self::of([upper, upper, lower, lower, upper, lower, SIDE, SIDE].map(|rows| (rows, 64)))
    }

    /// Rows of each tile (none: the tile is not used) and the bytes of each.
    pub(crate) fn of(tiles: [(usize, usize); 8]) -> Self {
        let mut shape =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, (rows, row_bytes)) in tiles.into_iter().enumerate() {
            if rows > 0 {
                (shape.rows[tile], shape.row_bytes[tile]) = (rows as u8, row_bytes as u16);
            }
        }
        shape
    }

    /// # Safety
    /// The CPU has AMX, and no tile may have more than 16 rows or 64 bytes per row.
    pub(crate) unsafe fn load(&self) {
        // SAFETY: this function's contract; the instruction reads the 64 bytes of `self`.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) self,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags));
        }
    }
}

/// Gives the tile state back, so that context switches need not save it.
///
/// # Safety
/// The CPU has AMX.
pub(crate) unsafe fn release() {
    // SAFETY: this function's contract.
    unsafe {
        asm!("tilerelease",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nomem, nostack, preserves_flags));
    }
}

/// One block of sums: up to two tiles of rows by up to two panels, over `steps · 32` columns.
struct Block {
    x: [*const u16; 2],
    /// In bytes, as the next stride.
    x_stride: usize,
    weights: [*const u8; 2],
    out: [*mut f32; 2],
    out_stride: usize,
    steps: usize,
    accumulate: bool,
}

/// Prefetches the 16 lines of the tile after the next one: weights come as a stream from memory.
macro_rules! prefetch {
    ($register:literal) => {
        prefetch!($register: "2048" "2112" "2176" "2240" "2304" "2368" "2432" "2496"
            "2560" "2624" "2688" "2752" "2816" "2880" "2944" "3008")
    };
    ($register:literal: $($offset:literal)+) => {
        concat!($("prefetcht0 [", $register, "+", $offset, "]\n"),+)
    };
}

/// The loop over columns, for one number of tiles. In the templates: rdi, rsi upper and lower
/// activations, rdx their stride; rcx, r8 the two panels, r13 their stride of 64 bytes; r9, r10
/// upper and lower sums, r11 their stride; rax steps left; r12 whether to begin from the old sums.
macro_rules! product {
    ($name:ident: zero [$($zero:literal),+] load [$($load:literal),+] step [$($step:expr),+] store [$($store:literal),+]) => {
        /// # Safety
        /// The CPU has AMX, the shape of this number of tiles is loaded, `steps` is not 0, and
        /// every tile of the block lies in memory that may be read, and for `out` written.
        unsafe fn $name(block: &Block) {
            // SAFETY: this function's contract.
            unsafe {
                asm!(
                    "test r12, r12", "jnz 2f",
                    $($zero,)+
                    "jmp 3f", "2:",
                    $($load,)+
                    "3:",
                    $($step,)+
                    "add rdi, 64", "add rsi, 64", "add rcx, 1024", "add r8, 1024",
                    "dec rax", "jnz 3b",
                    $($store,)+
                    inout("rdi") block.x[0] => _, inout("rsi") block.x[1] => _, in("rdx") block.x_stride,
                    inout("rcx") block.weights[0] => _, inout("r8") block.weights[1] => _, in("r13") 64usize,
                    in("r9") block.out[0], in("r10") block.out[1], in("r11") block.out_stride,
                    inout("rax") block.steps => _, in("r12") usize::from(block.accumulate),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    };
}

/// Two tiles of rows by two panels, with one of the unit's products.
macro_rules! two_by_two {
    ($name:ident: $multiply:literal) => {
        product!($name:
            zero ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"]
            load ["tileloadd tmm0, [r9 + r11]", "tileloadd tmm1, [r9 + r11 + 64]",
                  "tileloadd tmm2, [r10 + r11]", "tileloadd tmm3, [r10 + r11 + 64]"]
            step ["tileloadd tmm6, [rcx + r13]", "tileloadd tmm4, [rdi + rdx]",
                  concat!($multiply, " tmm0, tmm4, tmm6"),
                  prefetch!("rcx"),
                  "tileloadd tmm5, [rsi + rdx]", concat!($multiply, " tmm2, tmm5, tmm6"),
                  "tileloadd tmm7, [r8 + r13]", concat!($multiply, " tmm1, tmm4, tmm7"),
                  prefetch!("r8"),
                  concat!($multiply, " tmm3, tmm5, tmm7")]
            store ["tilestored [r9 + r11], tmm0", "tilestored [r9 + r11 + 64], tmm1",
                   "tilestored [r10 + r11], tmm2", "tilestored [r10 + r11 + 64], tmm3"]);
    };
}

two_by_two!(two_by_two: "tdpbf16ps");
two_by_two!(two_by_two_int8: "tdpbssd");

product!(two_by_one:
    zero ["tilezero tmm0", "tilezero tmm2"]
    load ["tileloadd tmm0, [r9 + r11]", "tileloadd tmm2, [r10 + r11]"]
    step ["tileloadd tmm6, [rcx + r13]", "tileloadd tmm4, [rdi + rdx]", "tdpbf16ps tmm0, tmm4, tmm6",
          prefetch!("rcx"),
          "tileloadd tmm5, [rsi + rdx]", "tdpbf16ps tmm2, tmm5, tmm6"]
    store ["tilestored [r9 + r11], tmm0", "tilestored [r10 + r11], tmm2"]);

product!(one_by_two:
    zero ["tilezero tmm0", "tilezero tmm1"]
    load ["tileloadd tmm0, [r9 + r11]", "tileloadd tmm1, [r9 + r11 + 64]"]
    step ["tileloadd tmm4, [rdi + rdx]", "tileloadd tmm6, [rcx + r13]", "tdpbf16ps tmm0, tmm4, tmm6",
          prefetch!("rcx"),
          "tileloadd tmm7, [r8 + r13]", "tdpbf16ps tmm1, tmm4, tmm7",
          prefetch!("r8")]
    store ["tilestored [r9 + r11], tmm0", "tilestored [r9 + r11 + 64], tmm1"]);

product!(one_by_one:
    zero ["tilezero tmm0"]
    load ["tileloadd tmm0, [r9 + r11]"]
    step ["tileloadd tmm4, [rdi + rdx]", "tileloadd tmm6, [rcx + r13]", "tdpbf16ps tmm0, tmm4, tmm6",
          prefetch!("rcx")]
    store ["tilestored [r9 + r11], tmm0"]);
