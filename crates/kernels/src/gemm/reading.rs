//! How a core reads memory best.

use std::arch::x86_64::{__cpuid, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::sync::LazyLock;

/// What a product does with the panels it streams.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// Panels side by side with one row, and with 2 to 4; what is left over goes panel by panel.
    pub(super) streams: [usize; 2],
    /// How far ahead of its use a line is fetched, in bytes, where nothing but one row of lines in order is read, and
    /// where there is more to do; 0 leaves it to the processor.
    ahead: [usize; 2],
    /// Rows up to which integer codes are decoded again for every few rows, instead of once for all.
    pub(super) straight: usize,
}

impl Reading {
    /// Measured (docs/LOG.md): Intel's prefetchers follow four streams best. AMD's read one a quarter faster than four;
    /// where several rows are multiplied meanwhile they fall behind, and Zen 4's want to be left alone where
    /// there is one, unless its lines are not read in order. Decoding again is never slower than unpacking on Zen 4.
    pub(super) fn here() -> Self {
        static HERE: LazyLock<Reading> = LazyLock::new(|| {
            let vendor = __cpuid(0);
            let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
            match (name.as_flattened(), family()) {
                (b"AuthenticAMD", ..=ZEN_4) => {
                    Reading { streams: [1, 1], ahead: [0, 6144], straight: usize::MAX }
                }
                (b"AuthenticAMD", _) => Reading { streams: [1, 1], ahead: [6144, 6144], straight: 32 },
                _ => Reading { streams: [4, 2], ahead: [1024, 1024], straight: 32 },
            }
        });
        *HERE
    }

    /// How far ahead of its use a line is fetched: `only_lines` where one row is multiplied by whole lines in order.
    pub(super) fn ahead(&self, only_lines: bool) -> usize {
        self.ahead[usize::from(!only_lines)]
    }
}

/// The family of Zen 3 and Zen 4.
const ZEN_4: u32 = 0x19;

/// The processor's family, extension included.
fn family() -> u32 {
    let signature = __cpuid(1).eax;
    (signature >> 8 & 0xf) + (signature >> 20 & 0xff)
}

/// Asks for a line, wherever it points. Of a single stream it goes to the second-level cache, because the
/// first-level one waits for too few lines at a time (24 on Zen 4: some 30 GB/s for two cores); of one among several
/// to the first.
#[inline(always)]
pub(super) fn fetch<const STREAMS: usize>(line: *const u8) {
    // SAFETY: a prefetch may point anywhere.
    unsafe {
        match STREAMS {
            1 => _mm_prefetch::<_MM_HINT_T1>(line.cast()),
            _ => _mm_prefetch::<_MM_HINT_T0>(line.cast()),
        }
    }
}
