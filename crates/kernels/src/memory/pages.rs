//! Pages straight from the operating system.

use memmap2::{Advice, MmapMut};

/// Bytes of a huge page where there are any.
pub(super) const HUGE: usize = 2 << 20;

/// Some pages of zeroes, given back when dropped.
pub(super) struct Pages {
    map: MmapMut,
}

impl Pages {
    /// At least `bytes` bytes; `None` if they are not to be had.
    ///
    /// Huge pages are asked for where the range covers whole ones: a huge page across the end would
    /// take memory that nothing uses, and many buffers are not much larger than one. Whether they come
    /// is the system's business (`/sys/kernel/mm/transparent_hugepage/enabled`).
    pub(super) fn zeroed(bytes: usize) -> Option<Self> {
        let map = MmapMut::map_anon(bytes).ok()?;
        let start = map.as_ptr() as usize;
        let first = start.next_multiple_of(HUGE) - start;
        let whole = bytes.saturating_sub(first) / HUGE * HUGE;
        #[cfg(target_os = "linux")]
        if whole > 0 {
            // Refused where the kernel was built without huge pages: then there are none.
            let _ = map.advise_range(Advice::HugePage, first, whole);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (whole, Advice::Normal);
        Some(Self { map })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// Lets the pages that are not there yet come from all `nodes` in turn. A refusal (a sandbox may
    /// forbid the call) leaves the usual placement: on the node of the thread that writes first.
    pub(super) fn interleave(&self, nodes: &[usize]) {
        if nodes.len() > 1 {
            let _ = super::numa::interleave(&self.map, nodes);
        }
    }
}
