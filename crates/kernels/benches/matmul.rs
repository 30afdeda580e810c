//! `cargo bench -p fathom-kernels --bench matmul`: the products of a training step against what the machine
//! allows.
//!
//! Shapes of two configurations (S: 12 M, M: 154 M parameters, 4,096 tokens per step): forward, `dx`, `dW`,
//! and all experts of a layer in one call. Each in f32 and bf16 on every ISA: time, GFLOP/s, and the share of
//! the multiplier's peak measured in the same run. Numbers and names pick: `-- 2 avx2 f32 "M experts"`; a
//! shape such as `4096x1024x512` (`[m, n, k]`) replaces the built-in ones.

use std::time::Instant;

use fathom_kernels::matmul::{MatmulPrecision, Operand, PackedOperand, Product, View, matmul};
use fathom_kernels::roofline::{Multiplier, multiply_rate};
use fathom_kernels::{Compute, Floats, Isa};

/// Seconds per measurement.
const SECONDS: f64 = 0.4;

/// How operands lie.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// `y = x · Wᵀ`: `W [n, k]` packed before.
    Forward,
    /// `dx = dy · W`: `W [k, n]` packed before.
    Backward,
    /// `dW += dyᵀ · x`: both `[k, ..]`, packed by the product.
    Weights,
    /// `[m, k] · [k, n]`, packed by the product.
    Plain,
}

/// `count` products of a shape `[m, n, k]`.
struct Case {
    name: &'static str,
    form: Form,
    count: usize,
    shape: [usize; 3],
}

const fn case(name: &'static str, form: Form, count: usize, shape: [usize; 3]) -> Case {
    Case { name, form, count, shape }
}

const CASES: [Case; 17] = [
    case("square", Form::Plain, 1, [2048, 2048, 2048]),
    case("S dense up", Form::Forward, 1, [4096, 1280, 256]),
    case("S dense dx", Form::Backward, 1, [4096, 256, 1280]),
    case("S dense dW", Form::Weights, 1, [1280, 256, 4096]),
    case("S experts up", Form::Forward, 16, [1024, 256, 256]),
    case("S experts down", Form::Forward, 16, [1024, 256, 128]),
    case("S experts dW", Form::Weights, 16, [256, 256, 1024]),
    case("M q_a", Form::Forward, 1, [4096, 256, 512]),
    case("M dense up", Form::Forward, 1, [4096, 3840, 512]),
    case("M dense down", Form::Forward, 1, [4096, 512, 1920]),
    case("M dense dW", Form::Weights, 1, [3840, 512, 4096]),
    case("M o_proj dW", Form::Weights, 1, [512, 512, 4096]),
    case("M experts up", Form::Forward, 32, [512, 768, 512]),
    case("M experts down", Form::Forward, 32, [512, 512, 384]),
    case("M experts dW", Form::Weights, 32, [768, 512, 512]),
    case("experts, 64 rows", Form::Forward, 32, [64, 256, 256]),
    case("heads", Form::Plain, 64, [64, 64, 96]),
];

fn main() {
    // Cargo passes flags such as `--bench`; `cargo test` passes none and only wants to see it start.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let threads = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(0);
    let asked = |name: &str| arguments.iter().any(|argument| argument == name);
    let isas: Vec<Isa> = Isa::available().filter(|isa| asked(isa.name())).collect();
    let precisions = [("f32", MatmulPrecision::F32), ("bf16", MatmulPrecision::Bf16)];
    let some_precision = precisions.iter().any(|(name, _)| asked(name));
    let shapes: Vec<Case> = arguments
        .iter()
        .filter_map(|argument| parse_shape(argument))
        .flat_map(|shape| {
            [Form::Plain, Form::Forward, Form::Weights].map(|form| case("asked", form, 1, shape))
        })
        .collect();
    let named = CASES.iter().any(|case| asked(case.name));
    println!(
        "{:<18} {:>7} {:>18} {:>5} {:>7} {:>9} {:>9} {:>7} {:>7}",
        "product", "form", "[m, n, k]", "in", "isa", "µs", "GFLOP/s", "of peak", "spread"
    );
    for isa in
        Isa::available().filter(|isa| if isas.is_empty() { *isa > Isa::Scalar } else { isas.contains(isa) })
    {
        let compute = Compute::with_isa(isa, threads);
        for (name, precision) in precisions.into_iter().filter(|(name, _)| !some_precision || asked(name)) {
            let chosen = CASES.iter().filter(|case| shapes.is_empty() && (!named || asked(case.name)));
            for case in shapes.iter().chain(chosen) {
                bench(&compute, (name, precision), case);
            }
        }
    }
}

/// `512x3648x2048`.
fn parse_shape(text: &str) -> Option<[usize; 3]> {
    let sides: Vec<usize> = text.split('x').map(str::parse).collect::<Result<_, _>>().ok()?;
    sides.try_into().ok()
}

fn bench(compute: &Compute, (name, precision): (&str, MatmulPrecision), case: &Case) {
    let &Case { form, count, shape: [m, n, k], .. } = case;
    let numbers = |len: usize| {
        let mut numbers = Floats::zeroed(len);
        numbers
            .as_mut_slice()
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = (i * 37 % 255) as f32 / 128.0 - 1.0);
        numbers
    };
    let (a, b, mut c) = (numbers(count * m * k), numbers(count * k * n), Floats::zeroed(count * m * n));
    let (a, b, c) = (a.as_slice(), b.as_slice(), c.as_mut_slice());
    let packed: Vec<PackedOperand> = b
        .chunks_exact(k * n)
        .filter(|_| matches!(form, Form::Forward | Form::Backward))
        .map(|b| {
            let view = match form {
                Form::Forward => View::dense(b, n, k).transposed(),
                _ => View::dense(b, k, n),
            };
            let mut packed = PackedOperand::empty();
            packed.pack(compute, precision, view);
            packed
        })
        .collect();
    let mut products: Vec<Product<'_>> = c
        .chunks_exact_mut(m * n)
        .enumerate()
        .map(|(i, c)| {
            let (a, b) = (&a[i * m * k..][..m * k], &b[i * k * n..][..k * n]);
            let a = match form {
                Form::Weights => View::dense(a, k, m).transposed(),
                _ => View::dense(a, m, k),
            };
            let b = packed.get(i).map_or(Operand::View(View::dense(b, k, n)), Operand::Packed);
            Product { a, b, c, c_stride: n, alpha: 1.0, accumulate: form == Form::Weights }
        })
        .collect();
    let flops = 2.0 * (count * m * n * k) as f64;
    let multiplier = match (compute.isa(), precision) {
        (Isa::Amx, MatmulPrecision::Bf16) => Multiplier::Bf16Tiles,
        _ => Multiplier::F32,
    };
    let peak = multiply_rate(compute, multiplier, SECONDS / 4.0).expect("the ISA's own multiplier").best;
    let (started, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < 5 || started.elapsed().as_secs_f64() < SECONDS {
        let pass = Instant::now();
        matmul(compute, precision, &mut products);
        seconds.push(pass.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
    let form = match form {
        Form::Forward => "x·Wᵀ",
        Form::Backward => "dy·W",
        Form::Weights => "dyᵀ·x",
        Form::Plain => "a·b",
    };
    println!(
        "{:<18} {form:>7} {:>18} {name:>5} {:>7} {:>9.0} {:>9.1} {:>5.0} % {:>5.0} %",
        if count > 1 { format!("{} × {count}", case.name) } else { case.name.to_owned() },
        format!("{m}×{n}×{k}"),
        compute.isa().name(),
        1e6 * median,
        flops / median / 1e9,
        100.0 * flops / median / peak,
        100.0 * (median / best - 1.0),
    );
}
