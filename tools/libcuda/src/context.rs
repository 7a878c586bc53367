//! Initialisation, devices, contexts.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::code::{INVALID_VALUE, NO_DEVICE};
use crate::driver::driver;
use crate::{exports, give};

/// What the device calls itself: programs that ask see that no hardware is behind it.
const NAME: &[u8] = b"scmmgpt software device (sm_80, no hardware)\0";

/// The one context, current from the start.
const CONTEXT: *mut c_void = 0x100 as *mut c_void;

/// `CUdevice_attribute` and its value, for an sm_80 device.
fn attribute(attribute: c_int) -> c_int {
    match attribute {
        1 => 1024,
        2 | 3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        12 => 65536,
        13 => 1_410_000,
        16 => 108,
        34 => driver().pci_device,
        36 => 1_215_000,
        37 => 5120,
        38 => 40 << 20,
        39 => 2048,
        40 => 3,
        41 => 1,
        75 => driver().capability / 10,
        76 => driver().capability % 10,
        81 => 164 << 10,
        82 => 65536,
        97 => 163 << 10,
        106 => 32,
        115 => c_int::from(driver().pools),
        _ => 0,
    }
}

exports! {
    cuInit(_flags: c_uint) {
        driver();
        Ok(())
    }

    cuDriverGetVersion(version: *mut c_int) {
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(version, driver().version) }
    }

    cuDeviceGetCount(count: *mut c_int) {
        // SAFETY: as above.
        unsafe { give(count, 1) }
    }

    cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        if ordinal != 0 {
            return Err(NO_DEVICE);
        }
        // SAFETY: as above.
        unsafe { give(device, 0) }
    }

    cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) {
        if device != 0 || name.is_null() || length < 1 {
            return Err(INVALID_VALUE);
        }
        let count = NAME.len().min(length as usize);
        // SAFETY: the caller gave `length` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, count);
            name.add(count - 1).write(0);
        }
        Ok(())
    }

    cuDeviceGetUuid(uuid: *mut [u8; 16], _device: c_int) {
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(uuid, *b"scmmgpt software") }
    }

    cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) {
        // SAFETY: as above.
        unsafe { give(uuid, *b"scmmgpt software") }
    }

    cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) {
        // SAFETY: as above.
        unsafe { give(bytes, driver().device.memory().1 as usize) }
    }

    cuDeviceGetAttribute(value: *mut c_int, which: c_int, _device: c_int) {
        // SAFETY: as above.
        unsafe { give(value, attribute(which)) }
    }

    cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) {
        if device != 0 {
            return Err(NO_DEVICE);
        }
        // SAFETY: as above.
        unsafe { give(context, CONTEXT) }
    }

    cuDevicePrimaryCtxRelease_v2(_device: c_int) {
        Ok(())
    }

    cuCtxGetCurrent(context: *mut *mut c_void) {
        // SAFETY: as above.
        unsafe { give(context, CONTEXT) }
    }

    cuCtxSetCurrent(_context: *mut c_void) {
        Ok(())
    }

    cuCtxPushCurrent_v2(_context: *mut c_void) {
        Ok(())
    }

    cuCtxPopCurrent_v2(context: *mut *mut c_void) {
        // SAFETY: as above.
        unsafe { give(context, CONTEXT) }
    }

    cuCtxGetDevice(device: *mut c_int) {
        // SAFETY: as above.
        unsafe { give(device, 0) }
    }

    cuCtxSynchronize() {
        let mut state = driver().state()?;
        let done = state.queues.finish(driver());
        state.settle(done)
    }
}
