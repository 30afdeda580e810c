//! The machine that tensors live on.

use std::cell::RefCell;
use std::rc::Rc;

use fathom_kernels::Compute;
pub use fathom_kernels::matmul::MatmulPrecision as Precision;
use fathom_kernels::matmul::PackedOperand;

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
    packing: Packing,
    /// Memory of packed weights that nobody uses, where they are packed for each use.
    spare: RefCell<Vec<PackedOperand>>,
}

/// When weights are packed for products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// Once per update: both packed forms of every weight are kept beside it.
    #[default]
    Once,
    /// For each product: only what one operation packs is held.
    EachUse,
}

impl Context {
    /// A context of its own arena; weights are packed once per update.
    pub fn new(compute: Compute, precision: Precision) -> Self {
        Self::with_packing(compute, precision, Packing::Once)
    }

    /// A context that packs weights when it is told to.
    pub fn with_packing(compute: Compute, precision: Precision, packing: Packing) -> Self {
        let (arena, spare) = (Arena::default(), RefCell::default());
        Self(Rc::new(Machine { compute, precision, arena, packing, spare }))
    }

    /// When weights are packed.
    pub fn packing(&self) -> Packing {
        self.0.packing
    }

    pub(crate) fn spare_packed(&self, [rows, cols]: [usize; 2]) -> Option<PackedOperand> {
        let mut spare = self.0.spare.borrow_mut();
        let fits = |operand: &PackedOperand| (operand.rows(), operand.cols()) == (rows, cols);
        spare.iter().position(fits).map(|at| spare.swap_remove(at))
    }

    pub(crate) fn keep_spare(&self, operand: PackedOperand) {
        self.0.spare.borrow_mut().push(operand);
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
        self.0.spare.borrow_mut().clear();
    }
}
