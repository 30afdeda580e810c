//! Where weights lie: in memory of their own, or in a file that somebody mapped.

use std::ops::Range;
use std::sync::Arc;

use crate::memory::{AlignedBuffer, LINE};

/// Bytes that are shared and never change: a mapped file, kept for as long as a part of it is used.
/// [`AsRef::as_ref`] must return the same slice every time.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes that begin on a cache line: a buffer of their own, or a range of shared ones.
pub struct WeightBytes(Place);

enum Place {
    Owned(AlignedBuffer<u8>),
    Mapped { owner: SharedBytes, range: Range<usize> },
}

impl WeightBytes {
    /// `len` zeroes of its own, to be written.
    ///
    /// # Panics
    /// If there is no such amount of memory.
    pub fn zeroed(len: usize) -> Self {
        Self(Place::Owned(AlignedBuffer::among_others(len)))
    }

    /// The bytes `range` of `owner`, not copied; `None` if it does not hold them or they do not begin on a cache
    /// line (64 bytes).
    pub fn mapped(owner: SharedBytes, range: Range<usize>) -> Option<Self> {
        let bytes = (*owner).as_ref().get(range.clone())?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(LINE);
        aligned.then_some(Self(Place::Mapped { owner, range }))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Place::Owned(buffer) => buffer.as_slice(),
            Place::Mapped { owner, range } => &(**owner).as_ref()[range.clone()],
        }
    }

    /// The bytes, writable; `None` if they are shared.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        match &mut self.0 {
            Place::Owned(buffer) => Some(buffer.as_mut_slice()),
            Place::Mapped { .. } => None,
        }
    }

    /// Whether they are a range of shared bytes.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Place::Mapped { .. })
    }
}

impl From<AlignedBuffer<u8>> for WeightBytes {
    fn from(buffer: AlignedBuffer<u8>) -> Self {
        Self(Place::Owned(buffer))
    }
}

impl std::fmt::Debug for WeightBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Place::Owned(buffer) => buffer.fmt(f),
            Place::Mapped { range, .. } => write!(f, "Mapped({range:?})"),
        }
    }
}
