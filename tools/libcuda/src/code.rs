//! Result codes: their numbers, names and texts.

use std::ffi::{CStr, c_char};

use scmmgpt_emulator::{Error, Fault};

use crate::{exports, give};

/// A `CUresult` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) i32);

pub(crate) const INVALID_VALUE: Code = Code(1);
pub(crate) const OUT_OF_MEMORY: Code = Code(2);
pub(crate) const NO_DEVICE: Code = Code(101);
pub(crate) const INVALID_PTX: Code = Code(218);
pub(crate) const UNSUPPORTED_PTX_VERSION: Code = Code(222);
pub(crate) const INVALID_HANDLE: Code = Code(400);
pub(crate) const NOT_FOUND: Code = Code(500);
pub(crate) const NOT_READY: Code = Code(600);
pub(crate) const ILLEGAL_ADDRESS: Code = Code(700);
pub(crate) const OUT_OF_RESOURCES: Code = Code(701);
pub(crate) const ASSERT: Code = Code(710);
pub(crate) const ILLEGAL_INSTRUCTION: Code = Code(715);
pub(crate) const MISALIGNED_ADDRESS: Code = Code(716);
pub(crate) const LAUNCH_FAILED: Code = Code(719);
pub(crate) const NOT_SUPPORTED: Code = Code(801);
pub(crate) const CAPTURE_UNSUPPORTED: Code = Code(900);
pub(crate) const CAPTURE_INVALIDATED: Code = Code(901);
pub(crate) const UNKNOWN: Code = Code(999);

const TABLE: [(i32, &CStr, &CStr); 19] = [
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"the PTX text could not be compiled"),
    (222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the PTX version or target is above what this driver knows"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch"),
    (710, c"CUDA_ERROR_ASSERT", c"device-side assert triggered"),
    (715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"an illegal instruction was encountered"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"the kernel failed"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted while a stream is captured"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"the capture was invalidated"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

impl From<&Error> for Code {
    fn from(error: &Error) -> Code {
        match error {
            Error::Parse { .. } | Error::Unsupported { .. } => INVALID_PTX,
            Error::Target { .. } => UNSUPPORTED_PTX_VERSION,
            Error::Launch { .. } => OUT_OF_RESOURCES,
            Error::OutOfMemory { .. } => OUT_OF_MEMORY,
            Error::Kernel { fault, .. } => match fault {
                Fault::Bounds { .. } => ILLEGAL_ADDRESS,
                Fault::Misaligned { .. } => MISALIGNED_ADDRESS,
                Fault::Assertion { .. } => ASSERT,
                Fault::Illegal { .. } => ILLEGAL_INSTRUCTION,
                _ => LAUNCH_FAILED,
            },
            _ => INVALID_VALUE,
        }
    }
}

fn find(code: i32) -> Option<&'static (i32, &'static CStr, &'static CStr)> {
    TABLE.iter().find(|row| row.0 == code)
}

exports! {
    cuGetErrorName(error: i32, text: *mut *const c_char) {
        let row = find(error).ok_or(INVALID_VALUE)?;
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(text, row.1.as_ptr()) }
    }

    cuGetErrorString(error: i32, text: *mut *const c_char) {
        let row = find(error).ok_or(INVALID_VALUE)?;
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(text, row.2.as_ptr()) }
    }
}
