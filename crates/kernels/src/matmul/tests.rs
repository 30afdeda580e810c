//! Every ISA against a plain triple loop in f64, in all the forms that operands take.

use fathom_numeric::round::to_bf16_precision;
use proptest::prelude::*;

use super::*;
use crate::Isa;

const PRECISIONS: [MatmulPrecision; 2] = [MatmulPrecision::F32, MatmulPrecision::Bf16];

/// Deterministic numbers in [-1, 1).
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// How an operand of a test lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Dense,
    /// Rows further apart than they are long.
    Strided,
    Transposed,
    /// Rows by an index, some of them twice.
    Gathered,
    /// The same, then transposed: columns by an index.
    GatheredTransposed,
    /// Columns next to each other in memory are rows of the view, chosen by an index: no stride helps.
    TransposedGathered,
}

const FORMS: [Form; 6] = [
    Form::Dense,
    Form::Strided,
    Form::Transposed,
    Form::Gathered,
    Form::GatheredTransposed,
    Form::TransposedGathered,
];

/// Memory of a view `[rows, cols]` of a form.
struct Matrix {
    values: Vec<f32>,
    index: Vec<u32>,
    form: Form,
    shape: [usize; 2],
}

impl Matrix {
    fn new(form: Form, shape @ [rows, cols]: [usize; 2], seed: u64) -> Self {
        let indexed = if form == Form::GatheredTransposed { cols } else { rows };
        let index = (0..indexed).map(|i| (i * 7 + 3) as u32 % (indexed as u32 + 2)).collect();
        Self { values: numbers((rows + 3) * (cols + 3), seed), index, form, shape }
    }

    fn view(&self) -> View<'_> {
        let ([rows, cols], values) = (self.shape, &self.values[..]);
        match self.form {
            Form::Dense => View::dense(values, rows, cols),
            Form::Strided => View::strided(&values[1..], rows, cols, cols + 2),
            Form::Transposed => View::strided(values, cols, rows, rows + 1).transposed(),
            Form::Gathered => View::strided(values, 0, cols, cols).gathered(&self.index),
            Form::GatheredTransposed => {
                View::strided(values, 0, rows, rows).gathered(&self.index).transposed()
            }
            Form::TransposedGathered => {
                View::strided(values, cols, rows + 2, rows + 2).transposed().gathered(&self.index)
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    precision: MatmulPrecision,
    shape: [usize; 3],
    forms: [Form; 2],
    alpha: f32,
    accumulate: bool,
    packed: bool,
    threads: usize,
}

impl Case {
    fn plain(precision: MatmulPrecision, shape: [usize; 3]) -> Self {
        let forms = [Form::Dense; 2];
        Self { precision, shape, forms, alpha: 1.0, accumulate: false, packed: false, threads: 2 }
    }

    fn operands(&self) -> [Matrix; 2] {
        let [m, n, k] = self.shape;
        [Matrix::new(self.forms[0], [m, k], 1), Matrix::new(self.forms[1], [k, n], 2)]
    }

    fn run(&self, isa: Isa) -> Vec<f32> {
        let [m, n, _] = self.shape;
        let (compute, stride) = (Compute::with_isa(isa, self.threads), n + 3);
        let [a, b] = self.operands();
        let mut packed = PackedOperand::empty();
        let b = if self.packed {
            packed.pack(&compute, self.precision, b.view());
            Operand::Packed(&packed)
        } else {
            Operand::View(b.view())
        };
        let mut c = numbers(m * stride, 3);
        let (alpha, accumulate) = (self.alpha, self.accumulate);
        let product = Product { a: a.view(), b, c: &mut c, c_stride: stride, alpha, accumulate };
        matmul(&compute, self.precision, &mut [product]);
        c
    }

    /// Results within the error of f32 sums, everything between rows untouched.
    #[track_caller]
    fn check(&self, isa: Isa) {
        let [m, n, k] = self.shape;
        let (actual, before, stride) = (self.run(isa), numbers(m * (n + 3), 3), n + 3);
        let [a, b] = self.operands();
        let (a, b) = (a.view(), b.view());
        let round = |value: f32| match self.precision {
            MatmulPrecision::F32 => f64::from(value),
            MatmulPrecision::Bf16 => f64::from(to_bf16_precision(value)),
        };
        // Numbers are below 1: a sum of k products has an error of about √k roundings.
        let tolerance = 1e-6 * f64::from(self.alpha.abs() + 1.0) * (4.0 * (k as f64).sqrt() + 1.0);
        for row in 0..m {
            for col in 0..stride {
                let at = row * stride + col;
                if col >= n {
                    assert_eq!(actual[at], before[at], "{isa} {self:?}: a number beyond row {row} changed");
                    continue;
                }
                let sum: f64 = (0..k).map(|i| round(a.at(row, i)) * round(b.at(i, col))).sum();
                let old = if self.accumulate { f64::from(before[at]) } else { 0.0 };
                let (expected, actual) = (old + f64::from(self.alpha) * sum, f64::from(actual[at]));
                assert!(
                    (actual - expected).abs() <= tolerance,
                    "{isa} {self:?}: ({row}, {col}) is {actual}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn edges_of_panels_and_blocks() {
    for isa in Isa::available() {
        for precision in PRECISIONS {
            let layout = Layout::of(isa, precision);
            let sides = |panel: usize| [1, panel - 1, panel, panel + 1, 3 * panel + 2];
            for m in sides(layout.left) {
                for n in sides(layout.right) {
                    for k in [1, 2, 31, 32, 33, 65] {
                        Case::plain(precision, [m, n, k]).check(isa);
                    }
                }
            }
            let beyond = [layout.rows + 3, 40, layout.depth + 5];
            for packed in [false, true] {
                Case { packed, ..Case::plain(precision, beyond) }.check(isa);
                Case { packed, accumulate: true, ..Case::plain(precision, beyond) }.check(isa);
            }
        }
    }
}

#[test]
fn operands_of_every_form() {
    for isa in Isa::available() {
        for precision in PRECISIONS {
            for a in FORMS {
                for b in FORMS {
                    for shape in [[13, 37, 21], [64, 48, 70]] {
                        let case = Case { forms: [a, b], ..Case::plain(precision, shape) };
                        case.check(isa);
                        Case { packed: true, ..case }.check(isa);
                    }
                }
            }
        }
    }
}

#[test]
fn factors_and_sums_to_old_values() {
    for isa in Isa::available() {
        for alpha in [1.0, -0.3, 0.0] {
            for accumulate in [false, true] {
                for shape in [[7, 19, 33], [32, 64, 64], [0, 5, 3], [5, 0, 3], [5, 3, 0]] {
                    Case { alpha, accumulate, ..Case::plain(MatmulPrecision::F32, shape) }.check(isa);
                    Case { alpha, accumulate, packed: true, ..Case::plain(MatmulPrecision::Bf16, shape) }
                        .check(isa);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn odd_shapes(
        m in 1usize..90, n in 1usize..120, k in 1usize..300,
        forms in (0usize..6, 0usize..6), flags in any::<[bool; 3]>(),
    ) {
        let precision = PRECISIONS[usize::from(flags[0])];
        let case = Case {
            forms: [FORMS[forms.0], FORMS[forms.1]],
            accumulate: flags[1],
            packed: flags[2],
            ..Case::plain(precision, [m, n, k])
        };
        for isa in Isa::available() {
            case.check(isa);
        }
    }
}

/// One thread cuts nothing, three cut much and unevenly: the bits are the same, packed before or not.
#[test]
fn results_do_not_depend_on_threads_nor_on_packing() {
    for isa in Isa::available() {
        for precision in PRECISIONS {
            for shape in [[301, 203, 530], [40, 700, 290], [700, 40, 290]] {
                let case = Case { accumulate: true, threads: 1, ..Case::plain(precision, shape) };
                let one = case.run(isa);
                for threads in [2, 3, 7] {
                    for packed in [false, true] {
                        let other = Case { threads, packed, ..case }.run(isa);
                        assert!(one == other, "{isa} {case:?}: {threads} threads, packed: {packed}");
                    }
                }
            }
        }
    }
}

/// Experts: rows of one matrix by an index each, weights of their own, one of them without rows.
#[test]
fn many_products_in_one_region() {
    let (rows, cols, out) = (50, 40, 24);
    let lists: [&[u32]; 4] = [&[0, 3, 49, 7, 7], &[], &[1], &[10, 11, 12, 13, 14, 15, 16, 17, 18]];
    let (x, w) = (numbers(rows * cols, 5), numbers(lists.len() * out * cols, 6));
    for isa in Isa::available() {
        let compute = Compute::with_isa(isa, 2);
        let weights: Vec<PackedOperand> = w
            .chunks_exact(out * cols)
            .map(|w| {
                let mut packed = PackedOperand::empty();
                packed.pack(&compute, MatmulPrecision::F32, View::dense(w, out, cols).transposed());
                packed
            })
            .collect();
        let mut results: Vec<Vec<f32>> = lists.iter().map(|list| vec![f32::NAN; list.len() * out]).collect();
        let mut products: Vec<Product<'_>> = lists
            .iter()
            .zip(&weights)
            .zip(&mut results)
            .map(|((list, weights), c)| Product {
                a: View::dense(&x, rows, cols).gathered(list),
                b: Operand::Packed(weights),
                c,
                c_stride: out,
                alpha: 1.0,
                accumulate: false,
            })
            .collect();
        matmul(&compute, MatmulPrecision::F32, &mut products);
        for ((list, w), result) in lists.iter().zip(w.chunks_exact(out * cols)).zip(&results) {
            for (&row, result) in list.iter().zip(result.chunks_exact(out)) {
                for (w, &actual) in w.chunks_exact(cols).zip(result) {
                    let x = &x[row as usize * cols..][..cols];
                    let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    assert!((f64::from(actual) - sum).abs() < 3e-5, "{isa}: {actual}, not {sum}");
                }
            }
        }
    }
}

#[test]
fn the_building_block_is_the_same_product() {
    let (shape @ [m, n, k], stride) = ([64, 50, 96], 70);
    for isa in Isa::available() {
        for precision in PRECISIONS {
            let case = Case { forms: [Form::Strided, Form::Transposed], ..Case::plain(precision, shape) };
            let [a, b] = case.operands();
            let layout = Layout::of(isa, precision);
            let (mut c, mut scratch) = (vec![1.0; m * stride], vec![0.0; micro::block_len(layout, shape)]);
            let target = micro::Target { c: &mut c, stride, alpha: 0.5, accumulate: true };
            micro::block(layout, a.view(), b.view(), target, &mut scratch);
            let whole = Case { alpha: 0.5, ..case }.run(isa);
            for row in 0..m {
                for col in 0..n {
                    let (actual, expected) = (c[row * stride + col], 1.0 + whole[row * (n + 3) + col]);
                    assert!((actual - expected).abs() < 1e-6 * k as f32, "{isa}: {actual}, not {expected}");
                }
            }
        }
    }
}

/// NaN and infinities are seen in the results that they belong to, and in no other.
#[test]
fn what_is_no_number_stays_in_its_row_and_column() {
    for isa in Isa::available() {
        for precision in PRECISIONS {
            for bad in [f32::NAN, f32::INFINITY] {
                let (m, n, k) = (35, 37, 40);
                let (mut a, b) = (numbers(m * k, 1), numbers(k * n, 2));
                a[17 * k + 5] = bad;
                let mut c = vec![0.0; m * n];
                let product = Product {
                    a: View::dense(&a, m, k),
                    b: Operand::View(View::dense(&b, k, n)),
                    c: &mut c,
                    c_stride: n,
                    alpha: 1.0,
                    accumulate: false,
                };
                matmul(&Compute::with_isa(isa, 1), precision, &mut [product]);
                for (row, c) in c.chunks_exact(n).enumerate() {
                    assert!(
                        c.iter().all(|c| c.is_finite() == (row != 17)),
                        "{isa} {precision:?} {bad} {row}"
                    );
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "product 0: A is [2, 3], but B is [4, 5]")]
fn depths_must_agree() {
    let (a, b, mut c) = ([0.0; 6], [0.0; 20], [0.0; 10]);
    let (a, b) = (View::dense(&a, 2, 3), Operand::View(View::dense(&b, 4, 5)));
    let product = Product { a, b, c: &mut c, c_stride: 5, alpha: 1.0, accumulate: false };
    matmul(&Compute::with_isa(Isa::Scalar, 1), MatmulPrecision::F32, &mut [product]);
}

#[test]
#[should_panic(expected = "product 0: C [2, 5] (rows 6 apart) leaves its memory of 10 numbers")]
fn results_must_have_room() {
    let (a, b, mut c) = ([0.0; 6], [0.0; 15], [0.0; 10]);
    let (a, b) = (View::dense(&a, 2, 3), Operand::View(View::dense(&b, 3, 5)));
    let product = Product { a, b, c: &mut c, c_stride: 6, alpha: 1.0, accumulate: false };
    matmul(&Compute::with_isa(Isa::Scalar, 1), MatmulPrecision::F32, &mut [product]);
}

#[test]
#[should_panic(expected = "packed for bf16 on scalar, but is multiplied in f32 on scalar")]
fn a_packed_operand_belongs_to_its_precision() {
    let (compute, values, mut c) = (Compute::with_isa(Isa::Scalar, 1), [0.0; 9], [0.0; 9]);
    let (view, mut packed) = (View::dense(&values, 3, 3), PackedOperand::empty());
    packed.pack(&compute, MatmulPrecision::Bf16, view);
    let b = Operand::Packed(&packed);
    let product = Product { a: view, b, c: &mut c, c_stride: 3, alpha: 1.0, accumulate: false };
    matmul(&compute, MatmulPrecision::F32, &mut [product]);
}
