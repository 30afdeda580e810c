//! Token ids, positions, expert ids: numbers that have no gradient.

use std::rc::Rc;

use crate::tensor::Shape;

/// A row-major array of u32. Cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    shape: Shape,
    values: Rc<[u32]>,
}

impl Ids {
    /// # Panics
    /// If `values` are not as many as `shape` has elements.
    pub fn new(shape: impl Into<Shape>, values: impl Into<Rc<[u32]>>) -> Self {
        let (shape, values) = (shape.into(), values.into());
        assert_eq!(shape.elements(), values.len(), "ids of shape {shape:?}");
        Self { shape, values }
    }

    /// Dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers, row-major.
    pub fn values(&self) -> &[u32] {
        &self.values
    }
}
