//! Streams and events.

use std::ffi::{c_int, c_uint, c_void};

use crate::code::{CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, INVALID_HANDLE, NOT_READY};
use crate::driver::driver;
use crate::queue::{Event, Work};
use crate::{exports, give};

exports! {
    cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) {
        let mut state = driver().state()?;
        let handle = state.handle();
        state.queues.open(handle);
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(stream, handle as *mut c_void) }
    }

    cuStreamCreateWithPriority(stream: *mut *mut c_void, flags: c_uint, _priority: c_int) {
        // SAFETY: passed on as it came.
        match unsafe { cuStreamCreate(stream, flags) } {
            0 => Ok(()),
            code => Err(crate::code::Code(code)),
        }
    }

    cuStreamDestroy_v2(stream: *mut c_void) {
        let mut state = driver().state()?;
        // Work that was queued is still done.
        state.queues.finish_stream(driver(), stream as usize)?;
        state.queues.close(stream as usize)
    }

    cuStreamSynchronize(stream: *mut c_void) {
        let mut state = driver().state()?;
        if state.queues.is_capturing(stream as usize)? {
            return Err(CAPTURE_UNSUPPORTED);
        }
        let done = state.queues.finish_stream(driver(), stream as usize);
        state.settle(done)
    }

    cuStreamQuery(stream: *mut c_void) {
        let mut state = driver().state()?;
        if state.queues.is_empty(stream as usize)? { Ok(()) } else { Err(NOT_READY) }
    }

    cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) {
        let mut state = driver().state()?;
        let number = state.queues.last_record(event as usize)?;
        state.queues.push(stream as usize, Work::Wait { event: event as usize, number })
    }

    cuEventCreate(event: *mut *mut c_void, _flags: c_uint) {
        let mut state = driver().state()?;
        let handle = state.handle();
        state.queues.events.insert(handle, Event::default());
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(event, handle as *mut c_void) }
    }

    cuEventDestroy_v2(event: *mut c_void) {
        driver().state()?.queues.events.remove(&(event as usize)).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    cuEventRecord(event: *mut c_void, stream: *mut c_void) {
        let mut state = driver().state()?;
        let number = state.queues.record(event as usize)?;
        state.queues.push(stream as usize, Work::Record { event: event as usize, number })
    }

    cuEventQuery(event: *mut c_void) {
        if driver().state()?.queues.is_done(event as usize)? { Ok(()) } else { Err(NOT_READY) }
    }

    cuEventSynchronize(event: *mut c_void) {
        let mut state = driver().state()?;
        let done = state.queues.finish_event(driver(), event as usize);
        state.settle(done)
    }

    cuEventElapsedTime(milliseconds: *mut f32, start: *mut c_void, end: *mut c_void) {
        let state = driver().state()?;
        let at = |event: *mut c_void| state.queues.events.get(&(event as usize)).ok_or(INVALID_HANDLE)?.at.ok_or(INVALID_HANDLE);
        let elapsed = at(end)?.saturating_duration_since(at(start)?);
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(milliseconds, elapsed.as_secs_f32() * 1e3) }
    }

    cuStreamBeginCapture_v2(stream: *mut c_void, _mode: c_uint) {
        driver().state()?.queues.begin_capture(stream as usize)
    }

    cuStreamIsCapturing(stream: *mut c_void, status: *mut c_uint) {
        let capturing = driver().state()?.queues.is_capturing(stream as usize)?;
        // SAFETY: as above.
        unsafe { give(status, c_uint::from(capturing)) }
    }

    cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) {
        let mut state = driver().state()?;
        let work = state.queues.end_capture(stream as usize)?.ok_or(CAPTURE_INVALIDATED)?;
        let handle = state.handle();
        state.graphs.insert(handle, work);
        // SAFETY: as above.
        unsafe { give(graph, handle as *mut c_void) }
    }
}
