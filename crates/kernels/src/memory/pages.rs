//! Pages straight from the operating system.

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;

/// Bytes of a huge page where there are any.
pub(super) const HUGE: usize = 2 << 20;

/// Some pages of zeroes, given back when dropped.
pub(super) struct Pages {
    map: MmapMut,
    /// Where in the map they begin, and how many bytes they are.
    first: usize,
    len: usize,
}

impl Pages {
    /// `bytes` bytes; `None` if they are not to be had.
    ///
    /// Huge pages are asked for where the range covers whole ones: a huge page across the end would
    /// take memory that nothing uses, and many buffers are not much larger than one.
    pub(super) fn zeroed(bytes: usize) -> Option<Self> {
        let map = MmapMut::map_anon(bytes).ok()?;
        let first = before_huge(&map);
        ask_for_huge(&map, first, bytes.saturating_sub(first) / HUGE * HUGE);
        Some(Self { map, first: 0, len: bytes })
    }

    /// `bytes` bytes, a multiple of [`HUGE`], nothing but huge pages if there are any; `None` if they are not to be had.
    pub(super) fn whole(bytes: usize) -> Option<Self> {
        debug_assert!(bytes.is_multiple_of(HUGE));
        // What lies before the first whole page is never written, and costs nothing.
        let map = MmapMut::map_anon(bytes.checked_add(HUGE)?).ok()?;
        let first = before_huge(&map);
        ask_for_huge(&map, first, bytes);
        Some(Self { map, first, len: bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first byte. To be written through where nothing else of the range is borrowed.
    pub(super) fn start(&self) -> *mut u8 {
        self.map.as_ptr().wrapping_add(self.first).cast_mut()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map[self.first..][..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.first..][..self.len]
    }

    /// Lets the pages that are not there yet come from all `nodes` in turn. A refusal (a sandbox may
    /// forbid the call) leaves the usual placement: on the node of the thread that writes first.
    pub(super) fn interleave(&self, nodes: &[usize]) {
        if nodes.len() > 1 {
            let _ = super::numa::interleave(self.bytes(), nodes);
        }
    }
}

/// Bytes before the first whole huge page.
fn before_huge(map: &MmapMut) -> usize {
    let start = map.as_ptr().addr();
    start.next_multiple_of(HUGE) - start
}

/// Asks for huge pages; whether they come is the system's business (`/sys/kernel/mm/transparent_hugepage/enabled`).
fn ask_for_huge(map: &MmapMut, first: usize, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes > 0 {
        // Refused where the kernel was built without huge pages: then there are none.
        let _ = map.advise_range(Advice::HugePage, first, bytes);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (map, first, bytes);
}
