//! How a core reads memory best.

use std::arch::x86_64::__cpuid;
use std::sync::LazyLock;

/// What few rows of a product do with the panels they stream.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// Panels side by side with one row, and with 2 to 4; what is left over goes panel by panel.
    pub(super) streams: [usize; 2],
    /// How far ahead of its use a line is prefetched, in bytes.
    pub(super) ahead: usize,
}

impl Reading {
    /// Measured (docs/LOG.md): Intel's prefetchers follow four streams best; Zen 5 reads one a quarter faster than
    /// four, and keeps more lines under way.
    pub(super) fn here() -> Self {
        static HERE: LazyLock<Reading> = LazyLock::new(|| {
            let vendor = __cpuid(0);
            let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
            match name.as_flattened() {
                b"AuthenticAMD" => Reading { streams: [1, 1], ahead: 6144 },
                _ => Reading { streams: [4, 2], ahead: 1024 },
            }
        });
        *HERE
    }
}
