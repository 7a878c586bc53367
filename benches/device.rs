//! Speed of every kernel over its timed cases on a GPU, by its own clock: `cargo bench -p scmmgpt-benches --bench device -- gemm` runs those
//! whose `kernel/case` contains `gemm`.
//!
//! A line is one pass in one precision: `host` is the time that queueing it takes, `device` the median over several rows of launches,
//! from the first one's start to the last one's end. It cannot be below `host`: a pass that is shorter on the device is known only to be
//! so. Operations and compulsory traffic are the case's; a backward pass states twice forward's operations, which leaves out
//! what attention computes again. Inputs stay where they are, so that what fits into the device's cache is read from there.
//! Under `cargo test --benches` nothing is timed.

use std::time::Instant;

use scmmgpt_kernels::runtime::{Device, Event, Float, Stream, bf16, f16};
use scmmgpt_kernels::testing::{Bindings, Case, Passes, Storage};
use scmmgpt_kernels::{Error, Result, registry};

/// Milliseconds that a row of launches takes, about.
const ROW_MS: f64 = 5.0;
/// Launches of a row at most.
const MOST: f64 = 400.0;
/// Rows; the median is stated.
const ROWS: usize = 5;

/// Microseconds of one pass, host and device.
fn microseconds<T: Float>(storage: &Storage<T>, pass: &dyn Fn() -> Result<()>) -> Result<[f64; 2]> {
    let stream = &storage.stream;
    let (mut first, mut last) = (Event::new(stream.device())?, Event::new(stream.device())?);
    let mut row = |count: usize| -> Result<[f64; 2]> {
        stream.record(&mut first)?;
        let start = Instant::now();
        (0..count).try_for_each(|_| pass())?;
        let host = start.elapsed().as_secs_f64() * 1e3;
        stream.record(&mut last)?;
        last.synchronize()?;
        Ok([host, first.elapsed_ms(&last).unwrap_or(f64::NAN)].map(|ms| 1e3 * ms / count as f64))
    };
    row(1)?;
    let [_, once] = row(3)?;
    let count = (1e3 * ROW_MS / once).clamp(1.0, MOST) as usize;
    let rows = (0..ROWS).map(|_| row(count)).collect::<Result<Vec<_>>>()?;
    Ok([0, 1].map(|which| {
        let mut times: Vec<f64> = rows.iter().map(|row| row[which]).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

struct Bench<'a> {
    device: &'a Device,
    kernel: &'a str,
}

impl Bench<'_> {
    /// Times both passes of a case in one precision; where the device has no such kernel, nothing is said.
    fn case<T: Float>(&self, case: &Case, passes: &Passes<T>, precision: &str) -> Result<()> {
        let storage = Storage::new(self.device, case, 0)?;
        let flops = case.flops as f64;
        let bytes = (case.bytes * size_of::<T>() / size_of::<f32>()) as f64;
        self.pass(case, &format!("forward {precision}"), &storage, &*passes.forward, [flops, bytes])?;
        if case.differentiable {
            self.pass(case, &format!("backward {precision}"), &storage, &*passes.backward, [2.0 * flops, 0.0])?;
        }
        Ok(())
    }

    fn pass<T: Float>(
        &self,
        case: &Case,
        name: &str,
        storage: &Storage<T>,
        pass: &dyn Fn(&Stream, &Bindings<T>) -> Result<()>,
        [flops, bytes]: [f64; 2],
    ) -> Result<()> {
        let [host, device] = match microseconds(storage, &|| pass(&storage.stream, &storage.tensors)) {
            Err(Error::NoCudaKernel { .. }) => return Ok(()),
            times => times?,
        };
        let rate = |count: f64, unit: &str| if count > 0.0 { format!("{:.2} {unit}", count / device / 1e6) } else { String::new() };
        let [operations, traffic] = [rate(flops, "TFLOP/s"), rate(bytes / 1e-3, "GB/s")];
        let case = format!("{}/{}", self.kernel, case.name);
        println!("{case:<58} {name:<14} host {host:8.1} us  device {device:9.1} us  {operations:>15} {traffic:>14}");
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let names: Vec<String> = arguments.into_iter().filter(|argument| !argument.starts_with('-')).collect();
    let device = Device::cuda(0, 0)?;
    println!("{}", device.describe());
    let rounding = device.clone().allow_tf32(true);
    for (kernel, cases) in registry() {
        for case in cases.iter().filter(|case| case.timed && case.is_among(kernel, &names)) {
            Bench { device: &device, kernel }.case(case, &case.f32, "f32")?;
            Bench { device: &device, kernel }.case::<bf16>(case, &case.bf16, "bf16")?;
            if let Some(passes) = &case.f16 {
                Bench { device: &device, kernel }.case::<f16>(case, passes, "f16")?;
                Bench { device: &rounding, kernel }.case(case, &case.f32, "tf32")?;
            }
        }
    }
    Ok(())
}
