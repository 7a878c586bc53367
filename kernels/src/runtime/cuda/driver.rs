//! Result codes of the driver as errors.

use std::ffi::{CStr, c_char};

use cudarc::driver::sys::{self, CUresult};

use crate::{Error, Result};

/// The error of a call that did not succeed.
pub(in super::super) fn check(call: &'static str, code: CUresult) -> Result<()> {
    use CUresult::*;
    match code {
        CUDA_SUCCESS => Ok(()),
        CUDA_ERROR_INVALID_PTX | CUDA_ERROR_UNSUPPORTED_PTX_VERSION | CUDA_ERROR_NO_BINARY_FOR_GPU => {
            Err(Error::Ptx { call, name: name(code), text: String::new() })
        }
        CUDA_ERROR_ILLEGAL_ADDRESS | CUDA_ERROR_MISALIGNED_ADDRESS | CUDA_ERROR_ILLEGAL_INSTRUCTION | CUDA_ERROR_LAUNCH_FAILED => {
            Err(Error::DeviceFault { call, name: name(code) })
        }
        _ => Err(Error::Driver { call, code: code as u32, name: name(code) }),
    }
}

/// The driver's name of a code, for example `CUDA_ERROR_INVALID_VALUE`.
fn name(code: CUresult) -> String {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: the driver writes a pointer to a string of its own, or leaves null.
    let answer = unsafe { sys::cuGetErrorName(code, &mut text) };
    if answer != CUresult::CUDA_SUCCESS || text.is_null() {
        return "an unknown error".into();
    }
    // SAFETY: a NUL-terminated string that lives as long as the driver.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
