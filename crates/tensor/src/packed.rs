//! Weights as the right operands of products: packed once per update and kept, or for each product anew.

use std::ops::Deref;
use std::rc::Rc;

use fathom_kernels::matmul::{PackedOperand, View};

use crate::Context;

/// A packed weight.
pub(crate) enum Packed {
    /// Kept by the weight until it changes.
    Kept(Rc<PackedOperand>),
    /// Lent for one product; its memory goes back to the context.
    Lent(Lent),
}

pub(crate) struct Lent {
    operand: PackedOperand,
    context: Context,
}

impl Lent {
    /// `view` packed in memory that served an operand of the same shape before, if any is free.
    pub(crate) fn pack(context: &Context, view: View<'_>) -> Self {
        let mut operand = context.spare_packed([view.rows, view.cols]).unwrap_or_default();
        operand.pack(context.compute(), context.precision(), view);
        Self { operand, context: context.clone() }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.context.keep_spare(std::mem::take(&mut self.operand));
    }
}

impl Deref for Packed {
    type Target = PackedOperand;

    fn deref(&self) -> &PackedOperand {
        match self {
            Packed::Kept(operand) => operand,
            Packed::Lent(lent) => &lent.operand,
        }
    }
}
