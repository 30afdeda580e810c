//! A shape and the numbers behind it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use fathom_kernels::Floats;
use fathom_kernels::matmul::{PackedOperand, View};

use crate::Context;
use crate::arena::Arena;
use crate::context::Packing;
use crate::packed::{Lent, Packed};

/// Dimensions, slowest first. `[]` is a single number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// The last dimension (1 for a single number) and the number of rows of that length.
    pub fn rows(&self) -> (usize, usize) {
        let width = self.0.last().copied().unwrap_or(1);
        (self.0.split_last().map_or(1, |(_, outer)| outer.iter().product()), width)
    }
}

impl std::ops::Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dimensions: [usize; N]) -> Self {
        Self(dimensions.to_vec())
    }
}

impl From<&[usize]> for Shape {
    fn from(dimensions: &[usize]) -> Self {
        Self(dimensions.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dimensions: Vec<usize>) -> Self {
        Self(dimensions)
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

/// A row-major array of f32 in a shared buffer. Cloning and reshaping share it.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    buffer: Rc<Buffer>,
}

/// Numbers from the arena; they go back there with their last owner.
struct Buffer {
    floats: Floats,
    len: usize,
    arena: Arena,
    /// Packed right operands made of this buffer, where it is a weight: see [`Tensor::keep_packed`].
    packed: Option<RefCell<PackedForms>>,
}

/// By matrix of a stack and orientation; `false` where the numbers have changed since.
type PackedForms = HashMap<(usize, Orientation), (Rc<PackedOperand>, bool)>;

/// How a matrix `W [rows, cols]` stands on the right of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Orientation {
    /// `x · W`.
    AsStored,
    /// `x · Wᵀ`.
    Transposed,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.arena.give_back(self.len, std::mem::take(&mut self.floats));
    }
}

impl Tensor {
    pub(crate) fn unspecified(shape: Shape, arena: &Arena) -> Self {
        let len = shape.elements();
        let buffer = Buffer { floats: arena.take(len), len, arena: arena.clone(), packed: None };
        Self { shape, buffer: Rc::new(buffer) }
    }

    /// Dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.buffer.len
    }

    /// Rows and their length: everything before the last dimension, and the last.
    pub fn rows(&self) -> (usize, usize) {
        self.shape.rows()
    }

    /// The numbers, row-major.
    pub fn values(&self) -> &[f32] {
        &self.buffer.floats.as_slice()[..self.buffer.len]
    }

    /// The number of a tensor that has one.
    ///
    /// # Panics
    /// If it has more or none.
    pub fn item(&self) -> f32 {
        assert_eq!(self.elements(), 1, "item of {self:?}");
        self.values()[0]
    }

    /// The numbers, writable, if nobody else holds the buffer. Packed forms are out of date afterwards.
    pub(crate) fn values_mut(&mut self) -> Option<&mut [f32]> {
        let buffer = Rc::get_mut(&mut self.buffer)?;
        if let Some(packed) = &mut buffer.packed {
            packed.get_mut().values_mut().for_each(|(_, current)| *current = false);
        }
        Some(&mut buffer.floats.as_mut_slice()[..buffer.len])
    }

    /// The same numbers in other dimensions.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.elements(), "reshape of {self:?} to {shape:?}");
        Self { shape, buffer: Rc::clone(&self.buffer) }
    }

    /// As a matrix of [`Tensor::rows`].
    pub fn view(&self) -> View<'_> {
        let (rows, cols) = self.rows();
        View::dense(self.values(), rows, cols)
    }

    /// Matrix `index` of a stack of matrices: the last two dimensions.
    ///
    /// # Panics
    /// If there are no two dimensions or no such matrix.
    pub fn matrix(&self, index: usize) -> View<'_> {
        let [.., rows, cols] = *self.shape() else { panic!("a matrix of {self:?}") };
        View::dense(&self.values()[index * rows * cols..][..rows * cols], rows, cols)
    }

    /// Lets this buffer remember how it was packed for products until it is written: for weights.
    ///
    /// # Panics
    /// If the buffer is shared.
    pub(crate) fn keep_packed(&mut self) {
        let buffer = Rc::get_mut(&mut self.buffer).expect("a new parameter's buffer is its own");
        buffer.packed = Some(RefCell::default());
    }

    /// Matrix `index` of the stack, packed as a right operand; `None` if this is no weight.
    pub(crate) fn packed(&self, context: &Context, index: usize, orientation: Orientation) -> Option<Packed> {
        let forms = self.buffer.packed.as_ref()?;
        let view = match orientation {
            Orientation::AsStored => self.matrix(index),
            Orientation::Transposed => self.matrix(index).transposed(),
        };
        if context.packing() == Packing::EachUse {
            return Some(Packed::Lent(Lent::pack(context, view)));
        }
        let mut forms = forms.borrow_mut();
        let (packed, current) =
            forms.entry((index, orientation)).or_insert_with(|| (Rc::new(PackedOperand::empty()), false));
        if !*current {
            if Rc::get_mut(packed).is_none() {
                *packed = Rc::new(PackedOperand::empty());
            }
            let operand = Rc::get_mut(packed).expect("just made, or nobody else's");
            operand.pack(context.compute(), context.precision(), view);
            *current = true;
        }
        Some(Packed::Kept(Rc::clone(packed)))
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor{:?}", self.shape())
    }
}
