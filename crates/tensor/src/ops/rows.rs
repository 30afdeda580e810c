//! Rows of a matrix chosen by id: the embedding.

use crate::{Ids, Var};

impl Var {
    /// Rows of `self [rows, width]` by `ids [..]`: `[.., width]`. The gradient of a row is the sum over its uses.
    ///
    /// # Panics
    /// If there are no two dimensions, or an id is not a row.
    pub fn gather_rows(&self, ids: &Ids) -> Var {
        let [rows, width] = *self.shape() else { panic!("gather_rows of {self:?}") };
        assert!(ids.values().iter().all(|&id| (id as usize) < rows), "gather_rows: an id beyond {rows} rows");
        let mut shape = ids.shape().to_vec();
        shape.push(width);
        let context = self.context().clone();
        let (table, ids) = (self.value().clone(), ids.clone());
        let y = context.build(shape, |y| {
            let (table, ids) = (table.values(), ids.values());
            context.compute().for_pieces(y, width.max(1), |row, y| {
                y.copy_from_slice(&table[ids[row] as usize * width..][..width]);
            });
        });
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| {
            let context = gradients.context().clone();
            let (uses, dy) = (Uses::of(ids.values(), rows), dy.values());
            gradients.write(&slot, |dx, accumulate| {
                context.compute().for_pieces(dx, width.max(1), |row, dx| {
                    if !accumulate {
                        dx.fill(0.0);
                    }
                    for &position in uses.of_row(row) {
                        let dy = &dy[position as usize * width..][..width];
                        dx.iter_mut().zip(dy).for_each(|(sum, &value)| *sum += value);
                    }
                });
            });
        })
    }
}

/// For every row the positions that use it, in order: sums of gradients are the same for any number of threads.
struct Uses {
    ends: Vec<u32>,
    positions: Vec<u32>,
}

impl Uses {
    fn of(ids: &[u32], rows: usize) -> Self {
        let mut ends = vec![0u32; rows + 1];
        ids.iter().for_each(|&id| ends[id as usize + 1] += 1);
        (1..=rows).for_each(|row| ends[row] += ends[row - 1]);
        let (mut next, mut positions) = (ends.clone(), vec![0u32; ids.len()]);
        for (position, &id) in ids.iter().enumerate() {
            positions[next[id as usize] as usize] = position as u32;
            next[id as usize] += 1;
        }
        Self { ends, positions }
    }

    fn of_row(&self, row: usize) -> &[u32] {
        &self.positions[self.ends[row] as usize..self.ends[row + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use crate::Ids;
    use crate::testing::check_gradients;

    #[test]
    fn gradients_add_up_over_uses_of_a_row() {
        let ids = Ids::new([2, 3], vec![4, 0, 0, 2, 4, 0]);
        check_gradients(&[&[5, 3]], |vars| vars[0].gather_rows(&ids));
    }
}
