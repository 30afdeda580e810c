//! SwiGLU (Shazeer, arXiv 2002.05202).

use fathom_kernels::gemm::{Output, Rows};
use fathom_kernels::training::swiglu;

use crate::Var;

impl Var {
    /// `silu(self) · up`, of one shape: what a feed-forward layer's down projection gets.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn swiglu(&self, up: &Var) -> Var {
        assert_eq!(self.shape(), up.shape(), "swiglu of {self:?} and {up:?}");
        let cols = self.value().rows().1;
        let context = self.context();
        let (gate, up_value) = (self.value().clone(), up.value().clone());
        let h = context.build(self.shape(), |h| {
            let [gate, up] = [&gate, &up_value].map(|half| Rows::dense(half.values(), cols));
            swiglu::forward(context.compute(), gate, up, h);
        });
        let (gate_slot, up_slot) = (self.slot(), up.slot());
        self.tape().record(h, &[self, up], move |dh, gradients| {
            let context = gradients.context().clone();
            let mut dup = context.build(dh.shape(), |_| {});
            let dgate = context.build(dh.shape(), |dgate| {
                let [gate, up] = [&gate, &up_value].map(|half| Rows::dense(half.values(), cols));
                let dgate = Output { values: dgate, stride: cols };
                let dup = Output { values: dup.values_mut().expect("a new buffer"), stride: cols };
                swiglu::backward(context.compute(), gate, up, dh.values(), dgate, dup);
            });
            gradients.add(&gate_slot, dgate);
            gradients.add(&up_slot, dup);
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_swiglu() {
        check_gradients(&[&[3, 5], &[3, 5]], |vars| vars[0].swiglu(&vars[1]));
        check_gradients(&[&[2, 1, 17]], |vars| vars[0].swiglu(&vars[0]));
    }
}
