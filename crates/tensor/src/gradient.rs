//! Where gradients flow: one slot per value, filled by whoever used the value.

use fathom_kernels::parallel::PIECE;

use crate::tensor::{Shape, Tensor};
use crate::{Context, Parameter, Var};

/// Names the gradient of one value, for the closure that computes it. Cheap to clone; holds no value.
#[derive(Clone, Debug)]
pub struct GradientSlot(pub(crate) Source);

#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Nobody asks for this gradient.
    Constant,
    Node {
        index: usize,
        shape: Shape,
    },
    Parameter(Parameter),
}

/// The gradients that a backward pass has gathered so far.
pub struct Gradients {
    pub(crate) context: Context,
    pub(crate) nodes: Vec<Option<Tensor>>,
}

impl Gradients {
    /// The machine, for the tensors that a backward rule makes.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Whether the gradient of `slot` is asked for: a rule skips what nobody wants.
    pub fn wants(&self, slot: &GradientSlot) -> bool {
        match &slot.0 {
            Source::Constant => false,
            Source::Node { .. } => true,
            Source::Parameter(parameter) => parameter.is_trainable(),
        }
    }

    /// The gradient of an input ([`crate::Tape::input`]), if the loss depends on it.
    pub fn of(&self, input: &Var) -> Option<&Tensor> {
        match input.slot().0 {
            Source::Node { index, .. } => self.nodes[index].as_ref(),
            Source::Constant | Source::Parameter(_) => None,
        }
    }

    /// Adds `gradient` to the slot. Its shape need only have as many elements as the value.
    pub fn add(&mut self, slot: &GradientSlot, gradient: Tensor) {
        if let Source::Node { index, shape } = &slot.0
            && self.nodes[*index].is_none()
        {
            self.nodes[*index] = Some(gradient.reshape(shape));
        } else if self.wants(slot) {
            let context = self.context.clone();
            let gradient = gradient.values();
            self.write(slot, |values, accumulate| {
                context.compute().for_pieces(values, PIECE, |piece, values| {
                    let added = &gradient[piece * PIECE..][..values.len()];
                    if accumulate {
                        values.iter_mut().zip(added).for_each(|(sum, &value)| *sum += value);
                    } else {
                        values.copy_from_slice(added);
                    }
                });
            });
        }
    }

    /// Lets `write(values, accumulate)` put a gradient into the slot's own buffer: it adds to `values` if
    /// `accumulate`, and otherwise sets every one of them (their contents are unspecified). Does nothing where
    /// nobody asks for the gradient.
    pub fn write(&mut self, slot: &GradientSlot, write: impl FnOnce(&mut [f32], bool)) {
        match &slot.0 {
            Source::Constant => {}
            Source::Parameter(parameter) => parameter.write_gradient(&self.context, write),
            Source::Node { index, shape } => match &mut self.nodes[*index] {
                Some(sum) => match sum.values_mut() {
                    Some(values) => write(values, true),
                    None => {
                        // Somebody else holds this buffer (a gradient that was passed on as it is).
                        let mut copy = self.context.tensor(shape, sum.values());
                        write(copy.values_mut().expect("a new buffer"), true);
                        *sum = copy;
                    }
                },
                empty => *empty = Some(self.context.build(shape, |values| write(values, false))),
            },
        }
    }
}
