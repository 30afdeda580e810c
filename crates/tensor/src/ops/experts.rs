//! The experts of a mixture: every token through the SwiGLUs that it was routed to (V2 eq. 20-22).
//!
//! Rows are grouped by expert and nothing is padded: one product per expert, whose rows are gathered while they are
//! packed. With `g = x · Gᵀ`, `u = x · Uᵀ`, `h = silu(g) · u` per choice of a token, and `w` its weight:
//! `y = Σ w · h · Dᵀ`. Backward starts from `dh' = dy · D`, which gives both the weights' gradient, `dw = dh' · h`,
//! and `dh = w · dh'`; so the experts' outputs need not be kept, only `g` and `u`.

use std::ops::Range;
use std::rc::Rc;

use fathom_kernels::combine::{Choices, sum_experts};
use fathom_kernels::gemm::Rows;
use fathom_kernels::matmul::{Operand, Product, View, matmul};
use fathom_kernels::training::swiglu;

use crate::packed::Packed;
use crate::tensor::Orientation;
use crate::{Context, Gradients, Ids, Tensor, Var};

/// Tokens grouped by expert. A slot is one choice of one token; slots are ordered by expert, then token.
#[derive(Debug)]
pub struct Dispatch {
    /// Slots of expert `e` are `starts[e]..starts[e + 1]`.
    starts: Vec<usize>,
    /// The token of every slot.
    tokens: Vec<u32>,
    /// The choice `token · top_k + k` of every slot.
    choices: Vec<u32>,
    /// The slot of every choice.
    slots: Vec<u32>,
    top_k: usize,
}

impl Dispatch {
    /// Groups the choices `ids [tokens, top_k]` among `experts`.
    ///
    /// # Panics
    /// If there are no two dimensions, or an id is no expert.
    pub fn new(ids: &Ids, experts: usize) -> Self {
        let [tokens, top_k] = *ids.shape() else { panic!("dispatch of ids {:?}", ids.shape()) };
        let mut starts = vec![0; experts + 1];
        ids.values().iter().for_each(|&id| starts[id as usize + 1] += 1);
        (1..=experts).for_each(|expert| starts[expert] += starts[expert - 1]);
        let (mut next, count) = (starts.clone(), tokens * top_k);
        let mut dispatch =
            Self { starts, tokens: vec![0; count], choices: vec![0; count], slots: vec![0; count], top_k };
        for (choice, &id) in ids.values().iter().enumerate() {
            let slot = next[id as usize];
            next[id as usize] += 1;
            dispatch.tokens[slot] = (choice / top_k) as u32;
            dispatch.choices[slot] = choice as u32;
            dispatch.slots[choice] = slot as u32;
        }
        dispatch
    }

    /// Tokens of every expert.
    pub fn counts(&self) -> Vec<u32> {
        self.starts.windows(2).map(|ends| (ends[1] - ends[0]) as u32).collect()
    }

    fn slots_of(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    /// Experts that have tokens.
    fn used(&self) -> impl Iterator<Item = usize> {
        (0..self.starts.len() - 1).filter(|&expert| !self.slots_of(expert).is_empty())
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    /// What [`sum_experts`] adds up for every token.
    fn sums<'a>(&'a self, weights: &'a [f32]) -> Choices<'a> {
        let weighted = if weights.is_empty() { 0 } else { self.top_k };
        Choices { slots: &self.slots, each: self.top_k, weights, weighted }
    }
}

/// Stacked weights of all experts.
#[derive(Clone, Copy)]
pub struct ExpertWeights<'a> {
    /// `[experts, width, hidden]`, the half that goes through SiLU.
    pub gate_proj: &'a Var,
    /// `[experts, width, hidden]`
    pub up_proj: &'a Var,
    /// `[experts, hidden, width]`
    pub down_proj: &'a Var,
}

impl Var {
    /// The weighted sum of each token's experts: `self [tokens, hidden]`, `weights [tokens, top_k]`, result
    /// `[tokens, hidden]`. An expert without tokens gets a gradient of zeroes.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn experts(&self, dispatch: &Rc<Dispatch>, weights: &Var, experts: ExpertWeights<'_>) -> Var {
        let ExpertWeights { gate_proj, up_proj, down_proj } = experts;
        let (tokens, hidden) = self.value().rows();
        let [count, width, inner] = *gate_proj.shape() else { panic!("experts: a stack, not {gate_proj:?}") };
        assert!(
            inner == hidden
                && up_proj.shape() == gate_proj.shape()
                && *down_proj.shape() == [count, hidden, width]
                && *weights.shape() == [tokens, dispatch.top_k]
                && dispatch.starts.len() == count + 1
                && dispatch.len() == tokens * dispatch.top_k,
            "experts of {self:?} by {gate_proj:?}, {up_proj:?}, {down_proj:?} and {weights:?}"
        );
        let context = self.context().clone();
        let saved = Saved {
            dispatch: Rc::clone(dispatch),
            x: self.value().clone(),
            weights: weights.value().clone(),
            projections: [gate_proj, up_proj, down_proj].map(|projection| projection.value().clone()),
            width,
        };
        let (y, gate_up) = saved.forward(&context, self.shape());
        let slots = [self, weights, gate_proj, up_proj, down_proj].map(Var::slot);
        self.tape().record(y, &[self, weights, gate_proj, up_proj, down_proj], move |dy, gradients| {
            let context = gradients.context().clone();
            let [x_slot, weights_slot, gate_slot, up_slot, down_slot] = slots;
            let SlotGradients { weighted_h, dgate, dup, dweights } = saved.slots(&context, &dy, gate_up);
            gradients.add(&weights_slot, dweights);
            let dispatch = &*saved.dispatch;
            let (dy, h) = (Side::Tokens(dy.view()), Side::Slots(weighted_h.view()));
            weight_gradient(gradients, dispatch, &down_slot, dy, h);
            drop(weighted_h);
            let x = Side::Tokens(saved.x.view());
            weight_gradient(gradients, dispatch, &gate_slot, Side::Slots(dgate.view()), x);
            weight_gradient(gradients, dispatch, &up_slot, Side::Slots(dup.view()), x);
            if gradients.wants(&x_slot) {
                let dx = saved.dx(&context, &dgate, &dup);
                gradients.add(&x_slot, dx);
            }
        })
    }
}

/// What backward needs, besides `g` and `u`.
struct Saved {
    dispatch: Rc<Dispatch>,
    x: Tensor,
    weights: Tensor,
    /// Gate, up, down.
    projections: [Tensor; 3],
    width: usize,
}

/// Gradients by slot, `[slots, width]`.
struct SlotGradients {
    /// `w · h`.
    weighted_h: Tensor,
    dgate: Tensor,
    dup: Tensor,
    /// `[tokens, top_k]`
    dweights: Tensor,
}

impl Saved {
    /// The result of `shape`, and `g` and `u` `[slots, width]`.
    fn forward(&self, context: &Context, shape: &[usize]) -> (Tensor, [Tensor; 2]) {
        let (dispatch, slots, width) = (&*self.dispatch, self.dispatch.len(), self.width);
        let [gate_proj, up_proj, down_proj] = &self.projections;
        let mut gate = context.build([slots, width], |_| {});
        let up = context.build([slots, width], |up| {
            let gate = gate.values_mut().expect("a new buffer");
            let maps = [(gate_proj, gate), (up_proj, up)];
            multiply(context, dispatch, Side::Tokens(self.x.view()), Orientation::Transposed, maps, false);
        });
        let h = context.build([slots, width], |h| {
            let [gate, up] = [&gate, &up].map(|half| Rows::dense(half.values(), width));
            swiglu::forward(context.compute(), gate, up, h);
        });
        let hidden = self.x.rows().1;
        let outputs = context.build([slots, hidden], |y| {
            let h = Side::Slots(h.view());
            multiply(context, dispatch, h, Orientation::Transposed, [(down_proj, y)], false);
        });
        let y = context.build(shape, |y| {
            let sums = dispatch.sums(self.weights.values());
            sum_experts(context.compute(), sums, outputs.values(), hidden, y);
        });
        (y, [gate, up])
    }

    fn slots(&self, context: &Context, dy: &Tensor, [mut gate, mut up]: [Tensor; 2]) -> SlotGradients {
        let (dispatch, slots, width) = (&*self.dispatch, self.dispatch.len(), self.width);
        let mut dh = context.build([slots, width], |dh| {
            let dy = Side::Tokens(dy.view());
            multiply(context, dispatch, dy, Orientation::AsStored, [(&self.projections[2], dh)], false);
        });
        let weights = self.weights.values();
        let dots = context.build([slots], |dots| {
            let values = [&mut gate, &mut up, &mut dh].map(|t| t.values_mut().expect("nobody else has it"));
            let weight = |slot: usize| weights[dispatch.choices[slot] as usize];
            swiglu::backward_weighted(context.compute(), weight, values, dots);
        });
        let dweights = context.build(self.weights.shape(), |dweights| {
            for (&choice, &dot) in dispatch.choices.iter().zip(dots.values()) {
                dweights[choice as usize] = dot;
            }
        });
        SlotGradients { weighted_h: dh, dgate: gate, dup: up, dweights }
    }

    fn dx(&self, context: &Context, dgate: &Tensor, dup: &Tensor) -> Tensor {
        let (dispatch, hidden) = (&*self.dispatch, self.x.rows().1);
        let [gate_proj, up_proj, _] = &self.projections;
        let by_slot = context.build([dispatch.len(), hidden], |dx| {
            for (d, projection, accumulate) in [(dgate, gate_proj, false), (dup, up_proj, true)] {
                let maps = [(projection, &mut *dx)];
                multiply(context, dispatch, Side::Slots(d.view()), Orientation::AsStored, maps, accumulate);
            }
        });
        context.build(self.x.shape(), |dx| {
            sum_experts(context.compute(), dispatch.sums(&[]), by_slot.values(), hidden, dx);
        })
    }
}

/// Rows of a product, by token or by slot.
#[derive(Clone, Copy)]
enum Side<'a> {
    Tokens(View<'a>),
    Slots(View<'a>),
}

impl<'a> Side<'a> {
    fn of(self, dispatch: &'a Dispatch, expert: usize) -> View<'a> {
        let slots = dispatch.slots_of(expert);
        match self {
            Side::Tokens(view) => view.gathered(&dispatch.tokens[slots]),
            Side::Slots(view) => view.sub(slots, 0..view.cols),
        }
    }
}

/// Every expert's rows times its matrix of each stack, into `[slots, ..]`: all products in one region.
fn multiply<const N: usize>(
    context: &Context,
    dispatch: &Dispatch,
    rows: Side<'_>,
    orientation: Orientation,
    maps: [(&Tensor, &mut [f32]); N],
    accumulate: bool,
) {
    let pack = |stack: &Tensor| -> Vec<Option<Packed>> {
        dispatch.used().map(|expert| stack.packed(context, expert, orientation)).collect()
    };
    let packed = maps.each_ref().map(|(stack, _)| pack(stack));
    let mut products = Vec::with_capacity(N * packed.first().map_or(0, Vec::len));
    let (stacks, mut rests) = (maps.each_ref().map(|(stack, _)| *stack), maps.map(|(_, results)| results));
    let widths = rests.each_ref().map(|results| results.len() / dispatch.len().max(1));
    // All maps of an expert one after the other: they share its rows, which are packed once.
    for (index, expert) in dispatch.used().enumerate() {
        for (((stack, packed), rest), &width) in stacks.iter().zip(&packed).zip(&mut rests).zip(&widths) {
            let (c, tail) = std::mem::take(rest).split_at_mut(dispatch.slots_of(expert).len() * width);
            *rest = tail;
            let b = match (&packed[index], orientation) {
                (Some(packed), _) => Operand::Packed(packed),
                (None, Orientation::AsStored) => Operand::View(stack.matrix(expert)),
                (None, Orientation::Transposed) => Operand::View(stack.matrix(expert).transposed()),
            };
            let a = rows.of(dispatch, expert);
            products.push(Product { a, b, c, c_stride: width, alpha: 1.0, accumulate });
        }
    }
    matmul(context.compute(), context.precision(), &mut products);
}

/// `dW = dyᵀ · x` of every expert, where anybody wants it.
fn weight_gradient(
    gradients: &mut Gradients,
    dispatch: &Dispatch,
    slot: &crate::GradientSlot,
    dy: Side<'_>,
    x: Side<'_>,
) {
    let context = gradients.context().clone();
    gradients.write(slot, |dw, accumulate| {
        let experts = dispatch.starts.len() - 1;
        let mut products = Vec::with_capacity(experts);
        let size = dw.len() / experts;
        for (expert, c) in dw.chunks_exact_mut(size.max(1)).enumerate() {
            if dispatch.slots_of(expert).is_empty() {
                if !accumulate {
                    c.fill(0.0);
                }
                continue;
            }
            let (a, b) = (dy.of(dispatch, expert).transposed(), x.of(dispatch, expert));
            products.push(Product { a, b: Operand::View(b), c, c_stride: b.cols, alpha: 1.0, accumulate });
        }
        matmul(context.compute(), context.precision(), &mut products);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_gradients;

    /// Expert 2 has no token.
    #[test]
    fn gradients_of_experts() {
        let (tokens, hidden, width) = (5, 4, 3);
        let ids = Ids::new([tokens, 2], vec![0, 1, 1, 3, 0, 3, 0, 1, 1, 3]);
        let dispatch = Rc::new(Dispatch::new(&ids, 4));
        assert_eq!(dispatch.counts(), [3, 4, 0, 3]);
        let shapes: [&[usize]; 5] =
            [&[tokens, hidden], &[tokens, 2], &[4, width, hidden], &[4, width, hidden], &[4, hidden, width]];
        check_gradients(&shapes, |vars| {
            let [x, weights, gate_proj, up_proj, down_proj] = vars else { panic!("five inputs") };
            x.experts(&dispatch, weights, ExpertWeights { gate_proj, up_proj, down_proj })
        });
    }

    /// Against each token's experts one by one, in plain operations.
    #[test]
    fn experts_are_swiglus() {
        let context = crate::testing::context();
        let (tokens, hidden, width) = (7, 6, 5);
        let random = crate::testing::random;
        let ids = Ids::new([tokens, 1], vec![2, 0, 2, 1, 0, 0, 2]);
        let tape = crate::Tape::without_gradients(&context);
        let x = tape.constant(context.tensor([tokens, hidden], &random(tokens * hidden, 1)));
        let ones = tape.constant(context.full([tokens, 1], 1.0));
        let stack = |shape: [usize; 3], seed| {
            tape.constant(context.tensor(shape, &random(shape.iter().product(), seed)))
        };
        let (gate, up) = (stack([3, width, hidden], 2), stack([3, width, hidden], 3));
        let down = stack([3, hidden, width], 4);
        let experts = ExpertWeights { gate_proj: &gate, up_proj: &up, down_proj: &down };
        let y = x.experts(&Rc::new(Dispatch::new(&ids, 3)), &ones, experts);
        for (token, &expert) in ids.values().iter().enumerate() {
            let one = |stack: &Var, rows: usize, cols: usize| {
                let values = &stack.value().values()[expert as usize * rows * cols..][..rows * cols];
                tape.constant(context.tensor([rows, cols], values))
            };
            let row = x.gather_rows(&Ids::new([1], vec![token as u32]));
            let (gate, up) = (one(&gate, width, hidden), one(&up, width, hidden));
            let wanted = row.linear(&gate).swiglu(&row.linear(&up)).linear(&one(&down, hidden, width));
            let got = &y.value().values()[token * hidden..][..hidden];
            assert!(got.iter().zip(wanted.value().values()).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }
}
