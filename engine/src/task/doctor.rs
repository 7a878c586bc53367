//! Whether a device computes what it should: every kernel's own cases, run on it.

use scmmgpt_kernels::{registry, testing};
use serde::Serialize;

use crate::Device;

/// What came of one kernel's cases.
#[derive(Clone, Debug, Serialize)]
pub struct KernelHealth {
    /// The kernel's folder.
    pub kernel: &'static str,
    /// Cases that agreed.
    pub passed: usize,
    /// Cases for which the device has no kernel.
    pub absent: usize,
    /// What did not agree, in words.
    pub failures: Vec<String>,
}

/// What a device is, and what came of the kernels.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// The device in its own words.
    pub device: String,
    /// Whether it is software that stands in for a GPU, by what its driver reports.
    pub software: bool,
    /// One entry a kernel of which there were cases.
    pub kernels: Vec<KernelHealth>,
}

impl Health {
    /// Whether nothing failed. Absent kernels are no failure: the commands that need them say so.
    pub fn is_well(&self) -> bool {
        self.kernels.iter().all(|kernel| kernel.failures.is_empty())
    }
}

/// Runs forward and backward of every kernel's cases: on the CPU f32 and bf16 against f64 and one thread against three, on a CUDA
/// device f32 against the CPU and, where it has the kernel in bf16, f16 or with tf32, that against f64. One of `names`, unless there are
/// none, must be part of a case's `kernel/case`. Large cases, which only benches need, are left out.
pub fn examine(device: &Device, names: &[String], progress: &mut dyn FnMut(&KernelHealth)) -> Health {
    let mut kernels = Vec::new();
    for (kernel, cases) in registry() {
        let mut health = KernelHealth { kernel, passed: 0, absent: 0, failures: Vec::new() };
        for case in cases.iter().filter(|case| !case.timed && case.is_among(kernel, names)) {
            let result = if device.is_cuda() {
                let passes = [testing::verify_on, testing::verify_bf16_on, testing::verify_f16_on, testing::verify_tf32_on];
                passes.into_iter().try_fold(false, |ran, verify| verify(device, case, 1).map(|also| ran || also))
            } else {
                testing::verify(case, 1).map(|()| true)
            };
            match result {
                Ok(true) => health.passed += 1,
                Ok(false) => health.absent += 1,
                Err(message) => health.failures.push(message),
            }
        }
        if health.passed + health.absent + health.failures.len() > 0 {
            progress(&health);
            kernels.push(health);
        }
    }
    Health { device: device.describe(), software: device.is_software(), kernels }
}
