//! Graphs: the work that a stream was captured with, to be queued again.

use std::ffi::{c_ulonglong, c_void};

use crate::code::INVALID_HANDLE;
use crate::driver::driver;
use crate::{exports, give};

exports! {
    cuGraphInstantiateWithFlags(executable: *mut *mut c_void, graph: *mut c_void, _flags: c_ulonglong) {
        let mut state = driver().state()?;
        let work = state.graphs.get(&(graph as usize)).cloned().ok_or(INVALID_HANDLE)?;
        let handle = state.handle();
        state.executables.insert(handle, work);
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(executable, handle as *mut c_void) }
    }

    cuGraphUpload(executable: *mut c_void, _stream: *mut c_void) {
        if driver().state()?.executables.contains_key(&(executable as usize)) { Ok(()) } else { Err(INVALID_HANDLE) }
    }

    cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) {
        let mut state = driver().state()?;
        let work = state.executables.get(&(executable as usize)).cloned().ok_or(INVALID_HANDLE)?;
        work.into_iter().try_for_each(|work| state.queues.push(stream as usize, work))
    }

    cuGraphDestroy(graph: *mut c_void) {
        driver().state()?.graphs.remove(&(graph as usize)).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    cuGraphExecDestroy(executable: *mut c_void) {
        driver().state()?.executables.remove(&(executable as usize)).map(|_| ()).ok_or(INVALID_HANDLE)
    }
}
