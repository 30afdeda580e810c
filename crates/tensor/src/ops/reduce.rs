//! Sums and means.

use fathom_kernels::parallel::PIECE;

use crate::Var;

impl Var {
    /// The sum of all elements, a single number. Pieces of fixed size are summed in f64 and then added in order, so the
    /// result is the same for any number of threads.
    pub fn sum_all(&self) -> Var {
        let context = self.context().clone();
        let x = self.value().values();
        let mut sums = vec![0.0f64; x.len().div_ceil(PIECE)];
        context.compute().for_pieces(&mut sums, 1, |piece, sum| {
            let values = &x[piece * PIECE..];
            sum[0] = values[..values.len().min(PIECE)].iter().map(|&value| f64::from(value)).sum();
        });
        let y = context.tensor([], &[sums.iter().sum::<f64>() as f32]);
        let (slot, shape) = (self.slot(), self.shape().to_vec());
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx = gradients.context().full(shape, dy.item());
            gradients.add(&slot, dx);
        })
    }

    /// The mean of all elements, a single number.
    pub fn mean_all(&self) -> Var {
        self.sum_all().scale(1.0 / self.value().elements() as f32)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_sums_and_means() {
        check_gradients(&[&[3, 4]], |vars| vars[0].sum_all());
        check_gradients(&[&[3, 4]], |vars| vars[0].mean_all());
    }
}
