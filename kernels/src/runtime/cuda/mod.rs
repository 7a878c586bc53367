//! The CUDA target: the driver is found at run time, kernels are PTX texts that it compiles at first use.

mod driver;
mod launch;
mod memory;
mod module;
mod stream;

use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{self, CUdevice_attribute};

use super::device::lock;
use crate::{Error, Result};

pub(super) use driver::check;
pub use launch::{Launch, Value, elementwise, entry};
pub(super) use memory::{DeviceBlock, PinnedBlock};
use module::Module;
pub(super) use stream::CudaEvent;
pub use stream::CudaStream;

/// An open device: context and compiled modules.
#[derive(Debug)]
pub struct Cuda {
    context: sys::CUcontext,
    device: sys::CUdevice,
    ordinal: usize,
    name: String,
    driver_version: i32,
    shared_limit: usize,
    /// By address and length of the text, which lives as long as the program.
    modules: Mutex<HashMap<(usize, usize), Arc<Module>>>,
}

// SAFETY: the context is a handle that any thread may use once it has made it current, which every call does.
unsafe impl Send for Cuda {}
// SAFETY: as above; what changes is behind a mutex.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens device number `ordinal`.
    ///
    /// # Errors
    /// `DriverNotFound` without a driver library; `Driver` when the device does not exist or refuses.
    pub(super) fn open(ordinal: usize) -> Result<Arc<Cuda>> {
        // SAFETY: opening the library runs its initialisers, which is what a driver library is for.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::DriverNotFound { tried: cudarc::get_lib_name_candidates("cuda") });
        }
        let (mut device, mut context, mut driver_version, mut shared_limit) = (0, std::ptr::null_mut(), 0, 0);
        let mut name = [0u8; 256];
        // SAFETY: every pointer is to a local of the type that the call writes.
        unsafe {
            check("cuInit", sys::cuInit(0))?;
            check("cuDriverGetVersion", sys::cuDriverGetVersion(&mut driver_version))?;
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, ordinal as c_int))?;
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
            let shared = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            check("cuDeviceGetAttribute", sys::cuDeviceGetAttribute(&mut shared_limit, shared, device))?;
            check("cuDevicePrimaryCtxRetain", sys::cuDevicePrimaryCtxRetain(&mut context, device))?;
        }
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..length]).into_owned();
        let cuda = Cuda { context, device, ordinal, name, driver_version, shared_limit: shared_limit as usize, modules: Mutex::default() };
        cuda.bind()?;
        Ok(Arc::new(cuda))
    }

    /// Makes the context current on this thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context was retained and is released only when `self` goes.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// The device's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One line for logs.
    pub(super) fn describe(&self) -> String {
        let version = self.driver_version;
        format!("cuda:{}, {}, driver for CUDA {}.{}", self.ordinal, self.name, version / 1000, version % 1000 / 10)
    }

    /// The compiled text; compiled once.
    fn module(self: &Arc<Self>, text: &'static str) -> Result<Arc<Module>> {
        let key = (text.as_ptr() as usize, text.len());
        if let Some(module) = lock(&self.modules).get(&key) {
            return Ok(module.clone());
        }
        let module = Arc::new(Module::load(self, text)?);
        lock(&self.modules).insert(key, module.clone());
        Ok(module)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        for module in lock(&self.modules).values() {
            module.unload();
        }
        // SAFETY: retained in `open`. Nothing is left to do about a driver that refuses.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
