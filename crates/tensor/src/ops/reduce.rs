//! Sums, means and maxima, over everything or along one dimension, and running sums.

use fathom_kernels::parallel::PIECE;

use crate::{Context, Tensor, Var};

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

    /// The sum along dimension `axis`, which the result does not have.
    ///
    /// # Panics
    /// If there is no such dimension; as the other reductions.
    pub fn sum(&self, axis: usize) -> Var {
        let y = sum_of(self.context(), self.value(), axis);
        let (slot, lines) = (self.slot(), Lines::of(self.shape(), axis));
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx = lines.spread(gradients.context(), &dy, |_, _, dy| dy);
            gradients.add(&slot, dx);
        })
    }

    /// The mean along dimension `axis`.
    pub fn mean(&self, axis: usize) -> Var {
        self.sum(axis).scale(1.0 / self.shape()[axis] as f32)
    }

    /// The largest along dimension `axis`; the gradient goes to the first of the largest.
    pub fn max(&self, axis: usize) -> Var {
        let lines = Lines::of(self.shape(), axis);
        assert!(lines.len > 0, "max of nothing: {self:?} along dimension {axis}");
        let mut places = vec![0u32; lines.count()];
        let values = self.value().values();
        self.context().compute().for_pieces(&mut places, PIECE, |piece, places| {
            for (i, place) in places.iter_mut().enumerate() {
                let line = lines.line(piece * PIECE + i);
                let at = |place: usize| values[line + place * lines.inner];
                *place = (1..lines.len).fold(0, |best, place| if at(place) > at(best) { place } else { best })
                    as u32;
            }
        });
        let y = self.context().build(lines.reduced(), |y| {
            for (i, (y, &place)) in y.iter_mut().zip(&places).enumerate() {
                *y = values[lines.line(i) + place as usize * lines.inner];
            }
        });
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx =
                lines.spread(
                    gradients.context(),
                    &dy,
                    |line, place, dy| {
                        if places[line] as usize == place { dy } else { 0.0 }
                    },
                );
            gradients.add(&slot, dx);
        })
    }

    /// Running sums along the last dimension: `y_i = x_0 + … + x_i`.
    pub fn cumsum(&self) -> Var {
        let y = running(self.context(), self.value(), |line| {
            line.iter_mut().fold(0.0, |sum, value| {
                *value += sum;
                *value
            });
        });
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx = running(gradients.context(), &dy, |line| {
                line.iter_mut().rev().fold(0.0, |sum, value| {
                    *value += sum;
                    *value
                });
            });
            gradients.add(&slot, dx);
        })
    }
}

/// A copy of `x` whose rows `change` has gone over.
fn running(context: &Context, x: &Tensor, change: impl Fn(&mut [f32]) + Sync) -> Tensor {
    let (width, values) = (x.rows().1.max(1), x.values());
    context.build(x.shape(), |y| {
        context.compute().for_pieces(y, width, |row, y| {
            y.copy_from_slice(&values[row * width..][..width]);
            change(y);
        });
    })
}

/// The sum of `x` along `axis`, line by line in order: the dimension is gone.
pub(crate) fn sum_of(context: &Context, x: &Tensor, axis: usize) -> Tensor {
    let lines = Lines::of(x.shape(), axis);
    let values = x.values();
    context.build(lines.reduced(), |y| {
        context.compute().for_pieces(y, PIECE, |piece, y| {
            for (i, y) in y.iter_mut().enumerate() {
                let line = lines.line(piece * PIECE + i);
                *y = (0..lines.len).map(|place| values[line + place * lines.inner]).sum();
            }
        });
    })
}

/// A tensor seen as lines along one dimension.
struct Lines {
    shape: Vec<usize>,
    axis: usize,
    len: usize,
    /// Elements from one place of a line to the next.
    inner: usize,
}

impl Lines {
    fn of(shape: &[usize], axis: usize) -> Self {
        assert!(axis < shape.len(), "a reduction along dimension {axis} of {shape:?}");
        Self { shape: shape.to_vec(), axis, len: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    /// The shape without the dimension.
    fn reduced(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        shape.remove(self.axis);
        shape
    }

    fn count(&self) -> usize {
        self.reduced().iter().product()
    }

    /// Where line `index` begins.
    fn line(&self, index: usize) -> usize {
        index / self.inner * self.inner * self.len + index % self.inner
    }

    /// A tensor of the whole shape: `value(line, place, dy of the line)`.
    fn spread(
        &self,
        context: &Context,
        dy: &Tensor,
        value: impl Fn(usize, usize, f32) -> f32 + Sync,
    ) -> Tensor {
        let block = (self.len * self.inner).max(1);
        let dy = dy.values();
        context.build(&self.shape[..], |dx| {
            context.compute().for_pieces(dx, block, |outer, dx| {
                for (i, dx) in dx.iter_mut().enumerate() {
                    let line = outer * self.inner + i % self.inner;
                    *dx = value(line, i / self.inner, dy[line]);
                }
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::Tape;
    use crate::testing::{check_gradients, context};

    #[test]
    fn gradients_of_reductions() {
        check_gradients(&[&[3, 4]], |vars| vars[0].sum_all());
        check_gradients(&[&[3, 4]], |vars| vars[0].mean_all());
        for axis in 0..3 {
            check_gradients(&[&[2, 3, 4]], |vars| vars[0].sum(axis));
            check_gradients(&[&[2, 3, 4]], |vars| vars[0].mean(axis));
            check_gradients(&[&[2, 3, 4]], |vars| vars[0].max(axis));
        }
        check_gradients(&[&[2, 3, 4]], |vars| vars[0].cumsum());
    }

    #[test]
    fn values_of_reductions() {
        let context = context();
        let tape = Tape::without_gradients(&context);
        let x = tape.constant(context.tensor([2, 3], &[1.0, 5.0, 2.0, 4.0, 0.0, 6.0]));
        assert_eq!(x.sum(0).value().values(), [5.0, 5.0, 8.0]);
        assert_eq!(x.sum(1).value().values(), [8.0, 10.0]);
        assert_eq!(x.max(1).value().values(), [5.0, 6.0]);
        assert_eq!(x.cumsum().value().values(), [1.0, 6.0, 8.0, 4.0, 4.0, 10.0]);
        assert_eq!(x.mean_all().value().item(), 3.0);
    }
}
