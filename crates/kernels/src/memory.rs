//! Memory on cache-line boundaries: packed weights, caches and per-thread scratch.

use bytemuck::Pod;

/// Bytes of a cache line; one AVX-512 register; one row of an AMX tile.
pub(crate) const LINE: usize = 64;

/// A zero-initialised buffer of `T` that begins on a cache line. Pages that were never written
/// cost no memory: the zeroes come from the operating system. (An allocation that asks for more
/// than the allocator's own alignment would be zeroed by hand; hence words and an offset.)
pub(crate) struct AlignedBuffer<T> {
    words: Vec<u64>,
    /// Words before the first cache line.
    offset: usize,
    len: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Pod> AlignedBuffer<T> {
    /// `len` zeroes.
    ///
    /// # Panics
    /// If there is no such amount of memory.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).expect("packed weights and scratch fit the memory they were planned for")
    }

    /// `len` zeroes, or `None` if the operating system does not promise as many.
    pub(crate) fn try_zeroed(len: usize) -> Option<Self> {
        let spare = LINE / size_of::<u64>();
        let words = len.checked_mul(size_of::<T>())?.div_ceil(size_of::<u64>()) + spare;
        let words: Vec<u64> = bytemuck::allocation::try_zeroed_vec(words).ok()?;
        let offset = words.as_ptr().align_offset(LINE);
        assert!(offset <= spare, "words lie on multiples of their size");
        Some(Self { words, offset, len, element: std::marker::PhantomData })
    }

    /// Makes room for at least `len` elements. Contents are unspecified (but initialised) after
    /// growing; the buffer never shrinks.
    pub(crate) fn reserve(&mut self, len: usize) {
        if len > self.len {
            *self = Self::zeroed(len);
        }
    }

    /// The elements.
    pub(crate) fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(&self.words[self.offset..][..self.words_used()])[..self.len]
    }

    /// The elements, writable.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        let used = self.words_used();
        &mut bytemuck::cast_slice_mut(&mut self.words[self.offset..][..used])[..self.len]
    }

    fn words_used(&self) -> usize {
        (self.len * size_of::<T>()).div_ceil(size_of::<u64>())
    }
}

impl<T> Default for AlignedBuffer<T> {
    fn default() -> Self {
        Self { words: Vec::new(), offset: 0, len: 0, element: std::marker::PhantomData }
    }
}

impl<T> std::fmt::Debug for AlignedBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} × {} bytes)", self.len, size_of::<T>())
    }
}

/// One thread's working memory, kept between calls so that a steady step allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    floats: AlignedBuffer<f32>,
}

impl Scratch {
    /// `N` disjoint buffers of the given lengths, each on a cache line. Contents are unspecified.
    pub(crate) fn floats<const N: usize>(&mut self, lens: [usize; N]) -> [&mut [f32]; N] {
        let padded = lens.map(|len| len.next_multiple_of(LINE / size_of::<f32>()));
        self.floats.reserve(padded.iter().sum());
        let mut rest = self.floats.as_mut_slice();
        let mut index = 0;
        lens.map(|len| {
            let (buffer, tail) = std::mem::take(&mut rest).split_at_mut(padded[index]);
            rest = tail;
            index += 1;
            &mut buffer[..len]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_disjoint_and_kept() {
        let mut scratch = Scratch::default();
        let [a, b, c] = scratch.floats([3, 0, 17]);
        assert_eq!((a.len(), b.len(), c.len()), (3, 0, 17));
        assert!([a.as_ptr(), c.as_ptr()].iter().all(|p| (*p as usize).is_multiple_of(LINE)));
        a.fill(1.0);
        c.fill(2.0);
        assert_eq!(a, [1.0; 3]);
        let first = scratch.floats([64])[0].as_ptr();
        assert_eq!(scratch.floats([8])[0].as_ptr(), first, "no new memory for a smaller request");
    }
}
