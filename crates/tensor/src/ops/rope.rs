//! Rotary positions (Su et al., arXiv 2104.09864), interleaved pairs or halves.

use std::ops::Range;
use std::rc::Rc;

use fathom_kernels::training::rope::{Heads, Positions, Rotation, Table};

use crate::Var;

/// What turns: the angles of positions, and how the rows of a batch are counted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rotary {
    table: Rc<Table>,
    seq: usize,
}

impl Rotary {
    /// Rows are sequences of `seq` tokens one after the other, each counted from position 0.
    ///
    /// # Panics
    /// If the table has fewer positions.
    pub fn new(table: Rc<Table>, seq: usize) -> Self {
        assert!(seq <= table.positions(), "rotations of {} positions for {seq} tokens", table.positions());
        Self { table, seq }
    }

    fn rotation(&self, first: usize) -> Rotation<'_> {
        Rotation { table: &self.table, positions: Positions::Sequences(self.seq), first, backward: false }
    }
}

impl Var {
    /// Rotates the end of every head, from number `first` of it on: `self [.., heads · width]`.
    ///
    /// # Panics
    /// If a row does not divide into heads that end in a rotary part.
    pub fn rope(&self, rotary: &Rotary, heads: usize, first: usize) -> Var {
        let (_, cols) = self.value().rows();
        assert!(cols.is_multiple_of(heads), "rope of {self:?} with {heads} heads");
        let layout = Heads::dense(heads, cols / heads);
        let (context, x) = (self.context(), self.value());
        let y = context.build(self.shape(), |y| {
            rotary.rotation(first).apply_into(context.compute(), (x.values(), layout), (y, layout));
        });
        let (slot, rotary) = (self.slot(), rotary.clone());
        self.tape().record(y, &[self], move |dy, gradients| {
            let context = gradients.context().clone();
            let dx = context.build(dy.shape(), |dx| {
                let back = rotary.rotation(first).backward();
                back.apply_into(context.compute(), (dy.values(), layout), (dx, layout));
            });
            gradients.add(&slot, dx);
        })
    }

    /// Some columns of every row, rotated as one head: `self [.., cols]` gives `[.., columns.len()]`. MLA's shared
    /// rotary key is the end of what one projection gives.
    ///
    /// # Panics
    /// If there are no such columns.
    pub fn rope_columns(&self, rotary: &Rotary, columns: Range<usize>) -> Var {
        let (_, stride) = self.value().rows();
        assert!(columns.end <= stride, "rope of columns {columns:?} of {self:?}");
        let width = columns.len();
        let (first, to) = (columns.start, Heads::dense(1, width));
        let from = Heads { token_stride: stride, ..to };
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("a width") = width;
        let (context, x) = (self.context(), self.value());
        let y = context.build(shape, |y| {
            let x = x.values().get(first..).unwrap_or_default();
            rotary.rotation(0).apply_into(context.compute(), (x, from), (y, to));
        });
        let (slot, rotary) = (self.slot(), rotary.clone());
        self.tape().record(y, &[self], move |mut dy, gradients| {
            let context = gradients.context().clone();
            let back = rotary.rotation(0).backward();
            match dy.values_mut() {
                Some(values) => back.apply(context.compute(), values, to),
                None => {
                    dy = context.build(dy.shape(), |dx| {
                        back.apply_into(context.compute(), (dy.values(), to), (dx, to));
                    });
                }
            }
            let added = dy.values();
            gradients.write(&slot, |dx, accumulate| {
                context.compute().for_pieces(dx, stride, |row, dx| {
                    if !accumulate {
                        dx.fill(0.0);
                    }
                    let added = &added[row * width..][..width];
                    dx[first..first + width].iter_mut().zip(added).for_each(|(sum, &value)| *sum += value);
                });
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use fathom_kernels::training::rope::{Pairing, Table};

    use super::Rotary;
    use crate::testing::check_gradients;

    #[test]
    fn gradients_of_rotations() {
        for pairing in [Pairing::Adjacent, Pairing::Halves] {
            let table = Table::new(&[1.0, 0.3], 1.2, 5, pairing);
            let rotary = Rotary::new(Rc::new(table), 3);
            check_gradients(&[&[2, 3, 14]], |vars| vars[0].rope(&rotary, 2, 3));
            check_gradients(&[&[6, 9]], |vars| vars[0].rope_columns(&rotary, 3..7));
            check_gradients(&[&[3, 4]], |vars| {
                vars[0].rope_columns(&rotary, 0..4).mul(&vars[0]).add(&vars[0].rope(&rotary, 1, 0))
            });
        }
    }
}
