//! `cargo bench -p fathom-kernels`: products against what the machine allows.
//!
//! Shape × format × ISA: time, bandwidth of the weights where reading them is the limit (few rows),
//! operations where multiplying is, the share of the limit measured in the same run, and the ratio
//! to f32 weights on AVX-512 (or the best ISA below it). `cargo bench -p fathom-kernels --bench gemm -- 4`
//! runs on four threads (the default is one per processor); names of formats and ISAs pick some of them:
//! `-- 2 q4_k q8_0 avx512`, and a shape such as `512x3648x2048` replaces the built-in ones.

use fathom_kernels::gemm::{Precision, WeightFormat};
use fathom_kernels::roofline::{Multiplier, Rate, gemm_rate, multiply_rate, read_bandwidth};
use fathom_kernels::{Compute, Isa};
use fathom_numeric::blocks::BlockFormat;

/// Seconds per measurement.
const SECONDS: f64 = 0.2;

/// Memory read for the bandwidth: many times a last-level cache.
const READ_BYTES: usize = 1 << 30;

/// Rows up to which reading the weights is the limit.
const STREAMED_ROWS: usize = 16;

/// `[rows, n, k]` of V2-Lite. One row: decode; 48: an expert's share of 512 tokens; 512: a prompt.
const SHAPES: [(&str, [usize; 3]); 8] = [
    ("qkv", [1, 3648, 2048]),
    ("dense gate+up", [1, 21888, 2048]),
    ("head", [1, 102400, 2048]),
    ("qkv, batch of 4", [4, 3648, 2048]),
    ("expert gate+up", [48, 2816, 2048]),
    ("expert down", [48, 2048, 1408]),
    ("qkv", [512, 3648, 2048]),
    ("o_proj", [512, 2048, 2048]),
];

/// Formats that run unless some are named.
const FORMATS: [WeightFormat; 6] = [
    WeightFormat::F32,
    WeightFormat::Bf16,
    WeightFormat::Block(BlockFormat::Fp8),
    WeightFormat::Block(BlockFormat::Q8_0),
    WeightFormat::Block(BlockFormat::Q4_0),
    WeightFormat::Block(BlockFormat::Q4K),
];

/// What the machine allows on one ISA.
struct Limits {
    read: f64,
    f32_flops: f64,
    bf16_flops: Option<f64>,
    tile_flops: Option<f64>,
    int8_ops: Option<f64>,
    int8_tile_ops: Option<f64>,
}

impl Limits {
    fn measure(compute: &Compute) -> Self {
        let multiply = |multiplier| multiply_rate(compute, multiplier, SECONDS).map(|rate| rate.best);
        Self {
            read: read_bandwidth(compute, READ_BYTES, SECONDS).best,
            f32_flops: multiply(Multiplier::F32).expect("every ISA multiplies f32"),
            bf16_flops: multiply(Multiplier::Bf16),
            tile_flops: multiply(Multiplier::Bf16Tiles),
            int8_ops: multiply(Multiplier::Int8),
            int8_tile_ops: multiply(Multiplier::Int8Tiles),
        }
    }

    fn flops(&self, format: WeightFormat) -> f64 {
        let multiplier = match format.precision() {
            Precision::F32 => None,
            Precision::Bf16 => self.tile_flops.or(self.bf16_flops),
            Precision::Int8 => self.int8_tile_ops.or(self.int8_ops),
        };
        multiplier.unwrap_or(self.f32_flops)
    }
}

fn main() {
    // Cargo passes flags such as `--bench`; `cargo test` passes none and only wants to see it start.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let threads = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(0);
    let named: Vec<WeightFormat> =
        arguments.iter().filter_map(|argument| WeightFormat::from_name(argument)).collect();
    let formats = if named.is_empty() { FORMATS.to_vec() } else { named };
    let isas: Vec<Isa> =
        Isa::available().filter(|isa| arguments.iter().any(|argument| argument == isa.name())).collect();
    let machines: Vec<(Compute, Limits)> = Isa::available()
        .filter(|isa| isas.is_empty() || isas.contains(isa))
        .map(|isa| Compute::with_isa(isa, threads))
        .map(|compute| {
            let limits = Limits::measure(&compute);
            (compute, limits)
        })
        .collect();
    for (compute, limits) in &machines {
        let tiles = [("bf16", limits.tile_flops), ("int8", limits.int8_tile_ops)].map(|(name, rate)| {
            rate.map_or(String::new(), |rate| format!(", {name} tiles {:.0}", rate / 1e9))
        });
        println!(
            "{:<7} {} threads: read {:.1} GB/s, f32 {:.0} GFLOP/s, int8 {:.0} GOP/s{}{}",
            compute.isa().name(),
            compute.threads(),
            limits.read / 1e9,
            limits.f32_flops / 1e9,
            limits.int8_ops.unwrap_or(0.0) / 1e9,
            tiles[0],
            tiles[1]
        );
    }
    println!();
    println!(
        "{:<16} {:>18} {:>6} {:>7} {:>9} {:>12} {:>6} {:>6} {:>8}",
        "product", "[rows, n, k]", "format", "isa", "µs", "rate", "limit", "spread", "× f32"
    );
    let asked: Vec<[usize; 3]> = arguments.iter().filter_map(|argument| parse_shape(argument)).collect();
    for shape in &asked {
        bench("as asked", *shape, &formats, &machines);
    }
    for (name, shape) in SHAPES.into_iter().filter(|_| asked.is_empty()) {
        bench(name, shape, &formats, &machines);
    }
}

/// `512x3648x2048`.
fn parse_shape(text: &str) -> Option<[usize; 3]> {
    let sides: Vec<usize> = text.split('x').map(str::parse).collect::<Result<_, _>>().ok()?;
    sides.try_into().ok()
}

/// All formats and ISAs of one shape.
fn bench(name: &str, shape: [usize; 3], formats: &[WeightFormat], machines: &[(Compute, Limits)]) {
    let [rows, n, k] = shape;
    let flops = 2.0 * (rows * n * k) as f64;
    let baseline = machines.iter().rev().find(|(compute, _)| compute.isa() <= Isa::Avx512);
    let baseline = baseline.map(|(compute, _)| gemm_rate(compute, WeightFormat::F32, shape, SECONDS).median);
    for format in formats.iter().copied() {
        for (compute, limits) in machines {
            // The reference takes seconds per product.
            if compute.isa() == Isa::Scalar && (rows >= 48 || n * k > 8 << 20) {
                continue;
            }
            let Rate { best, median } = gemm_rate(compute, format, shape, SECONDS);
            let bytes_per_flop = format.bytes_of((n * k) as u64) as f64 / flops;
            let (rate, share) = if rows <= STREAMED_ROWS {
                let bytes = median * bytes_per_flop;
                (format!("{:.1} GB/s", bytes / 1e9), bytes / limits.read)
            } else {
                (format!("{:.0} GFLOP/s", median / 1e9), median / limits.flops(format))
            };
            println!(
                "{name:<16} {:>18} {:>6} {:>7} {:>9.0} {rate:>12} {:>4.0} % {:>4.0} % {:>8.2}",
                format!("{shape:?}"),
                format.name(),
                compute.isa().name(),
                1e6 * flops / median,
                100.0 * share,
                100.0 * (best / median - 1.0),
                median / baseline.unwrap_or(median),
            );
        }
    }
}
