//! Tensors and a tape: what a training step is made of.
//!
//! A [`Context`] is the machine (threads, instruction set, an arena of buffers) and the precision of products. A
//! [`Tensor`] is a shape and a shared, row-major buffer of f32 from the arena. A [`Var`] is a tensor that a [`Tape`]
//! has seen: operations on it are methods, each computes its value at once and leaves on the tape how its gradient
//! flows back; [`Tape::backward`] walks the tape in reverse. A [`Parameter`] is a named tensor that outlives the tape
//! and collects gradients over any number of backward passes.
//!
//! ```
//! use fathom_tensor::{Context, Parameter, Tape};
//!
//! let context = Context::new(fathom_kernels::Compute::new(1).unwrap(), fathom_tensor::Precision::F32);
//! let weight = Parameter::new("weight", context.tensor([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
//! let tape = Tape::new(&context);
//! let x = tape.constant(context.tensor([1, 2], &[1.0, -1.0]));
//! let y = x.linear(&tape.parameter(&weight)).silu();     // [1, 3]
//! tape.backward(&y.sum_all());
//! assert_eq!(weight.gradient().unwrap().shape(), &[3, 2]);
//! ```
//!
//! The plain operations ([`ops`]) are enough to write a new layer in ordinary code; the coarse ones (linear maps with
//! packed weights, attention, experts, head and loss) carry the speed. Each stands in one file with its backward,
//! and a finite-difference test holds it to that.
//!
//! **Invariant:** a buffer that somebody else may read is never written: values change only in
//! [`Parameter::update`], and only while no tape holds them.
//!
//! **Invariant:** buffers come from the arena and go back to it: a steady step allocates none.
//!
//! **Invariant:** gradients do not depend on the number of threads.
//!
//! **Invariant:** knows no model, no file and no optimizer. A shape that does not fit is a broken promise of the
//! calling code and panics, naming the operation and the shapes.
#![forbid(unsafe_code)]

mod arena;
mod context;
mod gradient;
mod ids;
pub mod ops;
mod packed;
mod parameter;
mod recompute;
mod tape;
#[cfg(test)]
mod tape_tests;
mod tensor;
pub mod testing;

pub use context::{Context, Packing, Precision};
pub use gradient::{GradientSlot, Gradients};
pub use ids::Ids;
pub use parameter::Parameter;
pub use tape::{Tape, Var};
pub use tensor::{Orientation, Shape, Tensor};
