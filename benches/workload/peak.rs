//! Ceilings: what arithmetic on registers alone and reading memory alone reach; on a GPU, copying its memory.

use std::time::Instant;

use anyhow::{Context, Result};
use scmmgpt_kernels::gemm::fma_peak;
use scmmgpt_kernels::runtime::{Arena, Class, Device, Plan, Stream, Tensor};
use scmmgpt_kernels::vectorize;

use super::{Workload, in_a_row};

/// See [`fma_peak`]; every thread by itself, at the same time.
pub(super) struct Arithmetic {
    pub(super) threads: usize,
}

impl Workload for Arithmetic {
    fn flops(&self) -> f64 {
        1e9
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        Ok(Vec::new())
    }

    fn run(&mut self) -> Result<f64> {
        let rate = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(fma_peak)).collect();
            threads.into_iter().map(|thread| thread.join().ok().flatten()).sum::<Option<f64>>()
        });
        Ok(self.flops() / rate.context("peak_f32: not known without AVX2")?)
    }
}

/// Bytes that are read, on a GPU read and written: far more than caches hold.
const BYTES: usize = 1 << 29;

/// Sums of one memory, which lies where weights lie, each thread its own part of it. A GPU copies the first half to the second.
pub(super) struct Memory {
    stream: Stream,
    words: Tensor<u32>,
    _arena: Arena,
}

impl Memory {
    pub(super) fn new(device: &Device) -> Result<Self> {
        let mut plan = Plan::new(Class::Weights);
        let words = plan.tensor("words", [2, BYTES / 2 / size_of::<u32>()]);
        let arena = Arena::allocate(device, plan)?;
        Ok(Memory { stream: Stream::new(device, 0)?, words, _arena: arena })
    }
}

impl Workload for Memory {
    fn flops(&self) -> f64 {
        0.0
    }

    fn bytes(&self) -> Option<f64> {
        Some(BYTES as f64)
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        Ok(Vec::new())
    }

    fn run(&mut self) -> Result<f64> {
        if self.stream.device().is_cuda() {
            let [first, second] = [0, 1].map(|half| self.words.row_range(half, 1));
            return in_a_row(&self.stream, || Ok(self.stream.copy(second, first)?));
        }
        let access = self.stream.access();
        let words = access.read(self.words);
        let part = words.len().div_ceil(self.stream.device().threads());
        let start = Instant::now();
        let total = std::thread::scope(|scope| {
            let parts: Vec<_> = words.chunks(part).map(|part| scope.spawn(move || sum(part))).collect();
            parts.into_iter().filter_map(|part| part.join().ok()).fold(0, u32::wrapping_add)
        });
        std::hint::black_box(total);
        Ok(start.elapsed().as_secs_f64())
    }
}

vectorize! {
    fn sum(words: &[u32]) -> u32 {
        let mut sums = [0u32; 128];
        for block in words.chunks_exact(128) {
            for (sum, word) in sums.iter_mut().zip(block) {
                *sum = sum.wrapping_add(*word);
            }
        }
        sums.into_iter().fold(0, u32::wrapping_add)
    }
}
