//! The same numbers in other places.

use crate::Var;
use crate::tensor::Shape;

impl Var {
    /// The same numbers in other dimensions; nothing is copied.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Var {
        let slot = self.slot();
        self.tape()
            .record(self.value().reshape(shape), &[self], move |dy, gradients| gradients.add(&slot, dy))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_a_reshape() {
        check_gradients(&[&[2, 6]], |vars| vars[0].reshape([3, 4]));
    }
}
