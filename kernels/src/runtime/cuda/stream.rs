//! Streams and events of a CUDA device.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent_flags, CUstream_flags};

use super::launch::Launch;
use super::module::Module;
use super::{Cuda, DeviceBlock, check};
use crate::runtime::{Device, Element, Tensor};
use crate::{Error, Result};

/// A queue of work on a CUDA device, with its scratch.
#[derive(Debug)]
pub struct CudaStream {
    device: Device,
    cuda: Arc<Cuda>,
    handle: sys::CUstream,
    scratch: DeviceBlock,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for CudaStream {}
// SAFETY: as above.
unsafe impl Sync for CudaStream {}

/// Rows of a copy: device address, bytes a row, bytes between rows.
#[derive(Clone, Copy, Debug)]
struct Pitch {
    address: u64,
    rows: usize,
    width: usize,
    stride: usize,
}

impl CudaStream {
    pub(in super::super) fn new(device: &Device, cuda: &Arc<Cuda>, scratch_bytes: usize) -> Result<CudaStream> {
        let scratch = DeviceBlock::zeroed(cuda, "scratch", scratch_bytes)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the driver writes the handle.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut handle, CUstream_flags::CU_STREAM_NON_BLOCKING as u32) })?;
        Ok(CudaStream { device: device.clone(), cuda: cuda.clone(), handle, scratch })
    }

    /// Starts a launch of an entry of `text`: `grid` CTAs of `block` threads.
    pub fn launch(&self, text: &'static str, entry: impl Into<String>, grid: [u32; 3], block: u32) -> Launch<'_> {
        Launch::new(self, text, entry.into(), grid, block)
    }

    pub(super) fn module(&self, text: &'static str) -> Result<Arc<Module>> {
        self.cuda.bind()?;
        self.cuda.module(text)
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// Bytes of scratch.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch.bytes()
    }

    /// Refuses an operation that needs more scratch than there is.
    ///
    /// # Errors
    /// `Scratch`.
    pub fn need_scratch(&self, op: &'static str, needed: usize) -> Result<()> {
        let reserved = self.scratch.bytes();
        if needed <= reserved { Ok(()) } else { Err(Error::Scratch { op, needed, reserved }) }
    }

    pub(super) fn scratch_address(&self) -> u64 {
        self.scratch.address(0, 0)
    }

    /// Zeroes the first bytes of the scratch.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn zero_scratch(&self, bytes: usize) -> Result<()> {
        self.cuda.bind()?;
        // SAFETY: the range lies inside the scratch, which `address` checks.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(self.scratch.address(0, bytes), 0, bytes, self.handle) })
    }

    /// Copies scratch from byte `start` on to the host, and waits for it.
    ///
    /// # Errors
    /// Those of work on the stream so far.
    pub fn fetch_scratch<T: Element>(&self, start: usize, target: &mut [T]) -> Result<()> {
        let to: &mut [u8] = bytemuck::cast_slice_mut(target);
        self.cuda.bind()?;
        let from = self.scratch.address(start, to.len());
        // SAFETY: both ranges have as many bytes, and we wait below.
        check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), self.handle) })?;
        self.synchronize()
    }

    pub(super) fn address<T: Element>(&self, tensor: Tensor<T>) -> u64 {
        self.pitch(tensor).address
    }

    /// Whether every row of a tensor starts at a multiple of 16 bytes and is as many of them long: what the widest copies need.
    pub fn has_whole_chunks<T: Element>(&self, tensor: Tensor<T>) -> bool {
        let bytes = [tensor.width(), tensor.row_stride()].map(|count| count * size_of::<T>());
        self.address(tensor).is_multiple_of(16) && bytes.iter().all(|bytes| bytes.is_multiple_of(16))
    }

    /// Whether products of f32 may round their operands to tf32.
    pub fn allows_tf32(&self) -> bool {
        self.device.allows_tf32()
    }

    /// Bytes of shared memory that a block may have at most.
    pub fn shared_limit(&self) -> usize {
        self.cuda.shared_limit
    }

    fn pitch<T: Element>(&self, tensor: Tensor<T>) -> Pitch {
        let size = size_of::<T>();
        let (rows, width) = if tensor.is_contiguous() { (1, tensor.len()) } else { (tensor.rows(), tensor.width()) };
        let stride = tensor.row_stride() * size;
        let length = if rows * width == 0 { 0 } else { (rows - 1) * stride + width * size };
        // A tensor of nothing may lie behind the end.
        let start = if length == 0 { 0 } else { tensor.offset * size };
        let address = self.device.device_block(tensor.plan).address(start, length);
        Pitch { address, rows, width: width * size, stride }
    }

    /// Calls `copy` with the device address and the host offset of every row.
    fn rows(&self, pitch: Pitch, call: &'static str, copy: impl Fn(u64, usize, usize) -> sys::CUresult) -> Result<()> {
        self.cuda.bind()?;
        if pitch.width == 0 {
            return Ok(());
        }
        (0..pitch.rows).try_for_each(|row| check(call, copy(pitch.address + (row * pitch.stride) as u64, row * pitch.width, pitch.width)))
    }

    /// Copies from ordinary or page-locked memory of the tensor's length.
    pub(in super::super) fn upload<T: Element>(&self, tensor: Tensor<T>, source: &[T]) -> Result<()> {
        let from: &[u8] = bytemuck::cast_slice(source);
        let stream = self.handle;
        self.rows(self.pitch(tensor), "cuMemcpyHtoDAsync", |address, at, bytes| {
            let from = &from[at..at + bytes];
            // SAFETY: both ranges have `bytes` bytes. Ordinary memory is read before the call returns; page-locked memory is kept by
            // its owner until the event that follows the copy.
            unsafe { sys::cuMemcpyHtoDAsync_v2(address, from.as_ptr().cast(), bytes, stream) }
        })
    }

    /// Copies to ordinary memory and waits.
    pub(in super::super) fn download<T: Element>(&self, tensor: Tensor<T>, target: &mut [T]) -> Result<()> {
        let to: *mut u8 = bytemuck::cast_slice_mut::<T, u8>(target).as_mut_ptr();
        let stream = self.handle;
        let queued = self.rows(self.pitch(tensor), "cuMemcpyDtoHAsync", |address, at, bytes| {
            // SAFETY: the target has the tensor's length, so that row `at` lies inside it; we wait below, for a part of the rows too.
            unsafe { sys::cuMemcpyDtoHAsync_v2(to.add(at).cast(), address, bytes, stream) }
        });
        let done = self.synchronize();
        queued.and(done)
    }

    pub(in super::super) fn copy<T: Element>(&self, target: Tensor<T>, source: Tensor<T>) -> Result<()> {
        let (to, from) = (self.pitch(target), self.pitch(source));
        let size = size_of::<T>();
        let strided = to.rows != 1 || from.rows != 1;
        let (rows, width) = if strided { (target.rows(), target.width() * size) } else { (1, to.width) };
        if rows * width == 0 {
            return Ok(());
        }
        self.cuda.bind()?;
        if rows == 1 {
            // SAFETY: both rows have `width` bytes inside their tensors.
            return check("cuMemcpyDtoDAsync", unsafe { sys::cuMemcpyDtoDAsync_v2(to.address, from.address, width, self.handle) });
        }
        let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: device,
            srcHost: std::ptr::null(),
            srcDevice: from.address,
            srcArray: std::ptr::null_mut(),
            srcPitch: source.row_stride() * size,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: device,
            dstHost: std::ptr::null_mut(),
            dstDevice: to.address,
            dstArray: std::ptr::null_mut(),
            dstPitch: target.row_stride() * size,
            WidthInBytes: width,
            Height: rows,
        };
        // SAFETY: the rows lie inside both tensors; the driver reads the description before it returns.
        check("cuMemcpy2DAsync", unsafe { sys::cuMemcpy2DAsync_v2(&copy, self.handle) })
    }

    pub(in super::super) fn zero<T: Element>(&self, tensor: Tensor<T>) -> Result<()> {
        let Pitch { address, rows, width, stride } = self.pitch(tensor);
        if rows * width == 0 {
            return Ok(());
        }
        self.cuda.bind()?;
        // SAFETY: the rows lie inside the tensor.
        unsafe {
            match rows {
                1 => check("cuMemsetD8Async", sys::cuMemsetD8Async(address, 0, width, self.handle)),
                _ => check("cuMemsetD2D8Async", sys::cuMemsetD2D8Async(address, stride, 0, width, rows, self.handle)),
            }
        }
    }

    pub(in super::super) fn synchronize(&self) -> Result<()> {
        self.cuda.bind()?;
        // SAFETY: the stream is open.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.handle) })
    }

    pub(in super::super) fn record(&self, event: &CudaEvent) -> Result<()> {
        self.cuda.bind()?;
        // SAFETY: both handles are open.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event.handle, self.handle) })
    }

    pub(in super::super) fn wait(&self, event: &CudaEvent) -> Result<()> {
        self.cuda.bind()?;
        // SAFETY: both handles are open.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.handle, event.handle, 0) })
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        if self.cuda.bind().is_ok() {
            // SAFETY: opened in `new`; the driver finishes its work first.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
        }
    }
}

/// An event of a CUDA device.
#[derive(Debug)]
pub(in super::super) struct CudaEvent {
    cuda: Arc<Cuda>,
    handle: sys::CUevent,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for CudaEvent {}
// SAFETY: as above.
unsafe impl Sync for CudaEvent {}

impl CudaEvent {
    pub(in super::super) fn new(cuda: &Arc<Cuda>) -> Result<CudaEvent> {
        cuda.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the driver writes the handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut handle, CUevent_flags::CU_EVENT_DEFAULT as u32) })?;
        Ok(CudaEvent { cuda: cuda.clone(), handle })
    }

    pub(in super::super) fn synchronize(&self) -> Result<()> {
        self.cuda.bind()?;
        // SAFETY: the handle is open.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.handle) })
    }

    pub(in super::super) fn elapsed_ms(&self, later: &CudaEvent) -> Result<f64> {
        let mut milliseconds = 0.0f32;
        self.cuda.bind()?;
        // SAFETY: both handles are open; the driver writes the number.
        check("cuEventElapsedTime", unsafe { sys::cuEventElapsedTime(&mut milliseconds, self.handle, later.handle) })?;
        Ok(f64::from(milliseconds))
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        if self.cuda.bind().is_ok() {
            // SAFETY: made in `new`.
            let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
        }
    }
}
