//! Moments in memory: f32, or bf16 in half of it.

use fathom_kernels::Compute;
use fathom_kernels::optimizer;
use fathom_kernels::parallel::PIECE;
use fathom_numeric::bf16;

use crate::config::Moments;

/// One or two moments of one parameter, each as long as the parameter.
#[derive(Debug)]
pub(super) enum Memory {
    F32(Vec<Vec<f32>>),
    Bf16(Vec<Vec<bf16>>),
}

impl Memory {
    pub(super) fn zeroed(kind: Moments, moments: usize, elements: usize) -> Self {
        match kind {
            Moments::F32 => Self::F32(vec![vec![0.0; elements]; moments]),
            Moments::Bf16 => Self::Bf16(vec![vec![bf16::ZERO; elements]; moments]),
        }
    }

    pub(super) fn moments(&self) -> usize {
        match self {
            Self::F32(moments) => moments.len(),
            Self::Bf16(moments) => moments.len(),
        }
    }

    pub(super) fn is_bf16(&self) -> bool {
        matches!(self, Self::Bf16(_))
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F32(moments) => moments.iter().map(|moment| moment.len() * 4).sum(),
            Self::Bf16(moments) => moments.iter().map(|moment| moment.len() * 2).sum(),
        }
    }

    /// The two moments of AdamW.
    ///
    /// # Panics
    /// If there are not two.
    pub(super) fn pair(&mut self) -> optimizer::Moments<'_> {
        const TWO: &str = "AdamW remembers two moments";
        match self {
            Self::F32(moments) => {
                let [first, second] = &mut moments[..] else { panic!("{TWO}") };
                optimizer::Moments::F32([first, second])
            }
            Self::Bf16(moments) => {
                let [first, second] = &mut moments[..] else { panic!("{TWO}") };
                optimizer::Moments::Bf16([first, second])
            }
        }
    }

    /// Calls `work(first element, values, momentum)` for every piece of the first moment and of `values`; what `work` leaves
    /// in `momentum` is kept.
    pub(super) fn for_pieces(
        &mut self,
        compute: &Compute,
        values: &mut [f32],
        work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        match self {
            Self::F32(moments) => {
                compute.for_pieces2((values, PIECE), (&mut moments[0], PIECE), |piece, values, momentum| {
                    work(piece * PIECE, values, momentum);
                });
            }
            Self::Bf16(moments) => {
                compute.for_pieces2((values, PIECE), (&mut moments[0], PIECE), |piece, values, rounded| {
                    let mut momentum = [0.0; PIECE];
                    let momentum = &mut momentum[..rounded.len()];
                    momentum.iter_mut().zip(&*rounded).for_each(|(to, from)| *to = from.to_f32());
                    work(piece * PIECE, values, momentum);
                    rounded.iter_mut().zip(&*momentum).for_each(|(to, &from)| *to = bf16::from_f32(from));
                });
            }
        }
    }

    /// Calls `each(numbers)` with moment `moment` in the order of elements, piece by piece.
    pub(super) fn read(&self, moment: usize, mut each: impl FnMut(&[f32])) {
        match self {
            Self::F32(moments) => moments[moment].chunks(PIECE).for_each(each),
            Self::Bf16(moments) => {
                let mut decoded = Vec::new();
                for piece in moments[moment].chunks(PIECE) {
                    decoded.clear();
                    decoded.extend(piece.iter().map(|number| number.to_f32()));
                    each(&decoded);
                }
            }
        }
    }

    /// Sets moment `moment` from its elements in order.
    pub(super) fn write(&mut self, moment: usize, values: &[f32]) {
        match self {
            Self::F32(moments) => moments[moment].copy_from_slice(values),
            Self::Bf16(moments) => {
                let numbers = moments[moment].iter_mut().zip(values);
                numbers.for_each(|(to, &from)| *to = bf16::from_f32(from));
            }
        }
    }
}
