//! The same numbers in other places: reshape, permute, slice, concatenate, broadcast.

use std::ops::Range;

use super::reduce::sum_of;
use super::strided::{Strided, copy};
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

    /// Dimension `i` of the result is dimension `order[i]` of this.
    ///
    /// # Panics
    /// If `order` is no permutation of the dimensions.
    pub fn permute(&self, order: &[usize]) -> Var {
        let mut inverse = vec![usize::MAX; order.len()];
        order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
        let whole = inverse.len() == self.shape().len() && !inverse.contains(&usize::MAX);
        assert!(whole, "permute of {self:?} in order {order:?}");
        let y = copy(self.context(), self.value(), &Strided::dense(self.shape()).permuted(order));
        let slot = self.slot();
        self.tape().record(y, &[self], move |dy, gradients| {
            let dx = copy(gradients.context(), &dy, &Strided::dense(dy.shape()).permuted(&inverse));
            gradients.add(&slot, dx);
        })
    }

    /// The last two dimensions exchanged.
    ///
    /// # Panics
    /// If there are fewer than two.
    pub fn transpose(&self) -> Var {
        let mut order: Vec<usize> = (0..self.shape().len()).collect();
        let last = order.len();
        assert!(last >= 2, "transpose of {self:?}");
        order.swap(last - 2, last - 1);
        self.permute(&order)
    }

    /// Elements `range` along dimension `axis`.
    ///
    /// # Panics
    /// If there is no such dimension, or the range leaves it.
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Var {
        let fits = self.shape().get(axis).is_some_and(|&size| range.start <= range.end && range.end <= size);
        assert!(fits, "slice {range:?} of dimension {axis} of {self:?}");
        let y = copy(self.context(), self.value(), &Strided::dense(self.shape()).sliced(axis, range.clone()));
        let (slot, shape) = (self.slot(), self.shape().to_vec());
        self.tape().record(y, &[self], move |dy, gradients| {
            let context = gradients.context().clone();
            gradients.write(&slot, |dx, accumulate| {
                if !accumulate {
                    dx.fill(0.0);
                }
                let inner = inner_of(&shape, axis);
                let (from, width) = (dy.values(), range.len() * inner);
                context.compute().for_pieces(dx, (shape[axis] * inner).max(1), |piece, dx| {
                    let dy = &from[piece * width..][..width];
                    dx[range.start * inner..][..width].iter_mut().zip(dy).for_each(|(sum, &dy)| *sum += dy);
                });
            });
        })
    }

    /// The parts one after the other along dimension `axis`.
    ///
    /// # Panics
    /// If there are none, or their other dimensions differ.
    pub fn concat(parts: &[&Var], axis: usize) -> Var {
        let first = parts.first().expect("concat of at least one value");
        let mut shape = first.shape().to_vec();
        assert!(axis < shape.len(), "concat along dimension {axis} of {first:?}");
        shape[axis] = parts.iter().map(|part| part.shape()[axis]).sum();
        for part in parts {
            let mut like = part.shape().to_vec();
            like[axis] = shape[axis];
            assert_eq!(like, shape, "concat of {parts:?} along dimension {axis}");
        }
        let inner = inner_of(&shape, axis);
        let (row, context) = (shape[axis] * inner, first.context());
        let widths: Vec<usize> = parts.iter().map(|part| part.shape()[axis] * inner).collect();
        let values: Vec<&[f32]> = parts.iter().map(|part| part.value().values()).collect();
        let y = context.build(&shape[..], |y| {
            context.compute().for_pieces(y, row.max(1), |piece, mut y| {
                for (part, &width) in values.iter().zip(&widths) {
                    let (to, rest) = y.split_at_mut(width);
                    to.copy_from_slice(&part[piece * width..][..width]);
                    y = rest;
                }
            });
        });
        let slots: Vec<_> = parts.iter().map(|part| part.slot()).collect();
        first.tape().record(y, parts, move |dy, gradients| {
            let context = gradients.context().clone();
            let mut start = 0;
            for (slot, width) in slots.iter().zip(widths) {
                let dy = dy.values();
                gradients.write(slot, |dx, accumulate| {
                    context.compute().for_pieces(dx, width.max(1), |piece, dx| {
                        let dy = &dy[piece * row + start..][..width];
                        if accumulate {
                            dx.iter_mut().zip(dy).for_each(|(sum, &dy)| *sum += dy);
                        } else {
                            dx.copy_from_slice(dy);
                        }
                    });
                });
                start += width;
            }
        })
    }

    /// Repeated to `shape`, as NumPy broadcasts.
    ///
    /// # Panics
    /// If it cannot be.
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Var {
        let shape = shape.into();
        if self.shape() == &shape[..] {
            return self.clone();
        }
        let fits = broadcast_shape(self.shape(), &shape).as_deref() == Some(&shape[..]);
        assert!(fits, "broadcast of {self:?} to {shape:?}");
        let strided = Strided::dense(self.shape()).broadcast(&shape);
        let y = copy(self.context(), self.value(), &strided);
        let (slot, own) = (self.slot(), self.shape().to_vec());
        self.tape().record(y, &[self], move |dy, gradients| {
            let missing = dy.shape().len() - own.len();
            let mut dx = dy;
            for axis in (0..missing + own.len()).rev() {
                if axis < missing || own[axis - missing] != dx.shape()[axis] {
                    dx = sum_of(gradients.context(), &dx, axis);
                }
            }
            gradients.add(&slot, dx);
        })
    }
}

/// Elements behind one index of dimension `axis`.
fn inner_of(shape: &[usize], axis: usize) -> usize {
    shape[axis + 1..].iter().product()
}

/// The shape that both are broadcast to, if there is one.
pub(crate) fn broadcast_shape(x: &[usize], y: &[usize]) -> Option<Vec<usize>> {
    let rank = x.len().max(y.len());
    let at = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let size = |axis| match (at(x, axis), at(y, axis)) {
        (x, y) if x == y => Some(x),
        (1, size) | (size, 1) => Some(size),
        _ => None,
    };
    (0..rank).map(size).collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::{check_gradients, context, random};
    use crate::{Tape, Var};

    #[test]
    fn gradients_of_other_places() {
        check_gradients(&[&[2, 6]], |vars| vars[0].reshape([3, 4]));
        check_gradients(&[&[2, 3, 4]], |vars| vars[0].permute(&[2, 0, 1]));
        check_gradients(&[&[2, 3, 4]], |vars| vars[0].transpose());
        check_gradients(&[&[2, 5, 3]], |vars| vars[0].slice(1, 1..4).add(&vars[0].slice(1, 0..3)));
        check_gradients(&[&[2, 1, 3], &[2, 4, 3]], |vars| Var::concat(&[&vars[0], &vars[1], &vars[0]], 1));
        check_gradients(&[&[3]], |vars| vars[0].broadcast_to([2, 4, 3]));
        check_gradients(&[&[2, 1, 3]], |vars| vars[0].broadcast_to([5, 2, 4, 3]));
        check_gradients(&[&[]], |vars| vars[0].broadcast_to([2, 2]));
    }

    #[test]
    fn values_of_other_places() {
        let context = context();
        let tape = Tape::without_gradients(&context);
        let x = tape.constant(context.tensor([2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
        assert_eq!(x.transpose().value().values(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(x.slice(1, 1..3).value().values(), [1.0, 2.0, 4.0, 5.0]);
        assert_eq!(Var::concat(&[&x, &x.slice(0, 1..2)], 0).shape(), [3, 3]);
        assert_eq!(x.slice(0, 1..2).broadcast_to([2, 3]).value().values(), [3.0, 4.0, 5.0, 3.0, 4.0, 5.0]);
        let big = tape.constant(context.tensor([7, 11, 13], &random(1001, 1)));
        let back = big.permute(&[1, 2, 0]).permute(&[2, 0, 1]);
        assert_eq!(back.value().values(), big.value().values());
    }
}
