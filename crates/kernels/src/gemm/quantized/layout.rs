//! Where codes and scales of a panel of 16 rows lie.
//!
//! A panel is a stream of chunks; a chunk holds some columns of all 16 rows, its scales first, and is a
//! whole number of cache lines. Codes come in runs of [`RUN`] (32) columns, and a run in quads: four
//! columns of 16 rows, `[16 rows][4 columns]` bytes, the operand of `vpdpbusd` and one line of an AMX tile:
//!
//! ```text
//! 8 bits   8 lines: quad q is line q
//! 4 bits   4 lines: quads q and q + 4 are the lower and upper halves of the bytes of line q
//! 5 bits   the 4 bits, then 1 line: bit q of a byte is the fifth bit of quad q
//! 6 bits   the 4 bits, then 2 lines: bits 2·(q % 4) of line q / 4 are the upper bits of quad q
//! ```
//!
//! Codes are unsigned; the weight is `scale · (code - offset) - minimum`. Every repacking from a file's
//! blocks is lossless (`quantized/pack.rs`).

pub(crate) use fathom_numeric::blocks::BlockFormat;

use crate::gemm::PANEL;

/// Columns that share a scale with the activations.
pub(crate) const RUN: usize = 32;

/// Quads of a run.
pub(crate) const QUADS: usize = RUN / 4;

/// Bytes of a quad of 16 rows: a cache line.
pub(crate) const QUAD_BYTES: usize = 4 * PANEL;

/// Columns of the longest chunk; all others divide it.
pub(crate) const CHUNK_COLS_MAX: usize = 256;

/// How the codes of a run are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codes {
    Eight,
    Four,
    Five,
    Six,
    /// Four bits into [`LEVELS`].
    Table,
}

impl Codes {
    /// Bytes of a run of 16 rows.
    pub(crate) const fn run_bytes(self) -> usize {
        match self {
            Codes::Eight => 512,
            Codes::Four | Codes::Table => 256,
            Codes::Five => 320,
            Codes::Six => 384,
        }
    }

    /// Whether a run's quads take its lines one after the other: fifth and sixth bits lie behind the lines that each
    /// quad begins with.
    #[cfg(vector_kernels)]
    pub(crate) const fn in_order(self) -> bool {
        !matches!(self, Codes::Five | Codes::Six)
    }
}

/// How the scales of a chunk are stored, per column of the panel's 16 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// Two groups of this many columns: `[2][16]` f16.
    Group(usize),
    /// One run: `[16]` f16 scales, `[16]` f16 minima.
    RunAndMinimum,
    /// Eight runs: `[16]` f16, 32 bytes unused, `[8][16]` i8 that multiply it.
    Super,
    /// Eight runs: `[16]` f16, 32 bytes unused, `[8][2][16]` i8: one for each half of a run.
    SuperHalves,
    /// Eight runs: `[16]` f16 scales, `[16]` f16 for minima, `[8][2][16]` u8: scale and minimum.
    SuperAndMinimum,
}

impl Scales {
    /// Columns of a chunk.
    pub(crate) const fn chunk_cols(self) -> usize {
        match self {
            Scales::Group(group) => 2 * group,
            Scales::RunAndMinimum => RUN,
            Scales::Super | Scales::SuperHalves | Scales::SuperAndMinimum => 256,
        }
    }

    /// Bytes before the codes.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Scales::Group(_) | Scales::RunAndMinimum => 64,
            Scales::Super => 64 + 128,
            Scales::SuperHalves | Scales::SuperAndMinimum => 64 + 256,
        }
    }

    /// Scales of a run.
    pub(crate) const fn per_run(self) -> usize {
        match self {
            Scales::SuperHalves => 2,
            _ => 1,
        }
    }

    /// Whether there are minima.
    pub(crate) const fn minimum(self) -> bool {
        matches!(self, Scales::RunAndMinimum | Scales::SuperAndMinimum)
    }
}

/// The levels of IQ4_NL and IQ4_XS, as codes with offset 128 (a fact of the format: -127, -104, … 113).
pub(crate) const LEVELS: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// A format known to the compiler, so that kernels are made for each.
pub(crate) trait Format {
    const CODES: Codes;
    const SCALES: Scales;
    /// The weight is `scale · (code - 2^OFFSET_LOG2)`; `None`: `scale · code`.
    const OFFSET_LOG2: Option<u32>;
    const LAYOUT: Layout =
        Layout { codes: Self::CODES, scales: Self::SCALES, offset_log2: Self::OFFSET_LOG2 };
}

/// The same at run time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) codes: Codes,
    pub(crate) scales: Scales,
    pub(crate) offset_log2: Option<u32>,
}

impl Layout {
    /// # Panics
    /// If `format` has no integer codes.
    pub(crate) fn of(format: BlockFormat) -> Self {
        with_format!(format, F => F::LAYOUT)
    }

    pub(crate) const fn chunk_cols(self) -> usize {
        self.scales.chunk_cols()
    }

    pub(crate) const fn chunk_bytes(self) -> usize {
        self.scales.bytes() + self.chunk_cols() / RUN * self.codes.run_bytes()
    }

    /// What is subtracted from a code.
    pub(crate) const fn offset(self) -> i32 {
        match self.offset_log2 {
            Some(log2) => 1 << log2,
            None => 0,
        }
    }
}

macro_rules! formats {
    ($($name:ident: $codes:expr, $scales:expr, $offset_log2:expr;)+) => {$(
        pub(crate) struct $name;
        impl Format for $name {
            const CODES: Codes = $codes;
            const SCALES: Scales = $scales;
            const OFFSET_LOG2: Option<u32> = $offset_log2;
        }
    )+};
}

formats! {
    Q8_0: Codes::Eight, Scales::Group(32), Some(7);
    Int8G64: Codes::Eight, Scales::Group(64), Some(7);
    Int8G128: Codes::Eight, Scales::Group(128), Some(7);
    Q4_0: Codes::Four, Scales::Group(32), Some(3);
    Int4G64: Codes::Four, Scales::Group(64), Some(3);
    Int4G128: Codes::Four, Scales::Group(128), Some(3);
    Q4_1: Codes::Four, Scales::RunAndMinimum, None;
    Q5_0: Codes::Five, Scales::Group(32), Some(4);
    Q5_1: Codes::Five, Scales::RunAndMinimum, None;
    Iq4Nl: Codes::Table, Scales::Group(32), Some(7);
    Iq4Xs: Codes::Table, Scales::Super, Some(7);
    Q4K: Codes::Four, Scales::SuperAndMinimum, None;
    Q5K: Codes::Five, Scales::SuperAndMinimum, None;
    Q6K: Codes::Six, Scales::SuperHalves, Some(5);
}

/// `with_format!(format, F => expression)`: the expression with `F` as the type of a [`BlockFormat`].
macro_rules! with_format {
    ($format:expr, $F:ident => $body:expr) => {{
        use $crate::gemm::quantized::layout;
        use $crate::gemm::quantized::layout::BlockFormat;
        match $format {
            BlockFormat::Q8_0 => {
                type $F = layout::Q8_0;
                $body
            }
            BlockFormat::Int8G64 => {
                type $F = layout::Int8G64;
                $body
            }
            BlockFormat::Int8G128 => {
                type $F = layout::Int8G128;
                $body
            }
            BlockFormat::Q4_0 => {
                type $F = layout::Q4_0;
                $body
            }
            BlockFormat::Int4G64 => {
                type $F = layout::Int4G64;
                $body
            }
            BlockFormat::Int4G128 => {
                type $F = layout::Int4G128;
                $body
            }
            BlockFormat::Q4_1 => {
                type $F = layout::Q4_1;
                $body
            }
            BlockFormat::Q5_0 => {
                type $F = layout::Q5_0;
                $body
            }
            BlockFormat::Q5_1 => {
                type $F = layout::Q5_1;
                $body
            }
            BlockFormat::Iq4Nl => {
                type $F = layout::Iq4Nl;
                $body
            }
            BlockFormat::Iq4Xs => {
                type $F = layout::Iq4Xs;
                $body
            }
            BlockFormat::Q4K => {
                type $F = layout::Q4K;
                $body
            }
            BlockFormat::Q5K => {
                type $F = layout::Q5K;
                $body
            }
            BlockFormat::Q6K => {
                type $F = layout::Q6K;
                $body
            }
            BlockFormat::Fp8 => unreachable!("FP8 has no integer codes"),
        }
    }};
}
pub(crate) use with_format;
