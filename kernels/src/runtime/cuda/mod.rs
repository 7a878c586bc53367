//! The CUDA target: the driver is found at run time, kernels are PTX texts that it compiles at first use.

mod driver;
mod launch;
mod memory;
mod module;
mod stream;

#[cfg(feature = "testing")]
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::{Arc, Mutex};

use cudarc::driver::sys;

use super::device::lock;
use crate::{Error, Result};

pub(super) use driver::check;
pub use launch::{Launch, Value, elementwise, entry, variant};
pub(super) use memory::{DeviceBlock, PinnedBlock};
use module::Module;
pub(super) use stream::CudaEvent;
pub use stream::CudaStream;

/// The first driver that knows PTX 7.8, as `cuDriverGetVersion` counts and in words.
const OLDEST_DRIVER: (c_int, &str) = (11_080, "11.8");
/// The oldest compute capability that the kernels are written for, times ten: Ampere.
const OLDEST_CAPABILITY: c_int = 80;

/// An open device: context and compiled modules.
#[derive(Debug)]
pub struct Cuda {
    context: sys::CUcontext,
    device: sys::CUdevice,
    ordinal: usize,
    name: String,
    driver_version: i32,
    hardware: bool,
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
    /// `DriverNotFound` without a driver library; `DriverTooOld`; `DeviceUnavailable` when the device does not exist or is too old;
    /// `Driver` when it refuses.
    pub(super) fn open(ordinal: usize) -> Result<Arc<Cuda>> {
        // SAFETY: opening the library runs its initialisers, which is what a driver library is for.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::DriverNotFound { tried: cudarc::get_lib_name_candidates("cuda") });
        }
        let unavailable = |reason: String| Error::DeviceUnavailable { device: format!("cuda:{ordinal}"), reason };
        let (mut count, mut device, mut context, mut driver_version) = (0, 0, std::ptr::null_mut(), 0);
        let mut name = [0u8; 256];
        // SAFETY: every pointer is to a local of the type that the call writes.
        unsafe {
            check("cuDriverGetVersion", sys::cuDriverGetVersion(&mut driver_version))?;
            if driver_version < OLDEST_DRIVER.0 {
                return Err(Error::DriverTooOld { found: version(driver_version), needed: OLDEST_DRIVER.1 });
            }
            match sys::cuInit(0) {
                sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(unavailable("the driver finds no GPU".into())),
                code => check("cuInit", code)?,
            }
            check("cuDeviceGetCount", sys::cuDeviceGetCount(&mut count))?;
            if ordinal >= usize::try_from(count).unwrap_or(0) {
                return Err(unavailable(format!("the driver finds {count} device(s), counted from 0")));
            }
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, ordinal as c_int))?;
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
        }
        use sys::CUdevice_attribute::*;
        let major = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if 10 * major + minor < OLDEST_CAPABILITY {
            let oldest = format!("{}.{}", OLDEST_CAPABILITY / 10, OLDEST_CAPABILITY % 10);
            return Err(unavailable(format!("its compute capability is {major}.{minor}, the kernels need {oldest}")));
        }
        // A GPU has a place on the PCI bus (device 0 of bus 0 is the bridge itself), or is one chip with the CPU.
        let places = [
            CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
            CU_DEVICE_ATTRIBUTE_PCI_BUS_ID,
            CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
            CU_DEVICE_ATTRIBUTE_INTEGRATED,
        ];
        let mut hardware = false;
        for place in places {
            hardware |= attribute(device, place)? != 0;
        }
        let shared_limit = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.unsigned_abs() as usize;
        // SAFETY: the device exists; the pointer is to a local of the type that the call writes.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })?;
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..length]).into_owned();
        let cuda = Cuda { context, device, ordinal, name, driver_version, hardware, shared_limit, modules: Mutex::default() };
        cuda.bind()?;
        Ok(Arc::new(cuda))
    }

    /// Whether there is hardware behind the device, by what the driver reports of its place.
    pub(super) fn is_hardware(&self) -> bool {
        self.hardware
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
        let behind = if self.hardware { "" } else { ", software without a GPU behind it" };
        format!("cuda:{}, {}, driver for CUDA {}{behind}", self.ordinal, self.name, version(self.driver_version))
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

#[cfg(feature = "testing")]
impl Cuda {
    /// The entries that have been launched since the device was opened.
    pub(super) fn launched(&self) -> BTreeSet<String> {
        lock(&self.modules).values().flat_map(|module| module.launched()).collect()
    }
}

/// 12040 as 12.4.
fn version(number: c_int) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: the driver writes the number.
    check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
    Ok(value)
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
