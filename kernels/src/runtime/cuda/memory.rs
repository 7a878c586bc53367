//! Device memory and page-locked host memory.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::{Cuda, check};
use crate::{Error, Result};

/// One allocation of device memory.
#[derive(Debug)]
pub(in super::super) struct DeviceBlock {
    cuda: Arc<Cuda>,
    address: u64,
    bytes: usize,
}

impl DeviceBlock {
    /// Zeroed memory.
    pub(in super::super) fn zeroed(cuda: &Arc<Cuda>, class: &'static str, bytes: usize) -> Result<DeviceBlock> {
        cuda.bind()?;
        let mut address = 0;
        let size = bytes.max(1);
        // SAFETY: the driver writes the address.
        let code = unsafe { sys::cuMemAlloc_v2(&mut address, size) };
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { class, requested: bytes });
        }
        check("cuMemAlloc", code)?;
        let block = DeviceBlock { cuda: cuda.clone(), address, bytes: size };
        // SAFETY: the block was allocated with this size.
        check("cuMemsetD8", unsafe { sys::cuMemsetD8_v2(address, 0, size) })?;
        // The driver may have queued it on the null stream, for which ours do not wait.
        // SAFETY: the null stream always exists.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(std::ptr::null_mut()) })?;
        Ok(block)
    }

    pub(in super::super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device address of `length` bytes from `start` on.
    ///
    /// # Panics
    /// When the range leaves the block: a bug of ours.
    pub(in super::super) fn address(&self, start: usize, length: usize) -> u64 {
        assert!(start + length <= self.bytes, "{start}+{length} leaves a block of {} bytes", self.bytes);
        self.address + start as u64
    }
}

impl Drop for DeviceBlock {
    fn drop(&mut self) {
        if self.cuda.bind().is_ok() {
            // A driver may wait for work that uses the memory, and may not.
            // SAFETY: allocated in `zeroed`; whatever was queued is done.
            let _ = unsafe { (sys::cuCtxSynchronize(), sys::cuMemFree_v2(self.address)) };
        }
    }
}

/// Page-locked host memory.
#[derive(Debug)]
pub(in super::super) struct PinnedBlock {
    cuda: Arc<Cuda>,
    pub(in super::super) pointer: *mut u8,
}

// SAFETY: the block owns its memory.
unsafe impl Send for PinnedBlock {}
// SAFETY: reading through a shared reference only.
unsafe impl Sync for PinnedBlock {}

impl PinnedBlock {
    pub(in super::super) fn zeroed(cuda: &Arc<Cuda>, bytes: usize) -> Result<PinnedBlock> {
        cuda.bind()?;
        let mut pointer: *mut c_void = std::ptr::null_mut();
        let size = bytes.max(1);
        // SAFETY: the driver writes the pointer.
        let code = unsafe { sys::cuMemHostAlloc(&mut pointer, size, 0) };
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { class: "page-locked staging", requested: bytes });
        }
        check("cuMemHostAlloc", code)?;
        // SAFETY: allocated with this size.
        unsafe { pointer.cast::<u8>().write_bytes(0, size) };
        Ok(PinnedBlock { cuda: cuda.clone(), pointer: pointer.cast() })
    }
}

impl Drop for PinnedBlock {
    fn drop(&mut self) {
        if self.cuda.bind().is_ok() {
            // SAFETY: allocated in `zeroed`; copies that use it have been waited for by the owner.
            let _ = unsafe { sys::cuMemFreeHost(self.pointer.cast()) };
        }
    }
}
