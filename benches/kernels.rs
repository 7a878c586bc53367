//! Speed of every kernel over its timed cases: `cargo bench -p scmmgpt-benches --bench kernels -- gemm` runs the ids that contain `gemm`.
//!
//! An id is `kernel/pass_element/case`. A forward pass states operations (criterion's `elem`: 1 Gelem/s is 1 GFLOP/s) and compulsory
//! memory traffic, whichever the case knows. A backward pass states twice forward's operations, which is exact for matrix products
//! and leaves out what attention computes again; where operations do not count, only its time is given.
//! `THREADS=n` sets the number of worker threads; the default is as many as the machine has. Under `cargo test --benches` or `--test` every
//! case runs once, except the few that would take seconds.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use scmmgpt_kernels::Result;
use scmmgpt_kernels::runtime::{Device, Float, bf16};
use scmmgpt_kernels::testing::{Case, Passes, Storage};

/// Operations a byte above which a case is bound by arithmetic.
const COMPUTE_BOUND: usize = 8;

/// Cases with more operations than this are left out when they are only tried.
const LARGEST_TRIAL: usize = 1 << 34;

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Forward,
    Backward,
}

/// One kernel over one device.
struct Suite<'a> {
    criterion: &'a mut Criterion,
    device: &'a Device,
    kernel: &'a str,
}

impl Suite<'_> {
    /// Times both directions of a case in one element type, over one set of tensors that is made when the first of them is wanted.
    fn case<T: Float>(&mut self, case: &Case, passes: &Passes<T>) {
        let mut storage = None;
        self.time(case, passes, &mut storage, Direction::Forward);
        if case.differentiable {
            self.time(case, passes, &mut storage, Direction::Backward);
        }
    }

    fn time<T: Float>(&mut self, case: &Case, passes: &Passes<T>, storage: &mut Option<Storage<T>>, direction: Direction) {
        let mut group = self.criterion.benchmark_group(self.kernel);
        group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        if let Some(throughput) = throughput(case, size_of::<T>(), direction) {
            group.throughput(throughput);
        }
        let (name, pass) = match direction {
            Direction::Forward => ("forward", &passes.forward),
            Direction::Backward => ("backward", &passes.backward),
        };
        let device = self.device;
        group.bench_function(BenchmarkId::new(format!("{name}_{}", T::NAME), &case.name), |bencher| {
            let Storage { stream, tensors, .. } = storage.get_or_insert_with(|| expect(case, prepare(device, case, passes)));
            bencher.iter_custom(|repeats| {
                let run = || {
                    let start = Instant::now();
                    (0..repeats).try_for_each(|_| pass(stream, tensors))?;
                    Ok(start.elapsed())
                };
                expect(case, device.enter(run))
            });
        });
        group.finish();
    }
}

/// Tensors of a case, with what backward needs from forward.
fn prepare<T: Float>(device: &Device, case: &Case, passes: &Passes<T>) -> Result<Storage<T>> {
    let storage = Storage::new(device, case, 0)?;
    if case.differentiable {
        (passes.forward)(&storage.stream, &storage.tensors)?;
    }
    Ok(storage)
}

/// What a case that is bound by arithmetic does in operations, and one that is bound by memory in bytes of this element.
fn throughput(case: &Case, element: usize, direction: Direction) -> Option<Throughput> {
    let (flops, bytes) = (case.flops as u64, (case.bytes * element / size_of::<f32>()) as u64);
    let bound_by_arithmetic = case.flops > COMPUTE_BOUND * case.bytes;
    match direction {
        Direction::Forward if bound_by_arithmetic => Some(Throughput::ElementsAndBytes { elements: flops, bytes }),
        Direction::Forward => (bytes > 0).then_some(Throughput::BytesDecimal(bytes)),
        Direction::Backward => bound_by_arithmetic.then_some(Throughput::Elements(2 * flops)),
    }
}

#[expect(clippy::panic, reason = "criterion's closures return nothing: a case that fails ends the bench")]
fn expect<R>(case: &Case, result: Result<R>) -> R {
    result.unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

fn main() -> Result<()> {
    let flag = |name: &str| std::env::args().any(|argument| argument == name);
    let is_trial = flag("--test") || !flag("--bench");
    let threads = std::env::var("THREADS").ok().and_then(|threads| threads.parse().ok()).unwrap_or(0);
    let device = Device::cpu(threads)?;
    if !is_trial {
        println!("{}", device.describe());
    }
    let mut criterion = Criterion::default().configure_from_args();
    for (kernel, cases) in scmmgpt_kernels::registry() {
        let mut suite = Suite { criterion: &mut criterion, device: &device, kernel };
        for case in cases.iter().filter(|case| case.timed && !(is_trial && case.flops > LARGEST_TRIAL)) {
            suite.case(case, &case.f32);
            if kernel == "gemm" {
                suite.case::<bf16>(case, &case.bf16);
            }
        }
    }
    criterion.final_summary();
    Ok(())
}
