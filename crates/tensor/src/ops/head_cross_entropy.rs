//! The output head and its cross-entropy in one operation that never holds `[tokens, vocab]`.
//!
//! Rows are taken in chunks: logits of a chunk, their losses, and, where a tape records, at once their gradients, so
//! that no product is computed twice. What is kept for backward is the gradient of the hidden states and that of the
//! head, both to be multiplied by the gradient of the loss, a single number. Rows that do not count, as a prompt's in
//! fine-tuning, are left out before the products.

use fathom_kernels::matmul::{Operand, Product, View, matmul};
use fathom_kernels::training::cross_entropy;

use crate::ops::arithmetic::map;
use crate::ops::linear::multiply;
use crate::tensor::Orientation;
use crate::{Context, Ids, Tensor, Var};

/// Logits that are in memory at a time, in numbers.
const CHUNK: usize = 1 << 22;

/// What [`Var::head_cross_entropy`] gives.
pub struct HeadLoss {
    /// `Σ coefficient · loss` over the rows, a single number.
    pub loss: Var,
    /// The cross-entropy of every row in nats, `[rows]`; 0 where the coefficient is.
    pub losses: Tensor,
}

/// The sums of a pass over all chunks.
struct Pass<'a> {
    context: &'a Context,
    hidden: &'a Tensor,
    head: &'a Tensor,
    targets: &'a [u32],
    coefficients: &'a [f32],
}

impl Var {
    /// Cross-entropy of `softmax(self · headᵀ)`: `self [.., hidden]`, `head [vocab, hidden]`, `targets` and
    /// `coefficients` one per row. A row's loss counts `coefficient` times: `1 / rows` everywhere is the mean. Rows with
    /// coefficient 0 cost nothing.
    ///
    /// # Panics
    /// If the shapes do not fit, or a target is not in the vocabulary.
    pub fn head_cross_entropy(&self, head: &Var, targets: &Ids, coefficients: &[f32]) -> HeadLoss {
        let (rows, hidden) = self.value().rows();
        let [vocab, width] = *head.shape() else { panic!("head_cross_entropy: a matrix, not {head:?}") };
        assert!(width == hidden, "head_cross_entropy of {self:?} by {head:?}");
        assert!(
            targets.values().len() == rows && coefficients.len() == rows,
            "head_cross_entropy: {} targets and {} coefficients for {rows} rows",
            targets.values().len(),
            coefficients.len()
        );
        let context = self.context().clone();
        let counted: Vec<usize> = (0..rows).filter(|&row| coefficients[row] != 0.0).collect();
        let all = counted.len() == rows;
        let states = if all { self.value().clone() } else { pick_rows(&context, self.value(), &counted) };
        let pass = Pass {
            context: &context,
            hidden: &states,
            head: head.value(),
            targets: &counted.iter().map(|&row| targets.values()[row]).collect::<Vec<_>>(),
            coefficients: &counted.iter().map(|&row| coefficients[row]).collect::<Vec<_>>(),
        };
        let records = self.tape().records();
        let mut dhidden =
            (records && self.needs_gradient()).then(|| context.build([counted.len(), hidden], |_| {}));
        let mut dhead = (records && head.needs_gradient()).then(|| context.build([vocab, hidden], |_| {}));
        let mut losses =
            context.build([counted.len()], |losses| pass.run(losses, dhidden.as_mut(), dhead.as_mut()));
        if !all {
            losses = place_rows(&context, &losses, &counted, &[rows]);
            dhidden = dhidden.map(|dhidden| place_rows(&context, &dhidden, &counted, self.shape()));
        }
        let sum =
            losses.values().iter().zip(coefficients).map(|(&l, &c)| f64::from(l) * f64::from(c)).sum::<f64>();
        let (slot, head_slot) = (self.slot(), head.slot());
        let loss =
            self.tape().record(context.tensor([], &[sum as f32]), &[self, head], move |dloss, gradients| {
                let context = gradients.context().clone();
                let factor = dloss.item();
                for (slot, gradient) in [(&slot, dhidden), (&head_slot, dhead)] {
                    if let Some(gradient) = gradient {
                        let scaled =
                            if factor == 1.0 { gradient } else { map(&context, &gradient, |g| g * factor) };
                        gradients.add(slot, scaled);
                    }
                }
            });
        HeadLoss { loss, losses }
    }
}

/// The rows `counted` of `from [.., width]`, in order.
fn pick_rows(context: &Context, from: &Tensor, counted: &[usize]) -> Tensor {
    let width = from.rows().1;
    context.build([counted.len(), width], |to| {
        for (to, &row) in to.chunks_exact_mut(width).zip(counted) {
            to.copy_from_slice(&from.values()[row * width..][..width]);
        }
    })
}

/// A tensor of `shape` whose rows `counted` are those of `from`, and all others 0.
fn place_rows(context: &Context, from: &Tensor, counted: &[usize], shape: &[usize]) -> Tensor {
    context.build(shape, |to| {
        to.fill(0.0);
        let width = from.values().len() / counted.len().max(1);
        for (index, &row) in counted.iter().enumerate() {
            to[row * width..][..width].copy_from_slice(&from.values()[index * width..][..width]);
        }
    })
}

impl Pass<'_> {
    fn run(&self, losses: &mut [f32], mut dhidden: Option<&mut Tensor>, mut dhead: Option<&mut Tensor>) {
        let vocab = self.head.shape()[0];
        let step = (CHUNK / vocab.max(1)).clamp(64, 4096).min(losses.len().max(1));
        let backward = dhidden.is_some() || dhead.is_some();
        let mut logits = self.context.build([step, vocab], |_| {});
        let mut log_sums = self.context.build([step], |_| {});
        let mut dlogits = self.context.build([if backward { step * vocab } else { 0 }], |_| {});
        for (chunk, losses) in losses.chunks_mut(step).enumerate() {
            let (first, rows) = (chunk * step, losses.len());
            let targets = &self.targets[first..first + rows];
            let logits = &mut logits.values_mut().expect("our own")[..rows * vocab];
            let log_sums = &mut log_sums.values_mut().expect("our own")[..rows];
            let hidden = self.hidden.view().sub(first..first + rows, 0..self.width());
            multiply(self.context, hidden, (self.head, Orientation::Transposed), (logits, vocab), false);
            cross_entropy::forward(self.context.compute(), logits, targets, losses, log_sums);
            if backward {
                let dlogits = &mut dlogits.values_mut().expect("our own")[..rows * vocab];
                let coefficients = &self.coefficients[first..first + rows];
                let compute = self.context.compute();
                cross_entropy::backward(compute, logits, targets, log_sums, coefficients, dlogits);
                self.gradients(first, dlogits, dhidden.as_deref_mut(), dhead.as_deref_mut());
            }
        }
        if self.targets.is_empty() {
            [dhidden, dhead].into_iter().flatten().for_each(|d| d.values_mut().expect("our own").fill(0.0));
        }
    }

    /// From `dlogits [rows, vocab]` of the rows from `first` on.
    fn gradients(
        &self,
        first: usize,
        dlogits: &[f32],
        dhidden: Option<&mut Tensor>,
        dhead: Option<&mut Tensor>,
    ) {
        let (vocab, width) = (self.head.shape()[0], self.width());
        let rows = dlogits.len() / vocab;
        let dlogits = View::dense(dlogits, rows, vocab);
        if let Some(dhidden) = dhidden {
            let dhidden = &mut dhidden.values_mut().expect("our own")[first * width..][..rows * width];
            multiply(self.context, dlogits, (self.head, Orientation::AsStored), (dhidden, width), false);
        }
        if let Some(dhead) = dhead {
            let hidden = self.hidden.view().sub(first..first + rows, 0..width);
            let product = Product {
                a: dlogits.transposed(),
                b: Operand::View(hidden),
                c: dhead.values_mut().expect("our own"),
                c_stride: width,
                alpha: 1.0,
                accumulate: first > 0,
            };
            matmul(self.context.compute(), self.context.precision(), &mut [product]);
        }
    }

    fn width(&self) -> usize {
        self.head.shape()[1]
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, context, random};
    use crate::{Ids, Tape};

    #[test]
    fn gradients_of_the_head() {
        let targets = Ids::new([2, 3], vec![4, 0, 0, 2, 4, 1]);
        let coefficients = [0.3, 0.0, 1.0, -0.5, 0.25, 2.0];
        check_gradients(&[&[2, 3, 4], &[5, 4]], |vars| {
            vars[0].head_cross_entropy(&vars[1], &targets, &coefficients).loss.scale(0.7)
        });
    }

    #[test]
    fn rows_that_do_not_count_change_nothing() {
        let context = context();
        let (x, w) = (random(4 * 3, 1), random(5 * 3, 2));
        let run = |states: &[f32], targets: Vec<u32>, coefficients: &[f32]| {
            let tape = Tape::new(&context);
            let hidden = tape.input(context.tensor([targets.len(), 3], states));
            let head = tape.input(context.tensor([5, 3], &w));
            let ids = Ids::new([targets.len()], targets);
            let loss = hidden.head_cross_entropy(&head, &ids, coefficients);
            let gradients = tape.backward(&loss.loss);
            let [dhidden, dhead] = [&hidden, &head].map(|of| gradients.of(of).unwrap().values().to_vec());
            (loss.losses.values().to_vec(), dhidden, dhead)
        };
        let (losses, dhidden, dhead) = run(&x, vec![4, 1, 0, 2], &[0.0, 0.5, 0.0, 2.0]);
        let counted = [&x[3..6], &x[9..]].concat();
        let (few_losses, few_dhidden, few_dhead) = run(&counted, vec![1, 2], &[0.5, 2.0]);
        assert_eq!(losses, [0.0, few_losses[0], 0.0, few_losses[1]]);
        assert_eq!(dhidden, [&[0.0; 3], &few_dhidden[..3], &[0.0; 3], &few_dhidden[3..]].concat());
        assert_eq!(dhead, few_dhead);
        let (losses, dhidden, dhead) = run(&x, vec![4, 1, 0, 2], &[0.0; 4]);
        assert!([losses, dhidden, dhead].concat().iter().all(|&value| value == 0.0));
    }

    /// Several chunks, the last not full, against one row at a time.
    #[test]
    fn chunks_change_nothing() {
        let (context, rows, width, vocab) = (context(), 70, 3, 1 << 16);
        let (x, w) = (random(rows * width, 1), random(vocab * width, 2));
        let targets: Vec<u32> = (0..rows as u32).map(|row| row * 109 % vocab as u32).collect();
        let run = |range: std::ops::Range<usize>| {
            let tape = Tape::new(&context);
            let hidden =
                tape.input(context.tensor([range.len(), width], &x[range.start * width..range.end * width]));
            let head = tape.input(context.tensor([vocab, width], &w));
            let ids = Ids::new([range.len()], targets[range.clone()].to_vec());
            let loss = hidden.head_cross_entropy(&head, &ids, &vec![1.0; range.len()]);
            let gradients = tape.backward(&loss.loss);
            let dhead = gradients.of(&head).expect("asked for").values()[..30].to_vec();
            (
                loss.losses.values().to_vec(),
                gradients.of(&hidden).expect("asked for").values().to_vec(),
                dhead,
            )
        };
        let (losses, dhidden, dhead) = run(0..rows);
        let mut sum = [0.0f32; 30];
        for row in 0..rows {
            let (loss, dx, dw) = run(row..row + 1);
            assert!((loss[0] - losses[row]).abs() < 1e-5);
            assert!(dx.iter().zip(&dhidden[row * width..]).all(|(a, b)| (a - b).abs() < 1e-5));
            sum.iter_mut().zip(&dw).for_each(|(sum, &value)| *sum += value);
        }
        assert!(sum.iter().zip(&dhead).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}
