//! Memory on cache-line boundaries: packed weights, caches and per-thread scratch.

mod numa;
mod pages;
mod slab;

use bytemuck::Pod;
use pages::Pages;
use slab::Piece;

/// Bytes of a cache line; one AVX-512 register; one row of an AMX tile.
pub(crate) const LINE: usize = 64;

/// Bytes from which on a buffer has pages of its own: one huge page.
const PAGES_FROM: usize = pages::HUGE;

/// A zero-initialised buffer of `T` that begins on a cache line. Pages that were never written
/// cost no memory: the zeroes come from the operating system. Large buffers ask for huge pages, as
/// far as they cover whole ones.
pub(crate) struct AlignedBuffer<T> {
    memory: Memory,
    /// Bytes before the first element.
    offset: usize,
    len: usize,
    element: std::marker::PhantomData<T>,
}

enum Memory {
    /// From the allocator. (An allocation that asks for more than the allocator's own alignment would
    /// be zeroed by hand; hence words and an offset.)
    Words(Vec<u64>),
    /// From the operating system.
    Pages(Pages),
    /// Of huge pages, among others.
    Piece(Piece),
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
        let bytes = len.checked_mul(size_of::<T>())?;
        if bytes >= PAGES_FROM {
            let memory = Memory::Pages(Pages::zeroed(bytes)?);
            return Some(Self { memory, offset: 0, len, element: std::marker::PhantomData });
        }
        let spare = LINE / size_of::<u64>();
        let words: Vec<u64> =
            bytemuck::allocation::try_zeroed_vec(bytes.div_ceil(size_of::<u64>()) + spare).ok()?;
        let offset = words.as_ptr().align_offset(LINE);
        assert!(offset <= spare, "words lie on multiples of their size");
        let offset = offset * size_of::<u64>();
        Some(Self { memory: Memory::Words(words), offset, len, element: std::marker::PhantomData })
    }

    /// `len` zeroes that stay about as long as others do, such as weights: together they lie in huge pages, spread over
    /// all memory nodes. The memory goes back to the system with the last of some that were made one after the other.
    ///
    /// # Panics
    /// If there is no such amount of memory.
    pub(crate) fn among_others(len: usize) -> Self {
        let memory = len.checked_mul(size_of::<T>()).and_then(Piece::zeroed).map(Memory::Piece);
        let memory = memory.expect("weights fit the memory they were planned for");
        Self { memory, offset: 0, len, element: std::marker::PhantomData }
    }

    /// Spreads a large buffer that nobody has written yet over all memory nodes, page by page: for what
    /// all threads read. On machines with one node, and for small buffers, this does nothing.
    pub(crate) fn spread(self) -> Self {
        if let Memory::Pages(pages) = &self.memory {
            pages.interleave(numa::nodes());
        }
        self
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
        let bytes = match &self.memory {
            Memory::Words(words) => bytemuck::cast_slice(words),
            Memory::Pages(pages) => pages.bytes(),
            Memory::Piece(piece) => piece.bytes(),
        };
        bytemuck::cast_slice(&bytes[self.offset..self.offset + self.len * size_of::<T>()])
    }

    /// The elements, writable.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        let bytes = match &mut self.memory {
            Memory::Words(words) => bytemuck::cast_slice_mut(words),
            Memory::Pages(pages) => pages.bytes_mut(),
            Memory::Piece(piece) => piece.bytes_mut(),
        };
        bytemuck::cast_slice_mut(&mut bytes[self.offset..self.offset + self.len * size_of::<T>()])
    }
}

impl<T> Default for AlignedBuffer<T> {
    fn default() -> Self {
        Self { memory: Memory::Words(Vec::new()), offset: 0, len: 0, element: std::marker::PhantomData }
    }
}

impl<T> std::fmt::Debug for AlignedBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} × {} bytes)", self.len, size_of::<T>())
    }
}

/// Zero-initialised `f32`s that begin on a cache line, in huge pages where they fill some: the storage of tensors.
#[derive(Debug, Default)]
pub struct Floats(AlignedBuffer<f32>);

impl Floats {
    /// `len` zeroes. Pages that are never written cost no memory.
    ///
    /// # Panics
    /// If there is no such amount of memory.
    pub fn zeroed(len: usize) -> Self {
        Self(AlignedBuffer::zeroed(len))
    }

    /// The numbers.
    pub fn as_slice(&self) -> &[f32] {
        self.0.as_slice()
    }

    /// The numbers, writable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.0.as_mut_slice()
    }
}

/// One thread's working memory, kept between calls so that a steady step allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    floats: AlignedBuffer<f32>,
}

impl Scratch {
    /// `N` disjoint buffers of the given lengths, each on a cache line. Contents are unspecified.
    #[inline]
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

    #[test]
    fn small_and_large_buffers_are_zero_aligned_and_writable() {
        for len in [0, 1, 1000, PAGES_FROM / 4 - 1, PAGES_FROM / 4, PAGES_FROM + 12_345] {
            let mut buffer = AlignedBuffer::<u32>::zeroed(len).spread();
            assert_eq!(matches!(buffer.memory, Memory::Pages(_)), 4 * len >= PAGES_FROM);
            assert!(buffer.as_slice().len() == len && buffer.as_slice().iter().all(|&value| value == 0));
            assert!((buffer.as_slice().as_ptr() as usize).is_multiple_of(LINE));
            buffer.as_mut_slice().fill(7);
            assert_eq!(buffer.as_slice().iter().map(|&value| value as usize).sum::<usize>(), 7 * len);
        }
    }

    #[test]
    fn more_than_there_is_gives_none() {
        assert!(AlignedBuffer::<u64>::try_zeroed(usize::MAX / 2).is_none());
        assert!(AlignedBuffer::<u8>::try_zeroed(isize::MAX as usize - 4096).is_none());
    }
}
