//! A matrix where it lies: rows and columns some distance apart, either of them chosen by an index.

use std::ops::Range;

/// A matrix of f32 in somebody else's memory. Element `(i, j)` is
/// `values[row(i) · row_stride + col(j) · col_stride]`, where `row(i)` is `row_index[i]` if there is such an
/// index and `i` if not; columns likewise. Fast where the stride of an axis without an index is 1.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The memory; the element that rows and columns 0 name comes first.
    pub values: &'a [f32],
    /// Rows of the view.
    pub rows: usize,
    /// Columns of the view.
    pub cols: usize,
    /// From one row to the next, in numbers.
    pub row_stride: usize,
    /// From one column to the next.
    pub col_stride: usize,
    /// Which row of the memory each row of the view is.
    pub row_index: Option<&'a [u32]>,
    /// Which column of the memory each column of the view is.
    pub col_index: Option<&'a [u32]>,
}

impl<'a> View<'a> {
    /// `[rows, cols]`, row after row.
    pub fn dense(values: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(values, rows, cols, cols)
    }

    /// `[rows, cols]`, rows `row_stride` apart.
    pub fn strided(values: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { values, rows, cols, row_stride, col_stride: 1, row_index: None, col_index: None }
    }

    /// Rows and columns change places; an index stays with its axis. So `view.gathered(index).transposed()`
    /// has the chosen rows as its columns.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            row_index: self.col_index,
            col_index: self.row_index,
            ..self
        }
    }

    /// Row `i` becomes row `index[i]`; rows may repeat.
    ///
    /// # Panics
    /// If rows have been chosen before.
    pub fn gathered(self, index: &'a [u32]) -> Self {
        assert!(self.row_index.is_none(), "rows of a view are gathered once");
        Self { rows: index.len(), row_index: Some(index), ..self }
    }

    /// Some of its rows and columns.
    ///
    /// # Panics
    /// If they leave the view.
    pub fn sub(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let Self { rows: row_count, cols: col_count, .. } = self;
        assert!(
            rows.start <= rows.end
                && rows.end <= row_count
                && cols.start <= cols.end
                && cols.end <= col_count,
            "rows {rows:?} and columns {cols:?} leave a view of [{row_count}, {col_count}]"
        );
        let first_row = if self.row_index.is_some() { 0 } else { rows.start * self.row_stride };
        let first_col = if self.col_index.is_some() { 0 } else { cols.start * self.col_stride };
        Self {
            // Beyond the end only where the part is empty.
            values: self.values.get(first_row + first_col..).unwrap_or_default(),
            rows: rows.len(),
            cols: cols.len(),
            row_index: self.row_index.map(|index| &index[rows]),
            col_index: self.col_index.map(|index| &index[cols]),
            ..self
        }
    }

    /// Whether this is the same view of the same memory.
    pub(super) fn is(&self, other: &View<'_>) -> bool {
        let memory =
            |view: &View<'_>| (view.values.as_ptr(), view.rows, view.cols, view.row_stride, view.col_stride);
        let index = |index: Option<&[u32]>| index.map(<[u32]>::as_ptr);
        memory(self) == memory(other)
            && index(self.row_index) == index(other.row_index)
            && index(self.col_index) == index(other.col_index)
    }

    /// Element `(row, col)`.
    ///
    /// # Panics
    /// If it leaves the view or its memory.
    pub fn at(&self, row: usize, col: usize) -> f32 {
        assert!(row < self.rows && col < self.cols, "({row}, {col}) of [{}, {}]", self.rows, self.cols);
        self.values[self.row_offset(row) + self.col_offset(col)]
    }

    /// Where a row begins.
    #[inline(always)]
    pub(super) fn row_offset(&self, row: usize) -> usize {
        self.row_index.map_or(row, |index| index[row] as usize) * self.row_stride
    }

    /// Where a column lies in its row.
    #[inline(always)]
    pub(super) fn col_offset(&self, col: usize) -> usize {
        self.col_index.map_or(col, |index| index[col] as usize) * self.col_stride
    }

    /// Demands that every element lies in the memory: what the loops rely on.
    ///
    /// # Panics
    /// If one does not, or if an index is not as long as its axis.
    pub(super) fn check(&self, name: &str) {
        let (rows, cols) = (self.rows, self.cols);
        for (axis, len, index) in [("rows", rows, self.row_index), ("columns", cols, self.col_index)] {
            let given = index.map_or(len, <[u32]>::len);
            assert!(given == len, "{name} has {len} {axis}, but an index of {given} for them");
        }
        if rows == 0 || cols == 0 {
            return;
        }
        let last = |len: usize, index: Option<&[u32]>| {
            index.map_or(len - 1, |index| index.iter().copied().max().map_or(0, |most| most as usize))
        };
        let row = last(rows, self.row_index).checked_mul(self.row_stride);
        let col = last(cols, self.col_index).checked_mul(self.col_stride);
        let end = row.zip(col).and_then(|(row, col)| row.checked_add(col));
        assert!(
            end.is_some_and(|end| end < self.values.len()),
            "{name} [{rows}, {cols}] (strides {}, {}) leaves its memory of {} numbers",
            self.row_stride,
            self.col_stride,
            self.values.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_stays_with_its_axis() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let view = View::dense(&values, 4, 3);
        let chosen = view.gathered(&[3, 0, 3]);
        assert_eq!((chosen.rows, chosen.cols, chosen.at(0, 1), chosen.at(1, 2)), (3, 3, 10.0, 2.0));
        let turned = chosen.transposed();
        assert_eq!((turned.rows, turned.cols, turned.at(1, 0), turned.at(2, 1)), (3, 3, 10.0, 2.0));
        let part = turned.sub(1..3, 1..3);
        assert_eq!((part.rows, part.cols, part.at(0, 0), part.at(1, 1)), (2, 2, 1.0, 11.0));
        let inner = view.sub(2..4, 1..2);
        assert_eq!((inner.at(0, 0), inner.at(1, 0)), (7.0, 10.0));
        view.sub(4..4, 3..3).check("an empty part");
    }

    #[test]
    #[should_panic(expected = "x [2, 3] (strides 4, 1) leaves its memory of 6 numbers")]
    fn memory_that_is_too_short_is_refused() {
        View::strided(&[0.0; 6], 2, 3, 4).check("x");
    }

    #[test]
    #[should_panic(expected = "leaves its memory")]
    fn an_index_beyond_the_memory_is_refused() {
        View::dense(&[0.0; 6], 2, 3).gathered(&[0, 2]).check("x");
    }
}
