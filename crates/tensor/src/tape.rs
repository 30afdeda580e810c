//! What was computed, and how gradients flow back through it.

use std::cell::RefCell;
use std::rc::Rc;

use crate::gradient::Source;
use crate::{Context, GradientSlot, Gradients, Parameter, Tensor};

/// Takes the gradient of an operation's result and adds to the gradients of its inputs.
type Backward = Box<dyn FnOnce(Tensor, &mut Gradients)>;

/// A record of operations, in order. Cloning gives another handle to the same tape.
#[derive(Clone)]
pub struct Tape(Rc<Record>);

struct Record {
    context: Context,
    /// `None` on a tape that only computes. An input has no rule: its gradient stays where it is.
    nodes: Option<RefCell<Vec<Option<Backward>>>>,
}

/// A tensor on a tape: operations are its methods. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct Var {
    tape: Tape,
    value: Tensor,
    source: Source,
}

impl Tape {
    /// An empty tape.
    pub fn new(context: &Context) -> Self {
        Self(Rc::new(Record { context: context.clone(), nodes: Some(RefCell::default()) }))
    }

    /// A tape that records nothing: values only, for validation and recomputation.
    pub fn without_gradients(context: &Context) -> Self {
        Self(Rc::new(Record { context: context.clone(), nodes: None }))
    }

    /// The machine.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// Whether operations are recorded.
    pub fn records(&self) -> bool {
        self.0.nodes.is_some()
    }

    /// A value whose gradient nobody asks for.
    pub fn constant(&self, value: Tensor) -> Var {
        Var { tape: self.clone(), value, source: Source::Constant }
    }

    /// A value whose gradient stays in what [`Tape::backward`] returns, for [`Gradients::of`].
    pub fn input(&self, value: Tensor) -> Var {
        self.node(value, None)
    }

    /// The values of `parameter`; its gradient is added to the parameter's own sum.
    pub fn parameter(&self, parameter: &Parameter) -> Var {
        let source = if self.records() && parameter.is_trainable() {
            Source::Parameter(parameter.clone())
        } else {
            Source::Constant
        };
        Var { tape: self.clone(), value: parameter.value(), source }
    }

    /// Puts the result of an operation on the tape. `backward(gradient, gradients)` gets the gradient of `value` and
    /// adds to those of the inputs, named by their [`Var::slot`]s. It owns what it needs: tensors and slots, never a
    /// [`Var`], which would keep the tape alive for ever.
    pub fn record(
        &self,
        value: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(Tensor, &mut Gradients) + 'static,
    ) -> Var {
        if inputs.iter().any(|input| input.needs_gradient()) {
            self.node(value, Some(Box::new(backward)))
        } else {
            self.constant(value)
        }
    }

    /// As [`Tape::record`], whether or not an input needs a gradient.
    pub(crate) fn always(
        &self,
        value: Tensor,
        backward: impl FnOnce(Tensor, &mut Gradients) + 'static,
    ) -> Var {
        self.node(value, Some(Box::new(backward)))
    }

    fn node(&self, value: Tensor, backward: Option<Backward>) -> Var {
        let Some(nodes) = &self.0.nodes else { return self.constant(value) };
        let mut nodes = nodes.borrow_mut();
        nodes.push(backward);
        let source = Source::Node { index: nodes.len() - 1, shape: value.shape().into() };
        Var { tape: self.clone(), value, source }
    }

    /// Sends the gradient 1 from `loss`, a single number, back through the tape: parameters gather theirs, inputs'
    /// are in the result. What was recorded is consumed.
    ///
    /// # Panics
    /// If `loss` is not a single number.
    pub fn backward(&self, loss: &Var) -> Gradients {
        assert_eq!(loss.value.elements(), 1, "backward starts from a single number, not {:?}", loss.value);
        let one = self.context().full(loss.shape(), 1.0);
        self.backward_from(&[(loss, one)])
    }

    /// The same from any results with given gradients.
    ///
    /// # Panics
    /// If a gradient has not as many elements as its result.
    pub fn backward_from(&self, results: &[(&Var, Tensor)]) -> Gradients {
        let records = self.0.nodes.as_ref().map(RefCell::take).unwrap_or_default();
        let nodes = records.iter().map(|_| None).collect();
        let mut gradients = Gradients { context: self.context().clone(), nodes };
        for (result, gradient) in results {
            gradients.add(&result.slot(), gradient.clone());
        }
        for (index, backward) in records.into_iter().enumerate().rev() {
            if let Some(backward) = backward
                && let Some(gradient) = gradients.nodes[index].take()
            {
                backward(gradient, &mut gradients);
            }
        }
        gradients
    }
}

impl Var {
    /// The numbers.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// The tape it is on.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// The machine.
    pub fn context(&self) -> &Context {
        self.tape.context()
    }

    /// Whether a gradient flows into this value.
    pub fn needs_gradient(&self) -> bool {
        !matches!(self.source, Source::Constant)
    }

    /// The name of this value's gradient, for a backward rule.
    pub fn slot(&self) -> GradientSlot {
        GradientSlot(self.source.clone())
    }

    /// The same numbers, through which no gradient flows.
    pub fn detach(&self) -> Var {
        self.tape.constant(self.value.clone())
    }
}

impl std::fmt::Debug for Var {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Var{:?}", self.shape())
    }
}
