//! Host memory in large pages. A product that streams its weights once touches a new page of 4 KiB every microsecond; what the processor
//! spends on finding those pages costs a third of the bandwidth.

use memmap2::MmapMut;

/// A page that one entry of the translation buffer covers.
const LARGE: usize = 2 << 20;

/// Zeroed bytes, on a page's boundary; from [`LARGE`] on, a large page's, and in large pages where the system has any.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapMut,
    start: usize,
    bytes: usize,
}

impl Memory {
    /// None when there is not as much.
    pub(super) fn zeroed(bytes: usize) -> Option<Memory> {
        let spare = if bytes < LARGE { 0 } else { LARGE };
        let map = MmapMut::map_anon(bytes.checked_add(spare)?.max(1)).ok()?;
        let start = if spare == 0 { 0 } else { map.as_ptr().align_offset(LARGE) };
        #[cfg(target_os = "linux")]
        if spare > 0 {
            // A wish: without it the memory is as good, and slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Some(Memory { map, start, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.bytes]
    }
}
