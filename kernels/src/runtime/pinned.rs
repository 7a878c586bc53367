//! Page-locked host memory for batches on their way to a device.

use std::sync::Mutex;

use super::cuda::{CudaEvent, PinnedBlock};
use super::device::lock;
use super::{Device, Element};

/// Host memory that a copy stream can read while the host goes on; ordinary memory on the CPU, and where the driver refuses.
#[derive(Debug)]
pub struct Pinned<T> {
    memory: Memory<T>,
    len: usize,
    /// After the last copy that reads it.
    busy: Mutex<Option<CudaEvent>>,
}

#[derive(Debug)]
enum Memory<T> {
    Ordinary(Vec<T>),
    Locked(PinnedBlock),
}

impl<T: Element> Pinned<T> {
    /// Zeroed memory for `len` elements.
    pub fn new(device: &Device, len: usize) -> Pinned<T> {
        let locked = device.as_cuda().and_then(|cuda| PinnedBlock::zeroed(cuda, len * size_of::<T>()).ok());
        let memory = locked.map_or_else(|| Memory::Ordinary(vec![T::default(); len]), Memory::Locked);
        Pinned { memory, len, busy: Mutex::default() }
    }

    /// To read.
    pub fn as_slice(&self) -> &[T] {
        match &self.memory {
            Memory::Ordinary(values) => values,
            // SAFETY: page-aligned memory of this many elements, zeroed at the start; any bits are a valid `T: Pod`.
            Memory::Locked(block) => unsafe { std::slice::from_raw_parts(block.pointer.cast(), self.len) },
        }
    }

    /// To write, after the copies that still read it are done.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.finish();
        match &mut self.memory {
            Memory::Ordinary(values) => values,
            // SAFETY: as above, and `self` is borrowed exclusively.
            Memory::Locked(block) => unsafe { std::slice::from_raw_parts_mut(block.pointer.cast(), self.len) },
        }
    }

    /// Notes the event that follows a copy out of this memory.
    pub(super) fn read_until(&self, event: CudaEvent) {
        *lock(&self.busy) = Some(event);
    }
}

impl<T> Pinned<T> {
    fn finish(&self) {
        if let Some(event) = lock(&self.busy).take() {
            // A device that failed says so at the next call that can report it; it reads nothing any more.
            let _ = event.synchronize();
        }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.finish();
    }
}
