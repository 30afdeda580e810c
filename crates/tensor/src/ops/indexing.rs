//! Choosing by index within the last dimension: gather, scatter-add, top-k.

use crate::{Ids, Var};

impl Var {
    /// `y[.., j] = x[.., ids[.., j]]`: `x [.., width]`, `ids [.., k]` with the same rows.
    ///
    /// # Panics
    /// If the rows differ, or an id is beyond the width.
    pub fn gather(&self, ids: &Ids) -> Var {
        let (rows, width) = self.value().rows();
        let k = checked(ids, rows, width, "gather");
        let context = self.context().clone();
        let (values, chosen) = (self.value().values(), ids.values());
        let y = context.build(ids.shape(), |y| {
            context.compute().for_pieces(y, k.max(1), |row, y| {
                let (x, ids) = (&values[row * width..][..width], &chosen[row * k..][..k]);
                y.iter_mut().zip(ids).for_each(|(y, &id)| *y = x[id as usize]);
            });
        });
        let (slot, ids) = (self.slot(), ids.clone());
        self.tape().record(y, &[self], move |dy, gradients| {
            let context = gradients.context().clone();
            let (dy, ids) = (dy.values(), ids.values());
            gradients.write(&slot, |dx, accumulate| {
                context.compute().for_pieces(dx, width.max(1), |row, dx| {
                    if !accumulate {
                        dx.fill(0.0);
                    }
                    let pairs = ids[row * k..][..k].iter().zip(&dy[row * k..][..k]);
                    pairs.for_each(|(&id, dy)| dx[id as usize] += dy);
                });
            });
        })
    }

    /// The inverse: `y [.., width]` of zeroes, to which `x [.., k]` is added at `ids [.., k]`.
    ///
    /// # Panics
    /// If the shapes of `x` and `ids` differ, or an id is beyond the width.
    pub fn scatter_add(&self, ids: &Ids, width: usize) -> Var {
        assert_eq!(self.shape(), ids.shape(), "scatter_add of {self:?} at ids of another shape");
        let rows = self.value().rows().0;
        let k = checked(ids, rows, width, "scatter_add");
        let context = self.context().clone();
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("a width") = width;
        let (values, places) = (self.value().values(), ids.values());
        let y = context.build(shape, |y| {
            context.compute().for_pieces(y, width.max(1), |row, y| {
                y.fill(0.0);
                let pairs = places[row * k..][..k].iter().zip(&values[row * k..][..k]);
                pairs.for_each(|(&id, x)| y[id as usize] += x);
            });
        });
        let (slot, ids) = (self.slot(), ids.clone());
        self.tape().record(y, &[self], move |dy, gradients| {
            let context = gradients.context().clone();
            let (dy, places) = (dy.values(), ids.values());
            let dx = context.build(ids.shape(), |dx| {
                context.compute().for_pieces(dx, k.max(1), |row, dx| {
                    let (dy, ids) = (&dy[row * width..][..width], &places[row * k..][..k]);
                    dx.iter_mut().zip(ids).for_each(|(dx, &id)| *dx = dy[id as usize]);
                });
            });
            gradients.add(&slot, dx);
        })
    }

    /// The `k` largest of the last dimension, largest first (of equal ones the one that stands first), and where they
    /// stood.
    ///
    /// # Panics
    /// If there are fewer than `k`.
    pub fn top_k(&self, k: usize) -> (Var, Ids) {
        let (rows, width) = self.value().rows();
        assert!(k <= width, "top_k: {k} of {self:?}");
        let values = self.value().values();
        let mut chosen = vec![0u32; rows * k];
        self.context().compute().for_pieces(&mut chosen, k.max(1), |row, chosen| {
            let x = &values[row * width..][..width];
            let mut order: Vec<u32> = (0..width as u32).collect();
            order.sort_by(|&a, &b| x[b as usize].total_cmp(&x[a as usize]));
            chosen.copy_from_slice(&order[..k]);
        });
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("a width") = k;
        let ids = Ids::new(shape, chosen);
        (self.gather(&ids), ids)
    }
}

/// The width of `ids`, whose rows and values fit.
fn checked(ids: &Ids, rows: usize, width: usize, name: &str) -> usize {
    let k = ids.shape().last().copied().unwrap_or(1);
    assert_eq!(ids.values().len(), rows * k, "{name}: ids {:?} for {rows} rows", ids.shape());
    assert!(ids.values().iter().all(|&id| (id as usize) < width), "{name}: an id beyond {width}");
    k
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, context};
    use crate::{Ids, Tape};

    #[test]
    fn gradients_of_choices() {
        let ids = Ids::new([2, 3], vec![4, 0, 0, 2, 4, 0]);
        check_gradients(&[&[2, 5]], |vars| vars[0].gather(&ids));
        check_gradients(&[&[2, 3]], |vars| vars[0].scatter_add(&ids, 5));
        check_gradients(&[&[3, 6]], |vars| vars[0].top_k(2).0);
    }

    #[test]
    fn the_largest_come_first() {
        let context = context();
        let tape = Tape::without_gradients(&context);
        let (values, ids) = tape.constant(context.tensor([1, 4], &[1.0, 7.0, -2.0, 7.0])).top_k(3);
        assert_eq!((values.value().values(), ids.values()), (&[7.0, 7.0, 1.0][..], &[1, 3, 0][..]));
    }
}
