//! A slice that several threads write, each its own part.

use std::marker::PhantomData;

/// A mutable slice handed to all units of a parallel region. Units promise to write disjoint
/// ranges; the borrow of the original slice keeps everybody else out for as long as it lives.
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `range_mut`, whose contract demands disjoint ranges.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// No two ranges that are alive at the same time may overlap.
    ///
    /// # Panics
    /// If the range leaves the slice.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range_mut(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "range {start}+{len} leaves {}", self.len);
        // SAFETY: in bounds by the check above, disjoint by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// `rows` rows of `cols` elements, `stride` apart; the first begins at element `start`.
    ///
    /// # Safety
    /// Nothing else may hold one of these elements while the window is alive.
    ///
    /// # Panics
    /// If the last row leaves the slice, or rows overlap.
    pub(crate) unsafe fn window(
        &self,
        start: usize,
        [rows, cols]: [usize; 2],
        stride: usize,
    ) -> Window<'a, T> {
        let end = rows
            .checked_sub(1)
            .and_then(|last| last.checked_mul(stride)?.checked_add(start)?.checked_add(cols));
        assert!(
            cols <= stride && end.is_none_or(|end| end <= self.len) && start <= self.len,
            "window leaves {}",
            self.len
        );
        Window { first: self.start.wrapping_add(start), rows, cols, stride, owner: PhantomData }
    }
}

/// Rows inside a larger buffer whose other columns may belong to other threads.
pub(crate) struct Window<'a, T> {
    first: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    owner: PhantomData<&'a mut [T]>,
}

impl<'a, T> Window<'a, T> {
    /// A slice `[rows, cols]` without gaps.
    pub(crate) fn dense(slice: &'a mut [T], cols: usize) -> Self {
        assert!(slice.len().is_multiple_of(cols));
        let (rows, first) = (slice.len() / cols, slice.as_mut_ptr());
        Self { first, rows, cols, stride: cols, owner: PhantomData }
    }

    /// `[rows, cols]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// From the beginning of one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// One row's elements.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows);
        // SAFETY: the window's maker checked that its rows lie in the buffer and that no one else holds them.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.stride), self.cols) }
    }

    /// The first row's first element; what may be written is `cols` elements of each row.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.first
    }
}
