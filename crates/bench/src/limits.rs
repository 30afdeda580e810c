//! What the machine allows, in the same sitting.

use fathom_kernels::Compute;
use fathom_kernels::roofline::{self, Multiplier, Rate};
use serde::Serialize;

/// How much is spent on measuring the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Memory read to measure the bandwidth: many times the last-level cache, or it is the
    /// cache's bandwidth.
    pub bytes: usize,
    /// Seconds per measurement.
    pub seconds: f64,
}

impl Effort {
    /// 2 GiB, or a quarter of the free memory where that is less, and half a second.
    pub fn standard() -> Self {
        let quarter = available_memory().map_or(u64::MAX, |bytes| bytes / 4);
        Self { bytes: quarter.min(2 << 30) as usize, seconds: 0.5 }
    }
}

/// Bytes of memory that can be had without pushing others out, where the system tells.
pub fn available_memory() -> Option<u64> {
    parse_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A limit: per second, by all threads together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// In the fastest pass: what the machine can do.
    pub best: f64,
    /// In the middle one: what it did while others may have used it too.
    pub median: f64,
}

impl From<Rate> for Measured {
    fn from(rate: Rate) -> Self {
        Self { best: rate.best, median: rate.median }
    }
}

/// The machine's limits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Instruction set in use.
    pub isa: &'static str,
    /// Threads that compute.
    pub threads: usize,
    /// Memory that was read, bytes.
    pub read_buffer_bytes: usize,
    /// Bytes read from memory, before everything else.
    pub read_before: Measured,
    /// The same after everything else.
    pub read_after: Option<Measured>,
    /// Operations of f32 vectors (a product and a sum are two).
    pub f32_flops: Measured,
    /// Operations of the AMX tile unit in bf16, where there is one.
    pub bf16_tile_flops: Option<Measured>,
}

impl Limits {
    /// Measures them on all threads of `compute`.
    pub fn measure(compute: &Compute, effort: Effort) -> Self {
        let multiply =
            |multiplier| roofline::multiply_rate(compute, multiplier, effort.seconds).map(Measured::from);
        Self {
            isa: compute.isa().name(),
            threads: compute.threads(),
            read_buffer_bytes: effort.bytes,
            read_before: roofline::read_bandwidth(compute, effort.bytes, effort.seconds).into(),
            read_after: None,
            f32_flops: multiply(Multiplier::F32).expect("every ISA multiplies f32"),
            bf16_tile_flops: multiply(Multiplier::Bf16Tiles),
        }
    }

    /// Measures the bandwidth once more: the neighbours of a shared machine come and go.
    pub fn read_again(&mut self, compute: &Compute, effort: Effort) {
        self.read_after = Some(roofline::read_bandwidth(compute, effort.bytes, effort.seconds).into());
    }

    /// The best bandwidth seen, bytes per second.
    pub fn read(&self) -> f64 {
        self.read_after.map_or(0.0, |after| after.best).max(self.read_before.best)
    }

    /// The best rate of the multiplier that products with weights of format `weights` (its name)
    /// use, and that multiplier's name.
    pub fn peak(&self, weights: &str) -> (f64, &'static str) {
        match self.bf16_tile_flops {
            Some(tiles) if weights == "bf16" => (tiles.best, "bf16 tiles"),
            _ => (self.f32_flops.best, "f32 FMA"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_or_not_known() {
        let text = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(parse_available(text), Some(2 << 20));
        assert_eq!(parse_available("MemAvailable: many kB"), None);
        assert_eq!(parse_available(""), None);
    }

    #[test]
    fn the_multiplier_is_that_of_the_weights() {
        let rate = |best| Measured { best, median: best / 2.0 };
        let mut limits = Limits {
            isa: "amx",
            threads: 2,
            read_buffer_bytes: 1,
            read_before: rate(3.0),
            read_after: None,
            f32_flops: rate(10.0),
            bf16_tile_flops: Some(rate(100.0)),
        };
        assert_eq!(limits.peak("bf16").0, 100.0);
        assert_eq!(limits.peak("f32").0, 10.0);
        assert_eq!(limits.read(), 3.0);
        (limits.bf16_tile_flops, limits.read_after) = (None, Some(rate(4.0)));
        assert_eq!(limits.peak("bf16"), (10.0, "f32 FMA"));
        assert_eq!(limits.read(), 4.0);
    }
}
