//! Backward against central differences of forward, in f64.

use super::bind::PREFILL;
use super::{Case, Role, Storage};
use crate::runtime::philox::Site;
use crate::runtime::{Device, Tensor};

/// Elements of one tensor that are perturbed: all of a small one, this many of a large one.
const PROBES: usize = 48;

/// Checks every differentiable input and parameter: with `loss = sum(output * doutput)`, backward's gradient must equal
/// `(loss(x + h) - loss(x - h)) / 2h` to 1e-6 relative to the larger of 1 and the gradient's magnitude.
///
/// # Errors
/// The first difference, in words.
pub fn gradcheck(case: &Case, seed: u64) -> Result<(), String> {
    let fail = |error: crate::Error| format!("{}: {error}", case.name);
    let device = Device::cpu(1).map_err(fail)?;
    let storage = Storage::<f64>::new(&device, case, seed).map_err(fail)?;
    let (stream, tensors) = (&storage.stream, &storage.tensors);
    let outputs: Vec<_> = case.slots.iter().filter(|slot| matches!(slot.role, Role::Output | Role::Loss)).collect();
    let loss = || -> Result<f64, crate::Error> {
        (case.f64.forward)(stream, tensors)?;
        let mut sum = 0.0;
        for slot in &outputs {
            let (y, dy) = (storage.output(slot.name)?, storage.output(&format!("d{}", slot.name))?);
            sum += y.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>();
        }
        Ok(sum)
    };
    loss().map_err(fail)?;
    (case.f64.backward)(stream, tensors).map_err(fail)?;
    for (index, slot) in case.slots.iter().enumerate() {
        let gradient = format!("d{}", slot.name);
        let analytic: Vec<f64> = match slot.role {
            Role::Input if slot.differentiable => storage.values(&gradient).map_err(fail)?,
            Role::Parameter => storage.accumulated(&gradient).map_err(fail)?.iter().map(|value| value - PREFILL).collect(),
            _ => continue,
        };
        let tensor = tensors.value(slot.name);
        let site = Site { seed, step: 1, site: index as u32 };
        let probes = if analytic.len() <= PROBES { analytic.len() } else { PROBES };
        for probe in 0..probes {
            let at = if probes == analytic.len() { probe } else { site.words(probe as u64)[0] as usize % analytic.len() };
            let numeric = difference(&storage, tensor, at, &loss).map_err(fail)?;
            let scale = analytic[at].abs().max(numeric.abs()).max(1.0);
            let error = (analytic[at] - numeric).abs();
            if error.is_nan() || error > 1e-6 * scale {
                return Err(format!("{} {gradient}[{at}]: backward gives {:e}, differences give {numeric:e}", case.name, analytic[at]));
            }
        }
    }
    Ok(())
}

fn difference(
    storage: &Storage<f64>,
    tensor: Tensor<f64>,
    at: usize,
    loss: &dyn Fn() -> Result<f64, crate::Error>,
) -> Result<f64, crate::Error> {
    let mut values = storage.stream.fetch(tensor)?;
    let original = values[at];
    let step = 1e-5 * original.abs().max(1.0);
    let mut at_offset = |offset: f64| {
        values[at] = original + offset;
        storage.stream.upload(tensor, &values)?;
        loss()
    };
    let (above, below) = (at_offset(step)?, at_offset(-step)?);
    at_offset(0.0)?;
    Ok((above - below) / (2.0 * step))
}
