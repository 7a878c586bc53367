//! Values of a case: f32 and bf16 against f64, the same bits at any number of threads, and a device against the CPU.

use super::bind::Named;
use super::{Case, Passes, Storage, Tolerance, compare};
use crate::Error;
use crate::runtime::{Device, Float, bf16, f16};

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
    let reference = run(&single, case, &case.f64, seed).map_err(in_words(case))?;
    let f32_results = run(&single, case, &case.f32, seed).map_err(in_words(case))?;
    for (expected, got) in reference.iter().zip(&f32_results) {
        let what = format!("{} {} (f32 against f64)", case.name, got.name);
        compare(&what, &expected.values, &got.values, case.tolerance)?;
    }
    let threaded = run(&several, case, &case.f32, seed).map_err(in_words(case))?;
    for (one, three) in f32_results.iter().zip(&threaded) {
        if let Some(index) = one.values.iter().zip(&three.values).position(|(one, three)| one.to_bits() != three.to_bits()) {
            return Err(format!("{} {}: element {index} differs between 1 and 3 threads", case.name, one.name));
        }
    }
    let narrow = run(&several, case, &case.bf16, seed).map_err(in_words(case))?;
    for (expected, got) in reference.iter().zip(&narrow) {
        let loose = case.tolerance.scaled(f64::from(1u32 << 14));
        let loose = Tolerance::new(loose.absolute.max(0.05) * largest(&expected.values).max(1.0), loose.relative);
        compare(&format!("{} {} (bf16 against f64)", case.name, got.name), &expected.values, &got.values, loose)?;
    }
    Ok(())
}

/// Runs forward and backward in f32 on a device and compares with the CPU within the case's tolerance. False: the device has no such
/// kernel.
///
/// # Errors
/// The first difference, in words.
pub fn verify_on(device: &Device, case: &Case, seed: u64) -> Result<bool, String> {
    let cpu = Device::cpu(1).map_err(|error| error.to_string())?;
    let results = match run(&device.clone().allow_tf32(false), case, &case.f32, seed) {
        Err(Error::NoCudaKernel { .. }) => return Ok(false),
        results => results.map_err(in_words(case))?,
    };
    let reference = run(&cpu, case, &case.f32, seed).map_err(in_words(case))?;
    for (expected, got) in reference.iter().zip(&results) {
        let what = format!("{} {} (device against CPU)", case.name, got.name);
        compare(&what, &expected.values, &got.values, case.tolerance)?;
    }
    Ok(true)
}

/// Runs forward and backward in bf16 on a device. False: the device has no such kernel.
///
/// The truth is f64 on the same rounded inputs; the noise floor is what the CPU in bf16 misses it by in the largest error of a result,
/// or one rounding of its largest value, which the CPU may by chance be spared. The device may miss the truth by twice the floor, and
/// by the case's f32 tolerance: what is kept in f32 has next to no floor.
///
/// # Errors
/// The first result that is worse, in words.
/// # Source
/// The comparison with a low-precision reference of flash-attention's `tests/test_flash_attn.py`.
pub fn verify_bf16_on(device: &Device, case: &Case, seed: u64) -> Result<bool, String> {
    let rounding = Rounding { unit: bf16::EPSILON.to_f64() / 2.0, round: |value| bf16::from_f64(value).to_f64() };
    verify_narrow(device, case, &case.bf16, rounding, seed)
}

/// [`verify_bf16_on`] in f16. False also where the case does not run in f16.
///
/// # Errors
/// As there.
pub fn verify_f16_on(device: &Device, case: &Case, seed: u64) -> Result<bool, String> {
    let rounding = Rounding { unit: f16::EPSILON.to_f64() / 2.0, round: |value| f16::from_f64(value).to_f64() };
    case.f16.as_ref().map_or(Ok(false), |passes| verify_narrow(device, case, passes, rounding, seed))
}

/// Runs forward and backward in f32 on a device that may round operands of products to tf32, with inputs that are so rounded. False: the
/// device has no such kernel, or the case is of none that would.
///
/// The truth is f64 on the same inputs. Products of those are exact, so that a result may miss it by the case's f32 tolerance and, for
/// what was computed before and is rounded on its way into a product, by twice one rounding of the result's largest value.
///
/// # Errors
/// The first result that is worse, in words.
pub fn verify_tf32_on(device: &Device, case: &Case, seed: u64) -> Result<bool, String> {
    if case.f16.is_none() {
        return Ok(false);
    }
    let cpu = Device::cpu(1).map_err(|error| error.to_string())?;
    let device = device.clone().allow_tf32(true);
    let storage = Storage::<f32>::rounded(&device, case, seed, tf32).map_err(in_words(case))?;
    let results = match run_in(&storage, case, &case.f32) {
        Err(Error::NoCudaKernel { .. }) => return Ok(false),
        results => results.map_err(in_words(case))?,
    };
    let rounded = Storage::<f64>::rounded(&cpu, case, seed, tf32).map_err(in_words(case))?;
    let truth = run_in(&rounded, case, &case.f64).map_err(in_words(case))?;
    for (truth, got) in truth.iter().zip(&results) {
        let scale = largest(&truth.values);
        let allowed = 2.0 * TF32_UNIT * scale + case.tolerance.absolute + case.tolerance.relative * scale;
        let what = format!("{} {} (tf32 on the device against f64)", case.name, got.name);
        compare(&what, &truth.values, &got.values, Tolerance::new(allowed, 0.0))?;
    }
    Ok(true)
}

/// Half the distance of 1 to the next number of tf32.
const TF32_UNIT: f64 = 1.0 / 2048.0;

/// The nearest number of tf32, ties away from 0.
fn tf32(value: f64) -> f64 {
    f64::from(f32::from_bits(((value as f32).to_bits() + 0x1000) & !0x1fff))
}

/// A type of 16 bits: the largest relative error of one rounding, and the rounding.
struct Rounding {
    unit: f64,
    round: fn(f64) -> f64,
}

fn verify_narrow<T: Float>(device: &Device, case: &Case, passes: &Passes<T>, rounding: Rounding, seed: u64) -> Result<bool, String> {
    let cpu = Device::cpu(1).map_err(|error| error.to_string())?;
    let results = match run(device, case, passes, seed) {
        Err(Error::NoCudaKernel { .. }) => return Ok(false),
        results => results.map_err(in_words(case))?,
    };
    let rounded = Storage::<f64>::rounded(&cpu, case, seed, rounding.round).map_err(in_words(case))?;
    let truth = run_in(&rounded, case, &case.f64).map_err(in_words(case))?;
    let naive = run(&cpu, case, passes, seed).map_err(in_words(case))?;
    for ((truth, naive), got) in truth.iter().zip(&naive).zip(&results) {
        let errors = truth.values.iter().zip(&naive.values).map(|(truth, naive)| (truth - naive).abs());
        let scale = largest(&truth.values);
        let unit = if got.wide { 0.0 } else { rounding.unit * scale };
        let floor = errors.filter(|error| error.is_finite()).fold(unit, f64::max);
        let allowed = 2.0 * floor + case.tolerance.absolute + case.tolerance.relative * scale;
        let what = format!("{} {} ({} on the device against f64)", case.name, got.name, T::NAME);
        compare(&what, &truth.values, &got.values, Tolerance::new(allowed, 0.0))?;
    }
    Ok(true)
}

/// The largest finite magnitude.
fn largest(values: &[f64]) -> f64 {
    values.iter().filter(|value| value.is_finite()).fold(0.0, |largest, value| value.abs().max(largest))
}

fn in_words(case: &Case) -> impl Fn(Error) -> String {
    |error| format!("{}: {error}", case.name)
}

fn run<T: Float>(device: &Device, case: &Case, passes: &Passes<T>, seed: u64) -> Result<Vec<Named>, Error> {
    run_in(&Storage::<T>::new(device, case, seed)?, case, passes)
}

fn run_in<T: Float>(storage: &Storage<T>, case: &Case, passes: &Passes<T>) -> Result<Vec<Named>, Error> {
    (passes.forward)(&storage.stream, &storage.tensors)?;
    if case.differentiable {
        (passes.backward)(&storage.stream, &storage.tensors)?;
    }
    storage.results(case, case.differentiable)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Result;
    use crate::runtime::{Real, Stream};
    use crate::testing::{Bindings, Op};

    /// Copies x to y; its first call, which is the device's, is off by some roundings of bf16.
    struct Rough {
        calls: AtomicUsize,
        roundings: f64,
    }

    impl Op for Rough {
        fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
            let off = if self.calls.fetch_add(1, Ordering::Relaxed) == 0 { self.roundings / 256.0 } else { 0.0 };
            let x = stream.fetch(t.value("x"))?;
            let y: Vec<T> = x.iter().map(|x| T::from_acc(x.to_acc() * T::Acc::of(1.0 + off))).collect();
            stream.upload(t.value("y"), &y)
        }
    }

    #[test]
    fn a_device_that_is_too_rough_is_found() {
        let device = Device::cpu(1).unwrap();
        let verdict = |roundings| {
            let op = Rough { calls: AtomicUsize::new(0), roundings };
            verify_bf16_on(&device, &Case::new("rough", op).input("x", [3, 5]).output("y", [3, 5]).forward_only(), 1)
        };
        assert_eq!(verdict(0.0), Ok(true));
        assert_eq!(verdict(1.0), Ok(true));
        assert!(verdict(4.0).unwrap_err().contains("bf16 on the device"));
    }
}
