//! A layer's matrix product.

use anyhow::Result;
use scmmgpt_kernels::gemm::{Epilogue, Forward, Layout, forward};
use scmmgpt_kernels::runtime::{Arena, Class, Device, Float, Plan, Stream};

use super::{Workload, digest, in_a_row, uniform, upload};

/// `c = a b^T + bias`.
pub(super) struct Gemm<T: Float> {
    stream: Stream,
    arguments: Forward<T>,
    sizes: [usize; 3],
    _arena: Arena,
}

impl<T: Float> Gemm<T> {
    /// m, n and k.
    pub(super) fn new(device: &Device, sizes: [usize; 3]) -> Result<Self> {
        let [m, n, k] = sizes;
        let mut plan = Plan::new(Class::Activations);
        let (c, a, b, bias) = (plan.tensor("c", [m, n]), plan.tensor("a", [m, k]), plan.tensor("b", [n, k]), plan.tensor("bias", [n]));
        let stream = Stream::new(device, plan.scratch_bytes())?;
        let arena = Arena::allocate(device, plan)?;
        upload(&stream, a, &uniform(1, m * k, 1.0))?;
        upload(&stream, b, &uniform(2, n * k, 1.0))?;
        upload(&stream, bias, &uniform(3, n, 1.0))?;
        let arguments = Forward { c, a, b, layout: Layout::NT, epilogue: Epilogue::Bias { bias } };
        Ok(Gemm { stream, arguments, sizes, _arena: arena })
    }
}

impl<T: Float> Workload for Gemm<T> {
    fn flops(&self) -> f64 {
        2.0 * self.sizes.iter().map(|&size| size as f64).product::<f64>()
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        Ok(digest(&self.stream.fetch(self.arguments.c)?))
    }

    fn run(&mut self) -> Result<f64> {
        let (stream, arguments) = (&self.stream, self.arguments);
        in_a_row(stream, || Ok(forward(stream, arguments)?))
    }
}
