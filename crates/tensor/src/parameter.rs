//! Tensors that outlive the tape: what an optimizer moves.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::{Context, Tensor};

/// A named tensor of trainable numbers (f32 masters) and the sum of its gradients. Cloning gives another handle.
#[derive(Clone)]
pub struct Parameter(Rc<Cells>);

struct Cells {
    name: String,
    value: RefCell<Tensor>,
    gradient: RefCell<Option<Tensor>>,
    /// Whether `gradient` holds a sum, or only a buffer of unspecified contents.
    has_gradient: Cell<bool>,
    trainable: Cell<bool>,
}

impl Parameter {
    /// A parameter that starts as `value`.
    ///
    /// # Panics
    /// If somebody else holds the buffer of `value`.
    pub fn new(name: impl Into<String>, mut value: Tensor) -> Self {
        value.keep_packed();
        Self(Rc::new(Cells {
            name: name.into(),
            value: RefCell::new(value),
            gradient: RefCell::default(),
            has_gradient: Cell::new(false),
            trainable: Cell::new(true),
        }))
    }

    /// The name in checkpoints.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The numbers as they are now. Do not keep them over an update.
    pub fn value(&self) -> Tensor {
        self.0.value.borrow().clone()
    }

    /// Dimensions, slowest first.
    pub fn shape(&self) -> Vec<usize> {
        self.0.value.borrow().shape().to_vec()
    }

    /// Whether gradients are gathered and updates expected (as from the start), or the parameter stands still.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable.get()
    }

    /// See [`Parameter::is_trainable`].
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.set(trainable);
    }

    /// The sum of the gradients since the last [`Parameter::clear_gradient`], if there were any.
    pub fn gradient(&self) -> Option<Tensor> {
        if self.0.has_gradient.get() { self.0.gradient.borrow().clone() } else { None }
    }

    /// Forgets the gradient; its buffer is kept for the next.
    pub fn clear_gradient(&self) {
        self.0.has_gradient.set(false);
    }

    /// Lets an optimizer change the numbers: `update(values, gradient)`; the gradient is empty if there is none.
    ///
    /// # Panics
    /// If a tape or somebody else still holds the values.
    pub fn update<R>(&self, update: impl FnOnce(&mut [f32], &[f32]) -> R) -> R {
        let gradient = self.gradient();
        let mut value = self.0.value.borrow_mut();
        let values = value.values_mut();
        let values = values.unwrap_or_else(|| panic!("`{}` changes while a tape holds it", self.0.name));
        update(values, gradient.as_ref().map_or(&[], |gradient| gradient.values()))
    }

    /// Lets `change` alter the gradient (clipping, averaging over machines), if there is one.
    ///
    /// # Panics
    /// If somebody holds the gradient.
    pub fn update_gradient(&self, change: impl FnOnce(&mut [f32])) {
        if self.0.has_gradient.get() {
            let mut gradient = self.0.gradient.borrow_mut();
            let values = gradient.as_mut().and_then(Tensor::values_mut);
            change(
                values
                    .unwrap_or_else(|| panic!("the gradient of `{}` changes while it is held", self.0.name)),
            );
        }
    }

    pub(crate) fn write_gradient(&self, context: &Context, write: impl FnOnce(&mut [f32], bool)) {
        if !self.is_trainable() {
            return;
        }
        let mut gradient = self.0.gradient.borrow_mut();
        let accumulate = self.0.has_gradient.replace(true);
        match gradient.as_mut() {
            Some(sum) => match sum.values_mut() {
                Some(values) => write(values, accumulate),
                None => panic!("the gradient of `{}` changes while it is held", self.0.name),
            },
            None => *gradient = Some(context.build(self.shape(), |values| write(values, false))),
        }
    }
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parameter({} {:?})", self.0.name, self.shape())
    }
}
