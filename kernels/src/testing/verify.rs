//! Values of a case: f32 and bf16 against f64, and the same bits at any number of threads.

use super::{Case, Passes, Storage, compare};
use crate::runtime::{Device, Float};

type Results = Vec<(String, Vec<f64>)>;

/// Runs forward and backward in f64, f32 and bf16.
///
/// f32 must meet the case's tolerance against f64. bf16 must be finite wherever f64 is and, since its inputs are rounded first, is
/// compared at the scale of its 2^-8 rounding. f32 with 1 and with 3 threads must give the same bits.
///
/// # Errors
/// The first difference, in words.
pub fn verify(case: &Case, seed: u64) -> Result<(), String> {
    let single = Device::cpu(1).map_err(|error| error.to_string())?;
    let several = Device::cpu(3).map_err(|error| error.to_string())?;
    let reference = run(&single, case, &case.f64, seed)?;
    let f32_results = run(&single, case, &case.f32, seed)?;
    for ((name, expected), (_, got)) in reference.iter().zip(&f32_results) {
        compare(&format!("{} {name} (f32 against f64)", case.name), expected, got, case.tolerance)?;
    }
    let threaded = run(&several, case, &case.f32, seed)?;
    for ((name, one), (_, three)) in f32_results.iter().zip(&threaded) {
        if let Some(index) = one.iter().zip(three).position(|(one, three)| one.to_bits() != three.to_bits()) {
            return Err(format!("{} {name}: element {index} differs between 1 and 3 threads", case.name));
        }
    }
    let again = run(&several, case, &case.bf16, seed)?;
    for ((name, expected), (_, got)) in reference.iter().zip(&again) {
        let loose = case.tolerance.scaled(f64::from(1u32 << 14));
        let scale = expected.iter().filter(|v| v.is_finite()).fold(1.0f64, |scale, v| scale.max(v.abs()));
        let loose = super::Tolerance::new(loose.absolute.max(0.05) * scale, loose.relative);
        compare(&format!("{} {name} (bf16 against f64)", case.name), expected, got, loose)?;
    }
    Ok(())
}

fn run<T: Float>(device: &Device, case: &Case, passes: &Passes<T>, seed: u64) -> Result<Results, String> {
    let fail = |error: crate::Error| format!("{} in {}: {error}", case.name, T::NAME);
    let storage = Storage::<T>::new(device, case, seed).map_err(fail)?;
    (passes.forward)(&storage.stream, &storage.tensors).map_err(fail)?;
    if case.differentiable {
        (passes.backward)(&storage.stream, &storage.tensors).map_err(fail)?;
    }
    storage.results(case, case.differentiable).map_err(fail)
}

/// Runs forward and backward in f32 on a device and compares with the CPU within the case's tolerance. False: the device has no such
/// kernel.
///
/// # Errors
/// The first difference, in words.
pub fn verify_on(device: &Device, case: &Case, seed: u64) -> Result<bool, String> {
    let cpu = Device::cpu(1).map_err(|error| error.to_string())?;
    let reference = run(&cpu, case, &case.f32, seed)?;
    let storage = Storage::<f32>::new(device, case, seed).map_err(|error| error.to_string())?;
    let mut passes = vec![&case.f32.forward];
    if case.differentiable {
        passes.push(&case.f32.backward);
    }
    for pass in passes {
        match pass(&storage.stream, &storage.tensors) {
            Ok(()) => {}
            Err(crate::Error::NoCudaKernel { .. }) => return Ok(false),
            Err(error) => return Err(format!("{}: {error}", case.name)),
        }
    }
    let results = storage.results(case, case.differentiable).map_err(|error| format!("{}: {error}", case.name))?;
    for ((name, expected), (_, got)) in reference.iter().zip(&results) {
        compare(&format!("{} {name} (device against CPU)", case.name), expected, got, case.tolerance)?;
    }
    Ok(true)
}
