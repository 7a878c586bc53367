//! Modules, functions, launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use scmmgpt_emulator::Launch;

use crate::code::{Code, INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NOT_FOUND, NOT_SUPPORTED};
use crate::driver::{Kernel, driver};
use crate::queue::Work;
use crate::{exports, give};

/// Attributes of a function.
const MAX_THREADS: c_int = 0;
const STATIC_SHARED: c_int = 1;
const LOCAL: c_int = 3;
const REGISTERS: c_int = 4;
const MAX_DYNAMIC_SHARED: c_int = 8;

/// Most dynamic shared memory that the attribute may ask for.
const SHARED_LIMIT: c_int = 163 << 10;

fn load(module: *mut *mut c_void, image: *const c_void) -> Result<(), Code> {
    if image.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: an image is at least four bytes: a magic number, or text up to its NUL.
    let magic = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 4) };
    if magic == b"\x7fELF" || magic == 0xba55_ed50u32.to_le_bytes() {
        eprintln!("libcuda: only PTX texts can be loaded, not machine code");
        return Err(NOT_SUPPORTED);
    }
    // SAFETY: not binary, hence text that ends with NUL, by the driver's contract.
    let text = unsafe { CStr::from_ptr(image.cast()) }.to_str().map_err(|_| INVALID_PTX)?;
    let mut state = driver().state()?;
    let patched = driver().patch.as_ref().and_then(|patch| patch.apply(text));
    let loaded = driver().device.load(patched.as_deref().unwrap_or(text)).map_err(|error| driver().report(&error))?;
    let handle = state.handle();
    state.modules.insert(handle, loaded);
    // SAFETY: the caller's pointer, by the driver's contract.
    unsafe { give(module, handle as *mut c_void) }
}

/// A name that a caller gave.
///
/// # Safety
/// `name` is null or a NUL-terminated string.
unsafe fn text<'a>(name: *const c_char) -> Result<&'a str, Code> {
    if name.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| INVALID_VALUE)
}

fn launch(
    function: *mut c_void,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: *mut c_void,
    values: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), Code> {
    let mut state = driver().state()?;
    let Kernel { function, max_dynamic_shared } = state.kernel(function)?.clone();
    let parameters = function.parameters();
    if !extra.is_null() {
        return Err(NOT_SUPPORTED);
    }
    if values.is_null() && !parameters.is_empty() {
        return Err(INVALID_VALUE);
    }
    let mut params = vec![0; parameters.last().map_or(0, |last| last.offset + last.size)];
    for (index, parameter) in parameters.iter().enumerate() {
        // SAFETY: one pointer a parameter, each to as many bytes as the parameter has, by the driver's contract.
        let value = unsafe { std::slice::from_raw_parts((*values.add(index)).cast::<u8>(), parameter.size) };
        params[parameter.offset..parameter.offset + parameter.size].copy_from_slice(value);
    }
    let launch = Launch { grid, block, dynamic_shared, max_dynamic_shared, params };
    driver().device.check_launch(&function, &launch).map_err(|error| driver().report(&error))?;
    state.queues.push(stream as usize, Work::Launch { function, launch })
}

exports! {
    cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) {
        load(module, image)
    }

    cuModuleLoadDataEx(module: *mut *mut c_void, image: *const c_void, _count: c_uint, _options: *mut c_int, _values: *mut *mut c_void) {
        load(module, image)
    }

    cuModuleUnload(module: *mut c_void) {
        driver().state()?.modules.remove(&(module as usize)).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) {
        let mut state = driver().state()?;
        // SAFETY: the caller's string, by the driver's contract.
        let name = unsafe { text(name)? };
        let found = state.modules.get(&(module as usize)).ok_or(INVALID_HANDLE)?.function(name).ok_or(NOT_FOUND)?;
        let handle = state.handle();
        state.functions.insert(handle, Kernel { function: found, max_dynamic_shared: 0 });
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(function, handle as *mut c_void) }
    }

    cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: *mut c_void, name: *const c_char) {
        let state = driver().state()?;
        // SAFETY: the caller's string, by the driver's contract.
        let name = unsafe { text(name)? };
        let (place, size) = state.modules.get(&(module as usize)).ok_or(INVALID_HANDLE)?.global(name).ok_or(NOT_FOUND)?;
        // SAFETY: either result may be left out.
        unsafe {
            if !address.is_null() {
                give(address, place)?;
            }
            if !bytes.is_null() {
                give(bytes, size as usize)?;
            }
        }
        Ok(())
    }

    cuFuncSetAttribute(function: *mut c_void, attribute: c_int, value: c_int) {
        let mut state = driver().state()?;
        let kernel = state.kernel(function)?;
        match attribute {
            MAX_DYNAMIC_SHARED if (0..=SHARED_LIMIT).contains(&value) => kernel.max_dynamic_shared = value as u32,
            MAX_DYNAMIC_SHARED => return Err(INVALID_VALUE),
            _ => {}
        }
        Ok(())
    }

    cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: *mut c_void) {
        let mut state = driver().state()?;
        let kernel = state.kernel(function)?;
        let found = match attribute {
            MAX_THREADS => kernel.function.max_threads() as c_int,
            STATIC_SHARED => kernel.function.static_shared() as c_int,
            LOCAL => kernel.function.local_bytes() as c_int,
            REGISTERS => kernel.function.registers() as c_int,
            MAX_DYNAMIC_SHARED => kernel.max_dynamic_shared as c_int,
            _ => 0,
        };
        // SAFETY: the caller's pointer, by the driver's contract.
        unsafe { give(value, found) }
    }

    cuFuncSetCacheConfig(_function: *mut c_void, _config: c_uint) {
        Ok(())
    }

    cuLaunchKernel(
        function: *mut c_void,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: *mut c_void,
        values: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        launch(function, [grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared, stream, values, extra)
    }
}
