//! The machine that tensors live on.

use std::rc::Rc;

use fathom_kernels::Compute;
pub use fathom_kernels::matmul::MatmulPrecision as Precision;

use crate::arena::Arena;
use crate::tensor::{Shape, Tensor};

/// Threads, instruction set, arena and precision of products. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Context(Rc<Machine>);

#[derive(Debug)]
struct Machine {
    compute: Compute,
    precision: Precision,
    arena: Arena,
}

impl Context {
    /// A context of its own arena.
    pub fn new(compute: Compute, precision: Precision) -> Self {
        Self(Rc::new(Machine { compute, precision, arena: Arena::default() }))
    }

    /// Threads and instruction set.
    pub fn compute(&self) -> &Compute {
        &self.0.compute
    }

    /// What operands of products are rounded to; sums are f32.
    pub fn precision(&self) -> Precision {
        self.0.precision
    }

    /// A tensor that holds `values`.
    ///
    /// # Panics
    /// If `values` are not as many as `shape` has elements.
    pub fn tensor(&self, shape: impl Into<Shape>, values: &[f32]) -> Tensor {
        self.build(shape, |buffer| buffer.copy_from_slice(values))
    }

    /// A tensor of zeroes.
    pub fn zeros(&self, shape: impl Into<Shape>) -> Tensor {
        self.full(shape, 0.0)
    }

    /// A tensor of one number.
    pub fn full(&self, shape: impl Into<Shape>, value: f32) -> Tensor {
        self.build(shape, |buffer| {
            self.compute().for_pieces(buffer, fathom_kernels::parallel::PIECE, |_, piece| piece.fill(value));
        })
    }

    /// A tensor whose elements `write` sets, every one: the buffer that it is given has unspecified contents.
    pub fn build(&self, shape: impl Into<Shape>, write: impl FnOnce(&mut [f32])) -> Tensor {
        let mut tensor = Tensor::unspecified(shape.into(), &self.0.arena);
        write(tensor.values_mut().expect("nobody else has seen the buffer"));
        tensor
    }

    /// Lends `work` a buffer of the arena with room for `len` numbers, of unspecified contents.
    pub fn scratch<R>(&self, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut tensor = Tensor::unspecified([len].into(), &self.0.arena);
        work(tensor.values_mut().expect("nobody else has seen the buffer"))
    }

    /// Bytes of tensors alive at most at one time.
    pub fn peak_bytes(&self) -> usize {
        self.0.arena.peak_bytes()
    }

    /// Buffers allocated so far: the number stands still in a steady step.
    pub fn allocations(&self) -> usize {
        self.0.arena.allocations()
    }

    /// Gives buffers that no tensor uses back to the system.
    pub fn release_free_buffers(&self) {
        self.0.arena.clear();
    }
}
