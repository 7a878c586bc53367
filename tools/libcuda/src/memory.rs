//! Device memory, page-locked host memory, copies.

use std::alloc::Layout;
use std::ffi::{c_uchar, c_uint, c_ushort, c_void};

use crate::code::{Code, INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY};
use crate::driver::{State, driver};
use crate::queue::{HostAddress, Work};
use crate::{exports, give};

/// Host bytes that a caller gave.
///
/// # Safety
/// `from` is valid for `bytes` bytes, as the driver's manual asks.
unsafe fn host(from: *const c_void, bytes: usize) -> Result<Vec<u8>, Code> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    if from.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: by this function's contract.
    Ok(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec())
}

fn allocate(address: *mut u64, bytes: usize) -> Result<(), Code> {
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let _state = driver().state()?;
    let found = driver().device.allocate(bytes as u64).map_err(|error| Code::from(&error))?;
    // SAFETY: the caller's pointer, by the driver's contract.
    unsafe { give(address, found) }
}

/// Queues work and, without a stream, waits for everything.
fn submit(stream: Option<*mut c_void>, work: Work) -> Result<(), Code> {
    let mut state = driver().state()?;
    state.queues.push(stream.map_or(0, |stream| stream as usize), work)?;
    if stream.is_none() { finish(&mut state) } else { Ok(()) }
}

/// `CUDA_MEMCPY2D` of the driver's header.
#[repr(C)]
pub(crate) struct Copy2d {
    source_x: usize,
    source_y: usize,
    source_kind: c_uint,
    source_host: *const c_void,
    source: u64,
    source_array: *mut c_void,
    source_pitch: usize,
    target_x: usize,
    target_y: usize,
    target_kind: c_uint,
    target_host: *mut c_void,
    target: u64,
    target_array: *mut c_void,
    target_pitch: usize,
    width: usize,
    height: usize,
}

/// `CU_MEMORYTYPE_DEVICE`.
const DEVICE_MEMORY: c_uint = 2;

/// Queues one piece of work a row.
fn submit_rows(stream: *mut c_void, pitches: [usize; 2], width: usize, rows: usize, work: impl Fn(usize) -> Work) -> Result<(), Code> {
    if pitches.into_iter().any(|pitch| pitch < width) {
        return Err(INVALID_VALUE);
    }
    (0..rows).filter(|_| width > 0).try_for_each(|row| submit(Some(stream), work(row)))
}

fn finish(state: &mut State) -> Result<(), Code> {
    let done = state.queues.finish(driver());
    state.settle(done)
}

fn download(to: *mut c_void, from: u64, bytes: usize, stream: Option<*mut c_void>) -> Result<(), Code> {
    let mut state = driver().state()?;
    if bytes == 0 {
        return Ok(());
    }
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    let handle = stream.map_or(0, |stream| stream as usize);
    let pinned = state.is_pinned(to as usize, bytes);
    if pinned {
        // SAFETY: inside page-locked memory. What is read before the stream is done is not data.
        unsafe { std::ptr::write_bytes(to.cast::<u8>(), 0xff, bytes) };
    }
    state.queues.push(handle, Work::ReadPinned { to: HostAddress(to as usize), from, bytes })?;
    // Copies to ordinary memory are done when the call returns, or never: the caller may free it.
    let done = match (pinned, stream) {
        (true, Some(_)) => return Ok(()),
        (false, Some(stream)) => {
            let done = state.queues.finish_stream(driver(), stream as usize);
            state.settle(done)
        }
        (_, None) => finish(&mut state),
    };
    if done.is_err() {
        state.queues.forget_reads(to as usize);
    }
    done
}

fn upload(to: u64, from: *const c_void, bytes: usize, stream: Option<*mut c_void>) -> Result<(), Code> {
    if bytes == 0 {
        return Ok(());
    }
    let pinned = driver().state()?.is_pinned(from as usize, bytes);
    let work = if pinned && stream.is_some() {
        Work::WritePinned { to, from: HostAddress(from as usize), bytes }
    } else {
        // SAFETY: the caller's memory, by the driver's contract.
        Work::Write { to, bytes: unsafe { host(from, bytes)? } }
    };
    submit(stream, work)
}

fn pinned(address: *mut *mut c_void, bytes: usize) -> Result<(), Code> {
    let mut state = driver().state()?;
    let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| INVALID_VALUE)?;
    // SAFETY: the layout is not empty.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(OUT_OF_MEMORY);
    }
    state.pinned.insert(memory as usize, layout);
    // SAFETY: the caller's pointer, by the driver's contract.
    unsafe { give(address, memory.cast()) }
}

exports! {
    cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        allocate(address, bytes)
    }

    cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: *mut c_void) {
        allocate(address, bytes)
    }

    cuMemFree_v2(address: u64) {
        submit(None, Work::Free { at: address })
    }

    cuMemFreeAsync(address: u64, stream: *mut c_void) {
        submit(Some(stream), Work::Free { at: address })
    }

    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let (unused, all) = driver().device.memory();
        // SAFETY: the caller's pointers, by the driver's contract.
        unsafe {
            give(free, unused as usize)?;
            give(total, all as usize)
        }
    }

    cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        pinned(address, bytes)
    }

    cuMemAllocHost_v2(address: *mut *mut c_void, bytes: usize) {
        pinned(address, bytes)
    }

    cuMemFreeHost(address: *mut c_void) {
        let mut state = driver().state()?;
        // Nothing may still copy from or to it.
        finish(&mut state)?;
        let layout = state.pinned.remove(&(address as usize)).ok_or(INVALID_VALUE)?;
        // SAFETY: allocated by `pinned` with this layout, and given back once.
        unsafe { std::alloc::dealloc(address.cast(), layout) };
        Ok(())
    }

    cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        upload(to, from, bytes, None)
    }

    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) {
        upload(to, from, bytes, Some(stream))
    }

    cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        download(to, from, bytes, None)
    }

    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) {
        download(to, from, bytes, Some(stream))
    }

    cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        submit(None, Work::Copy { to, from, bytes: bytes as u64 })
    }

    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) {
        submit(Some(stream), Work::Copy { to, from, bytes: bytes as u64 })
    }

    cuMemcpy2DAsync_v2(copy: *const Copy2d, stream: *mut c_void) {
        // SAFETY: null, or the caller's description, by the driver's contract.
        let copy = unsafe { copy.as_ref() }.ok_or(INVALID_VALUE)?;
        if [copy.source_kind, copy.target_kind] != [DEVICE_MEMORY; 2] {
            return Err(NOT_SUPPORTED);
        }
        let place = |base: u64, pitch: usize, y: usize, x: usize| base.wrapping_add(pitch.wrapping_mul(y).wrapping_add(x) as u64);
        let from = place(copy.source, copy.source_pitch, copy.source_y, copy.source_x);
        let to = place(copy.target, copy.target_pitch, copy.target_y, copy.target_x);
        submit_rows(stream, [copy.source_pitch, copy.target_pitch], copy.width, copy.height, |row| Work::Copy {
            to: place(to, copy.target_pitch, row, 0),
            from: place(from, copy.source_pitch, row, 0),
            bytes: copy.width as u64,
        })
    }

    cuMemsetD2D8Async(at: u64, pitch: usize, value: c_uchar, width: usize, rows: usize, stream: *mut c_void) {
        submit_rows(stream, [pitch; 2], width, rows, |row| Work::Fill {
            at: at.wrapping_add(pitch.wrapping_mul(row) as u64),
            pattern: vec![value],
            count: width as u64,
        })
    }

    cuMemsetD8_v2(at: u64, value: c_uchar, count: usize) {
        submit(None, Work::Fill { at, pattern: vec![value], count: count as u64 })
    }

    cuMemsetD8Async(at: u64, value: c_uchar, count: usize, stream: *mut c_void) {
        submit(Some(stream), Work::Fill { at, pattern: vec![value], count: count as u64 })
    }

    cuMemsetD16Async(at: u64, value: c_ushort, count: usize, stream: *mut c_void) {
        submit(Some(stream), Work::Fill { at, pattern: value.to_le_bytes().to_vec(), count: count as u64 })
    }

    cuMemsetD32Async(at: u64, value: c_uint, count: usize, stream: *mut c_void) {
        submit(Some(stream), Work::Fill { at, pattern: value.to_le_bytes().to_vec(), count: count as u64 })
    }
}
