//! Huge pages that buffers share: one that fills no huge page by itself lies in one among others.
//!
//! Weights come by the hundred, of one to thirty megabytes, and stay together until the model goes. Each in pages of its
//! own would have small ones at both ends, or waste the rest of a huge one.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::LINE;
use super::numa;
use super::pages::{HUGE, Pages};

/// Bytes of a slab, unless one buffer needs more. What is left at its end was never written and costs nothing.
const SLAB: usize = 16 * HUGE;

/// A range of a slab that one buffer owns; the pages go back to the system with the last of them.
pub(super) struct Piece {
    /// Read and written through [`Piece`]s alone.
    slab: Arc<Pages>,
    first: usize,
    len: usize,
}

/// The slab that pieces are cut from, and where the next begins. Nobody keeps it but its pieces.
static OPEN: Mutex<(Weak<Pages>, usize)> = Mutex::new((Weak::new(), 0));

impl Piece {
    /// `len` zeroes that begin on a cache line, spread over all memory nodes; `None` if they are not to be had.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        // At least a line, so that nothing keeps a slab of which it has no byte.
        let end_of = |first: usize| first.checked_add(len.max(1))?.checked_next_multiple_of(LINE);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (weak, next) = &mut *open;
        let rest = weak.upgrade().filter(|slab| end_of(*next).is_some_and(|end| end <= slab.len()));
        let slab = match rest {
            Some(slab) => slab,
            None => {
                let pages = Pages::whole(end_of(0)?.checked_next_multiple_of(HUGE)?.max(SLAB))?;
                pages.interleave(numa::nodes());
                let slab = Arc::new(pages);
                (*weak, *next) = (Arc::downgrade(&slab), 0);
                slab
            }
        };
        let first = std::mem::replace(next, end_of(*next)?);
        Some(Self { slab, first, len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `zeroed` cut the range from the slab's pages, which live as long as `slab`, and gave it to nobody else.
        unsafe { std::slice::from_raw_parts(self.slab.start().add(self.first), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the pages are writable, and `self` is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.slab.start().add(self.first), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zero_apart_and_outlive_each_other() {
        let lens = [1, 64, 65, HUGE + 1, 0, SLAB - HUGE, 3 * LINE, SLAB + 1, 5];
        let mut pieces: Vec<Piece> =
            lens.iter().map(|&len| Piece::zeroed(len).expect("some memory")).collect();
        for (piece, len) in pieces.iter().zip(lens) {
            assert!(piece.bytes().len() == len && piece.bytes().iter().all(|&byte| byte == 0));
            assert!(piece.bytes().as_ptr().addr().is_multiple_of(LINE));
        }
        for (value, piece) in (1..).zip(&mut pieces) {
            piece.bytes_mut().fill(value);
        }
        drop(pieces.remove(3));
        let rest = [1, 2, 3, 5, 6, 7, 8, 9];
        for (piece, value) in pieces.iter().zip(rest) {
            assert!(piece.bytes().iter().all(|&byte| byte == value), "another piece wrote here");
        }
    }

    #[test]
    fn a_slab_goes_with_its_last_piece() {
        // More than is left of any slab, and all of its own: no other test has a piece of it.
        let piece = Piece::zeroed(2 * SLAB).expect("some memory");
        let slab = Arc::downgrade(&piece.slab);
        assert_eq!(piece.bytes().len(), 2 * SLAB);
        drop(piece);
        assert!(slab.upgrade().is_none(), "nothing else keeps it");
    }

    #[test]
    fn more_than_there_is_gives_none_and_does_no_harm() {
        assert!(Piece::zeroed(usize::MAX).is_none() && Piece::zeroed(isize::MAX as usize - HUGE).is_none());
        assert!(Piece::zeroed(10).is_some());
    }
}
