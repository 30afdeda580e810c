//! What the machine allows, in the same sitting.

use fathom_kernels::Compute;
use fathom_kernels::gemm::{Precision, WeightFormat};
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
    /// Operations of vectors of bf16, where the processor multiplies such.
    pub bf16_flops: Option<Measured>,
    /// Operations of the AMX tile unit in bf16, where there is one.
    pub bf16_tile_flops: Option<Measured>,
    /// The same with operands from the second-level cache.
    pub bf16_tile_flops_from_l2: Option<Measured>,
    /// Operations of integer vectors, where the ISA has them.
    pub int8_ops: Option<Measured>,
    /// Operations of the AMX tile unit in int8, where there is one.
    pub int8_tile_ops: Option<Measured>,
    /// The same with operands from the second-level cache.
    pub int8_tile_ops_from_l2: Option<Measured>,
}

/// What the products with some weights multiply with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// The multiplier's name.
    pub multiplier: &'static str,
    /// Its best rate with operands in registers, operations per second.
    pub registers: f64,
    /// Of a tile unit: its best rate with operands from the second-level cache.
    pub from_l2: Option<f64>,
}

impl Limits {
    /// Measures them on all threads of `compute`.
    pub fn measure(compute: &Compute, effort: Effort) -> Self {
        let multiply =
            |multiplier| roofline::multiply_rate(compute, multiplier, effort.seconds).map(Measured::from);
        let from_l2 = |multiplier| {
            roofline::multiply_rate_from_l2(compute, multiplier, effort.seconds).map(Measured::from)
        };
        Self {
            isa: compute.isa().name(),
            threads: compute.threads(),
            read_buffer_bytes: effort.bytes,
            read_before: roofline::read_bandwidth(compute, effort.bytes, effort.seconds).into(),
            read_after: None,
            f32_flops: multiply(Multiplier::F32).expect("every ISA multiplies f32"),
            bf16_flops: multiply(Multiplier::Bf16),
            bf16_tile_flops: multiply(Multiplier::Bf16Tiles),
            bf16_tile_flops_from_l2: from_l2(Multiplier::Bf16Tiles),
            int8_ops: multiply(Multiplier::Int8),
            int8_tile_ops: multiply(Multiplier::Int8Tiles),
            int8_tile_ops_from_l2: from_l2(Multiplier::Int8Tiles),
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

    /// The multiplier that products with weights of format `weights` (its name) use.
    pub fn peak(&self, weights: &str) -> Peak {
        let precision = WeightFormat::from_name(weights).map(WeightFormat::precision);
        let best = |rate: Option<Measured>| rate.map(|rate| rate.best);
        let tiles =
            |multiplier, rate: Measured, l2| Peak { multiplier, registers: rate.best, from_l2: best(l2) };
        let vectors = |multiplier, rate: Measured| tiles(multiplier, rate, None);
        let (tile, vector) = match precision {
            Some(Precision::Bf16) => (
                self.bf16_tile_flops.map(|rate| tiles("bf16 tiles", rate, self.bf16_tile_flops_from_l2)),
                self.bf16_flops.map(|rate| vectors("bf16 vectors", rate)),
            ),
            Some(Precision::Int8) => (
                self.int8_tile_ops.map(|rate| tiles("int8 tiles", rate, self.int8_tile_ops_from_l2)),
                self.int8_ops.map(|rate| vectors("int8 vectors", rate)),
            ),
            _ => (None, None),
        };
        tile.or(vector).unwrap_or_else(|| vectors("f32 FMA", self.f32_flops))
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
            bf16_flops: Some(rate(20.0)),
            bf16_tile_flops: Some(rate(100.0)),
            bf16_tile_flops_from_l2: Some(rate(60.0)),
            int8_ops: Some(rate(40.0)),
            int8_tile_ops: Some(rate(200.0)),
            int8_tile_ops_from_l2: Some(rate(120.0)),
        };
        #[track_caller]
        fn check(limits: &Limits, rows: [(&str, &'static str, f64, Option<f64>); 5]) {
            for (weights, multiplier, registers, from_l2) in rows {
                assert_eq!(limits.peak(weights), Peak { multiplier, registers, from_l2 }, "{weights}");
            }
        }
        let bf16 = ("bf16 tiles", 100.0, Some(60.0));
        let int8 = ("int8 tiles", 200.0, Some(120.0));
        let plain = ("f32 FMA", 10.0, None);
        let row = |name: &'static str, (multiplier, registers, from_l2): (&'static str, f64, Option<f64>)| {
            (name, multiplier, registers, from_l2)
        };
        check(
            &limits,
            [row("bf16", bf16), row("fp8", bf16), row("q8_0", int8), row("q4_k", int8), row("f16", plain)],
        );
        assert_eq!(limits.read(), 3.0);
        (limits.bf16_tile_flops, limits.int8_tile_ops, limits.read_after) = (None, None, Some(rate(4.0)));
        let (bf16, int8) = (("bf16 vectors", 20.0, None), ("int8 vectors", 40.0, None));
        check(
            &limits,
            [row("bf16", bf16), row("fp8", bf16), row("q8_0", int8), row("q6_k", int8), row("f32", plain)],
        );
        (limits.bf16_flops, limits.int8_ops) = (None, None);
        assert_eq!([limits.peak("bf16"), limits.peak("q8_0")].map(|peak| peak.multiplier), ["f32 FMA"; 2]);
        assert_eq!(limits.read(), 4.0);
    }
}
