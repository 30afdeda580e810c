//! Moments in memory: f32 or bf16, cut into pieces that lie beside the pieces of their parameter.
//!
//! A parameter of `n` elements with `k` moments has `k · n` numbers: for each piece of [`PIECE`] elements the piece of
//! the first moment, then that of the second. So one parallel loop over pieces has everything it needs in one place.

use fathom_kernels::Compute;
use fathom_kernels::parallel::PIECE;
use fathom_numeric::bf16;

use crate::config::Moments;

/// One or two moments of one parameter.
#[derive(Debug)]
pub(super) struct Memory {
    moments: usize,
    numbers: Numbers,
}

#[derive(Debug)]
enum Numbers {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Memory {
    pub(super) fn zeroed(kind: Moments, moments: usize, elements: usize) -> Self {
        let numbers = match kind {
            Moments::F32 => Numbers::F32(vec![0.0; moments * elements]),
            Moments::Bf16 => Numbers::Bf16(vec![bf16::ZERO; moments * elements]),
        };
        Self { moments, numbers }
    }

    pub(super) fn moments(&self) -> usize {
        self.moments
    }

    pub(super) fn is_bf16(&self) -> bool {
        matches!(self.numbers, Numbers::Bf16(_))
    }

    pub(super) fn elements(&self) -> usize {
        let numbers = match &self.numbers {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::Bf16(numbers) => numbers.len(),
        };
        numbers / self.moments
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements() * self.moments * if self.is_bf16() { 2 } else { 4 }
    }

    /// Calls `work(first element, values, moments)` for every piece: `moments` are as many numbers per moment as
    /// `values` has, one moment after the other; what `work` leaves there is kept.
    pub(super) fn for_pieces(
        &mut self,
        compute: &Compute,
        values: &mut [f32],
        work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let len = PIECE * self.moments;
        match &mut self.numbers {
            Numbers::F32(numbers) => {
                compute.for_pieces2((values, PIECE), (numbers, len), |piece, values, moments| {
                    work(piece * PIECE, values, moments);
                });
            }
            Numbers::Bf16(numbers) => {
                compute.for_pieces2((values, PIECE), (numbers, len), |piece, values, rounded| {
                    let mut moments = [0.0; 2 * PIECE];
                    let moments = &mut moments[..rounded.len()];
                    moments.iter_mut().zip(&*rounded).for_each(|(to, from)| *to = from.to_f32());
                    work(piece * PIECE, values, moments);
                    rounded.iter_mut().zip(&*moments).for_each(|(to, &from)| *to = bf16::from_f32(from));
                });
            }
        }
    }

    /// Calls `each(numbers)` with moment `moment` in the order of elements, piece by piece.
    pub(super) fn read(&self, moment: usize, mut each: impl FnMut(&[f32])) {
        let mut decoded = Vec::new();
        for first in (0..self.elements()).step_by(PIECE) {
            let range = self.range(moment, first);
            match &self.numbers {
                Numbers::F32(numbers) => each(&numbers[range]),
                Numbers::Bf16(numbers) => {
                    decoded.clear();
                    decoded.extend(numbers[range].iter().map(|number| number.to_f32()));
                    each(&decoded);
                }
            }
        }
    }

    /// Sets moment `moment` from its elements in order.
    pub(super) fn write(&mut self, moment: usize, values: &[f32]) {
        for first in (0..self.elements()).step_by(PIECE) {
            let range = self.range(moment, first);
            let values = &values[first..first + range.len()];
            match &mut self.numbers {
                Numbers::F32(numbers) => numbers[range].copy_from_slice(values),
                Numbers::Bf16(numbers) => {
                    numbers[range].iter_mut().zip(values).for_each(|(to, &from)| *to = bf16::from_f32(from));
                }
            }
        }
    }

    /// Where the piece that begins at element `first` lies.
    fn range(&self, moment: usize, first: usize) -> std::ops::Range<usize> {
        let len = PIECE.min(self.elements() - first);
        let start = first * self.moments + moment * len;
        start..start + len
    }
}
